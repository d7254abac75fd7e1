"""Over sockets, with the h2 library as client: every call to Check is answered by an explicit CheckResponse.

With grpcio, this holds for what a client can make a proxy send. docs/understand/memory.md lists what grpcio refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from authz_service.core.decision import Allow
from authz_service.core.reasons import Reason
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.metrics import Metrics
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.servicer import Servicer
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.services import SERVICE
from support.active import active_config
from support.h2_client import Response, connected
from support.log_lines import lines, written
from support.samples import sample_value
from transport.http2.client import framed
from transport.http2.test_every_call import FIELDS
from transport.wire import EPOCH, Answer, check_request, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Fields = list[tuple[bytes, bytes]]

CHECK = f"/{SERVICE}/Check".encode()
HEAD: Fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", CHECK), (b":authority", b"authz")]
GRPC: Fields = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
MESSAGE = framed(check_request())
LIMIT = 10_000  # octets of a message


class Served:
    """A server that allows every request that it can decode."""

    def __init__(self, transport: str) -> None:
        class Always:
            def begin(self, *_arguments: object) -> Allow:
                return Allow(Reason.PUBLIC, "r")

        self.metrics = Metrics(transport=transport)
        active = active_config(Always(), DecisionLog("denied"), max_request_bytes=LIMIT)
        servicer = Servicer(active, metrics=self.metrics, clock=lambda: EPOCH, timer=lambda: 0.0)
        self.server: AsyncioServer | GrpcioServer
        if transport == "grpcio":
            self.server = GrpcioServer("127.0.0.1:0", None, servicer.check, refuse=servicer.refuse)
        else:
            self.server = AsyncioServer(
                "127.0.0.1:0",
                None,
                servicer.answer,
                lambda: LIMIT,
                refuse=servicer.refuse,
                metrics=self.metrics,
            )

    def counted(self, reason: str) -> float | None:
        labels = {"decision": "deny", "reason": reason, "rule": "-", "mode": "enforce"}
        return sample_value(self.metrics, "authz_checks_total", labels)


@contextlib.asynccontextmanager
async def serving(transport: str = "asyncio") -> AsyncIterator[Served]:
    served = Served(transport)
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.stop(0)


def read_response(response: Response) -> Answer:
    """Decode a CheckResponse, which must come with the gRPC status OK."""
    assert (response.status, response.grpc_status, response.ended) == (200, b"0", True)
    size = int.from_bytes(response.body[1:5], "big")
    assert len(response.body) == size + 5
    return read(response.body[5:])


VALUES = [b" a=b", b"a=b ", b"\ta=b", b" ", b"\t", b"", b"a\0b", b"a\r\nb", b"a\x01b", b"a=\xff\x80", b"x" * 60_000]


@pytest.mark.parametrize("transport", ["asyncio", "grpcio"])
@pytest.mark.parametrize("name", [b"tracestate", b"baggage"])
async def test_values_that_a_proxy_copies_from_its_client_change_nothing(transport: str, name: bytes) -> None:
    async with serving(transport) as served, connected(served.server.port) as client:
        for value in VALUES:
            assert read_response(await client.request([*HEAD, *GRPC, (name, value)], MESSAGE)).allowed


ODD: dict[str, Fields] = {
    "an upper-case name": [*HEAD, *GRPC, (b"X-A", b"b")],
    "an empty name": [*HEAD, *GRPC, (b"", b"b")],
    "a name with a space": [*HEAD, *GRPC, (b"x a", b"b")],
    "a name with a high octet": [*HEAD, *GRPC, (b"x\xff", b"b")],
    "connection": [*HEAD, *GRPC, (b"connection", b"close")],
    "keep-alive": [*HEAD, *GRPC, (b"keep-alive", b"1")],
    "transfer-encoding": [*HEAD, *GRPC, (b"transfer-encoding", b"chunked")],
    "upgrade": [*HEAD, *GRPC, (b"upgrade", b"websocket")],
    "a te other than trailers": [*HEAD, (b"te", b"gzip"), GRPC[1]],
    "no te": [*HEAD, GRPC[1]],
    "no content-type": [*HEAD, GRPC[0]],
    "another content-type": [*HEAD, GRPC[0], (b"content-type", b"text/plain")],
    "two content-types": [*HEAD, *GRPC, (b"content-type", b"text/plain")],
    "no authority": [*HEAD[:3], *GRPC],
    "an invalid timeout": [*HEAD, *GRPC, (b"grpc-timeout", b"soon")],
    "a timeout of 0": [*HEAD, *GRPC, (b"grpc-timeout", b"0n")],
    "an unknown encoding": [*HEAD, *GRPC, (b"grpc-encoding", b"zzz")],
    "an invalid binary field": [*HEAD, *GRPC, (b"x-bin", b"!!!")],
    "a status": [*HEAD, *GRPC, (b"grpc-status", b"x")],
    "five hundred fields": [*HEAD, *GRPC, *((b"x-%d" % number, b"y") for number in range(500))],
}


@pytest.mark.parametrize("name", ODD)
async def test_an_unused_field_changes_nothing(name: str) -> None:
    async with serving() as served, connected(served.server.port) as client:
        for _ in range(2):
            assert read_response(await client.request(ODD[name], MESSAGE)).allowed


MALFORMED: dict[str, tuple[Fields, bytes, Fields | None]] = {
    "no method": ([*HEAD[1:], *GRPC], MESSAGE, None),
    "no scheme": ([HEAD[0], *HEAD[2:], *GRPC], MESSAGE, None),
    "no path": ([*HEAD[:2], HEAD[3], *GRPC], MESSAGE, None),
    "two paths": ([*HEAD, (b":path", b"/else"), *GRPC], MESSAGE, None),
    "a path twice": ([*HEAD, HEAD[2], *GRPC], MESSAGE, None),
    "a pseudo-header field after a regular field": ([*HEAD[:3], *GRPC, HEAD[3]], MESSAGE, None),
    "an unknown pseudo-header field": ([*HEAD, (b":protocol", b"x"), *GRPC], MESSAGE, None),
    "GET": ([(b":method", b"GET"), *HEAD[1:], *GRPC], MESSAGE, None),
    "a wrong content-length": ([*HEAD, *GRPC, (b"content-length", b"7")], MESSAGE, None),
    "an empty content-length": ([*HEAD, *GRPC, (b"content-length", b"")], MESSAGE, None),
    "a list of 200 KB": ([*HEAD, *GRPC, *[(b"x", b"y" * 50_000)] * 4], MESSAGE, None),
    "no message": ([*HEAD, *GRPC], b"", None),
    "less than a message": ([*HEAD, *GRPC], MESSAGE[:-1], None),
    "more than a message": ([*HEAD, *GRPC], MESSAGE + b"x", None),
    "two messages": ([*HEAD, *GRPC], MESSAGE * 2, None),
    "not a CheckRequest": ([*HEAD, *GRPC], framed(b"\xff" * 50), None),
    "a compressed message": ([*HEAD, *GRPC, (b"grpc-encoding", b"gzip")], framed(b"x", 1), None),
    "a message flagged as compressed": ([*HEAD, *GRPC], framed(b"x", 1), None),
    "an invalid flag": ([*HEAD, *GRPC], framed(b"x", 7), None),
    "a length of 4 GB": ([*HEAD, *GRPC], b"\0\xff\xff\xff\xffx", None),
    "a message that is too long": ([*HEAD, *GRPC], framed(b"x" * (LIMIT + 1)), None),
    "a message that is too long and takes several frames": ([*HEAD, *GRPC], framed(b"x" * LIMIT * 4), None),
    "trailers with a pseudo-header field": ([*HEAD, *GRPC], MESSAGE, [(b":path", b"/")]),
    "trailers with an upper-case name": ([*HEAD, *GRPC], MESSAGE, [(b"X", b"/")]),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_is_denied_logged_and_counted(name: str) -> None:
    log = written(level="info")
    headers, body, trailers = MALFORMED[name]
    async with serving() as served, connected(served.server.port) as client:
        answer = read_response(await client.request(headers, body, trailers=trailers))
        assert (answer.http_status, answer.reason) == (400, "malformed_request")
        assert read_response(await client.request([*HEAD, *GRPC], MESSAGE)).allowed
        assert served.counted("malformed_request") == 1
    (denied,) = [line for line in lines(log) if line["decision"] == "deny"]
    assert denied["cause"]


async def test_an_unknown_method_is_unimplemented_whatever_its_fields() -> None:
    async with serving() as served, connected(served.server.port) as client:
        for path in (b"/envoy.service.auth.v3.Authorization/Approve", b"/", b"/x" * 2000):
            response = await client.request(
                [*HEAD[:2], (b":path", path), HEAD[3], *GRPC, (b"tracestate", b" ")], MESSAGE
            )
            assert response.grpc_status == b"12"


@pytest.mark.parametrize("transport", ["asyncio", "grpcio"])
async def test_no_number_of_odd_or_cancelled_requests_closes_the_connection(transport: str) -> None:
    async with serving(transport) as served, connected(served.server.port) as client:
        for number in range(12_000):
            stream = client.send([*HEAD, *GRPC, (b"tracestate", b" " if number % 2 else b"a=b ")], MESSAGE)
            if number % 3 == 0:
                client.cancel(stream)
            if number % 50 == 0:
                await client.until(lambda: all(response.done for response in client.responses.values()))
                client.responses.clear()
        assert read_response(await client.request([*HEAD, *GRPC], MESSAGE)).allowed


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([(b"tracestate", b"\t")])
@given(FIELDS)
def test_a_request_is_answered_over_a_socket_whatever_fields_are_added(more: Fields) -> None:
    async def exchange() -> Any:
        async with serving() as served, connected(served.server.port) as client:
            answer = read_response(await client.request([*HEAD, *GRPC, *more], MESSAGE))
            assert read_response(await client.request([*HEAD, *GRPC], MESSAGE)).allowed
            return answer

    answer = asyncio.run(exchange())
    assert answer.allowed or answer.reason == "malformed_request"
