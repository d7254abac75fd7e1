"""The server on grpcio's asyncio API.

It sets no limit that grpcio would enforce with a gRPC error, since that would let the request through wherever Envoy
runs with ``failure_mode_allow: true``; limits are enforced here and in the servicer, by denials.
docs/understand/memory.md lists the calls that grpcio refuses itself ("Two transports").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from typing import TYPE_CHECKING

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # channelz; the stubs lack it

from authz_service.core.decision import INTERNAL_ERROR
from authz_service.core.errors import StartFailed
from authz_service.transport import health
from authz_service.transport.addresses import exclusive_bind
from authz_service.transport.ext_authz import codec
from authz_service.transport.health import ServingStatus
from authz_service.transport.http2.compression import MAX_HEADER_LIST
from authz_service.transport.http2.fields import OVERHEAD
from authz_service.transport.http2.service import HEADERS_TOO_LONG, NOT_ONE_MESSAGE
from authz_service.transport.protobuf_wire import InvalidMessageError
from authz_service.transport.reflection import Reflection
from authz_service.transport.services import HEALTH_SERVICE, REFLECTION_SERVICES, SERVICE
from authz_service.transport.tls.certificates import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from authz_service.config.server import Tls
    from authz_service.core.decision import Deny
    from authz_service.transport.addresses import SharedAddress
    from authz_service.transport.tls.certificates import Certificates

    AsyncCheck = Callable[[bytes, float | None, str], Awaitable[bytes]]
    _Context = grpc.aio.ServicerContext[bytes, bytes]

# Larger than any request that Envoy can send and max_request_bytes can allow; beyond it, grpcio refuses the call.
_MAX_MESSAGE_BYTES = 256 << 20
_MAX_METADATA_BYTES = 16 << 20  # larger than the 8 MiB of headers that Envoy can be configured to accept
_OPTIONS = (
    ("grpc.enable_channelz", 1),  # the default; see open_connections
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # An Envoy that traces copies the client's tracestate into the call; grpcio's defaults (8 and 16 KiB) refuse it.
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),  # Envoy may ping idle connections, as often as it likes
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)


def open_connections() -> float:
    """The connections of the process's server; those within a TLS handshake are not known. NaN if none are."""
    try:
        servers = json.loads(cygrpc.channelz_get_servers(0)).get("server", ())
        return sum(_sockets_of(int(each["ref"]["serverId"])) for each in servers)
    except (AttributeError, KeyError, ValueError):  # another version of grpcio, which promises nothing here
        return math.nan


def _sockets_of(server: int) -> int:
    """How many connections this server has."""
    count, next_socket, end = 0, 0, False
    while not end:
        page = json.loads(cygrpc.channelz_get_server_sockets(server, next_socket, 0))
        sockets = [int(each["socketId"]) for each in page.get("socketRef", ())]
        count += len(sockets)
        next_socket = max(sockets, default=0) + 1
        end = page.get("end", False) or not sockets
    return count


class GrpcioServer:
    """Serves Check, health and reflection on one address."""

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        check: AsyncCheck,
        shared: SharedAddress | None = None,
        *,
        refuse: Callable[[Deny], bytes],
    ) -> None:
        """``address`` is ``host:port``, ``[v6]:port`` or ``unix:/path``.

        ``refuse`` encodes the denial of a call that does not reach ``check``. ``shared`` is how other processes serve
        the same address; it cannot be a unix socket.

        Raises:
            StartFailed: if the certificates cannot be used.
        """
        self._address = address if shared is None else shared.address
        self._shared = shared is not None
        self._certificates = CertificateFiles(tls) if tls else None
        self._check = check
        self._refuse = refuse
        self._health = _Health()
        self._server: grpc.aio.Server | None = None
        self._logger = logging.getLogger("authz.transport")
        self.port = 0

    @property
    def certificates(self) -> CertificateFiles | None:
        """The certificates of TLS, if it is configured."""
        return self._certificates

    async def start(self) -> None:
        """Listen; health is NOT_SERVING until ``set_serving``.

        Raises:
            StartFailed: if the address cannot be bound.
        """
        # Unless they were started together, a second server on the port is an error, not a share of the traffic.
        server = grpc.aio.server(options=(*_OPTIONS, ("grpc.so_reuseport", int(self._shared))))
        server.add_generic_rpc_handlers((self._handler(), self._health.handler(), *_reflection_handlers()))
        try:
            with contextlib.nullcontext() if self._shared else exclusive_bind(self._address):
                self.port = self._bind(server)
        except RuntimeError:  # which does not say why
            raise StartFailed(f"cannot listen on {self._address}: in use, or not allowed") from None
        await server.start()
        self._server = server

    async def set_serving(self, *, serving: bool) -> None:
        """Change the health status."""
        self._health.set_serving(serving=serving)

    async def stop(self, grace: float) -> None:
        """Accept no new calls, and give those in flight ``grace`` seconds."""
        if self._server is not None:
            self._health.stop()
            await self._server.stop(grace)
            self._server = None

    def _handler(self) -> grpc.GenericRpcHandler:
        # Declared as client-streaming: grpcio never answers a call to a unary method that ends without a message.
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": method})

    async def _serve(self, messages: AsyncIterator[bytes], context: _Context) -> bytes:
        try:
            data = await _only_message(messages)
            if data is None:
                return self._refuse(codec.deny_malformed(NOT_ONE_MESSAGE.cause))
            if _header_list_size(context) > MAX_HEADER_LIST:
                return self._refuse(codec.deny_malformed(HEADERS_TOO_LONG.cause))
            return await self._check(data, context.time_remaining(), _traceparent(context))
        except Exception:
            self._logger.exception("serving failed")
            return self._refuse(INTERNAL_ERROR)

    def _bind(self, server: grpc.aio.Server) -> int:
        if self._certificates is None:
            return server.add_insecure_port(self._address)
        return server.add_secure_port(self._address, _credentials(self._certificates))


class _Health:
    """The health service."""

    def __init__(self) -> None:
        self._serving = False
        self._stopped = False
        self._changed = asyncio.Event()  # another one after each change

    def set_serving(self, *, serving: bool) -> None:
        """Change the status, and send it to those who watch."""
        self._serving = serving
        self._wake()

    def stop(self) -> None:
        """End every watch."""
        self._stopped = True
        self._wake()

    def handler(self) -> grpc.GenericRpcHandler:
        """What grpcio calls."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check(self, request: bytes, context: _Context) -> bytes:
        status = await self._status(request, context)
        if status is ServingStatus.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health.response(status)

    async def _watch(self, request: bytes, context: _Context) -> AsyncIterator[bytes]:
        sent = None
        while not self._stopped:
            changed, status = self._changed, await self._status(request, context)
            if status is not sent:
                yield health.response(status)
            sent = status
            await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")

    async def _status(self, request: bytes, context: _Context) -> ServingStatus:
        try:
            return health.status_of(health.service_in(request), serving=self._serving)
        except InvalidMessageError as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
            raise


def _reflection_handlers() -> Iterator[grpc.GenericRpcHandler]:
    reflection = Reflection()

    async def serve(requests: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
        async for request in requests:
            try:
                yield reflection.answer(request)
            except InvalidMessageError as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(serve)
    for name in REFLECTION_SERVICES:
        yield grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})


async def _only_message(messages: AsyncIterator[bytes]) -> bytes | None:
    """The message, if there is exactly one."""
    message = await anext(messages, None)
    return message if await anext(messages, None) is None else None


def _header_list_size(context: _Context) -> int:
    """As RFC 9113 section 6.5.2 defines it."""
    return sum(len(name) + len(value) + OVERHEAD for name, value in context.invocation_metadata() or ())


def _traceparent(context: _Context) -> str:
    """The caller's span; empty if there is none. Of repeated ones, grpcio may keep one."""
    return next((str(value) for name, value in context.invocation_metadata() or () if name == "traceparent"), "")


def _credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Credentials that look for changed files at each handshake."""
    current = files.current

    def changed() -> grpc.ServerCertificateConfiguration | None:
        certificates = files.changed()
        return _configuration(certificates) if certificates else None

    # The type stubs lack None, which means no change.
    return grpc.dynamic_ssl_server_credentials(
        _configuration(current),
        changed,  # type: ignore[arg-type]
        require_client_authentication=current.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.client_ca
    )
