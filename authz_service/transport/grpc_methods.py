"""The gRPC methods that the asyncio server serves: Check, health and reflection.

Invariants: a Check that can be decided immediately is answered inside the callback that read it: no task, no other turn
of the event loop. Every call to Check is answered by a CheckResponse, whatever is wrong with the request. An exception
in one call does not affect others on its connection.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from authz_service.core.decision import INTERNAL_ERROR
from authz_service.transport import health
from authz_service.transport.ext_authz import codec
from authz_service.transport.health import ServingStatus
from authz_service.transport.http2.grpc_framing import Status
from authz_service.transport.protobuf_wire import InvalidMessageError
from authz_service.transport.services import REFLECTION_SERVICES, SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from authz_service.core.decision import Deny
    from authz_service.transport.http2.service import Unserved
    from authz_service.transport.http2.stream import Stream
    from authz_service.transport.reflection import Reflection

    # The CheckResponse, or what returns it later.
    Check = Callable[[bytes, float | None, str], bytes | Coroutine[None, None, bytes]]

_CHECK: Final = f"/{SERVICE}/Check".encode()
_SHUTTING_DOWN = "shutting down"
_OK = 200


class GrpcMethods:
    """Serves the requests of every connection."""

    def __init__(self, check: Check, refuse: Callable[[Deny], bytes], max_message_bytes: Callable[[], int]) -> None:
        self._check = check
        self._refuse = refuse
        self._max_message_bytes = max_message_bytes
        self._serving = False
        self._watchers: dict[Stream, bool] = {}  # and whether they watch readiness
        self.tasks: set[asyncio.Task[bytes]] = set()
        self.stopped = False
        self._logger = logging.getLogger("authz.transport")
        self._reflection: Reflection | None = None  # until the first call
        self.streaming_paths = frozenset(f"/{name}/ServerReflectionInfo".encode() for name in REFLECTION_SERVICES)
        self._methods: dict[bytes, Callable[[Stream, bytes], None]] = {
            **dict.fromkeys(self.streaming_paths, self._serve_reflection),
            _CHECK: self._serve_check,
            health.CHECK_PATH: self._serve_health,
            health.WATCH_PATH: self._serve_watch,
        }

    @property
    def max_message_bytes(self) -> int:
        """As configured now."""
        return self._max_message_bytes()

    def serve(self, stream: Stream, message: bytes) -> None:
        """Call the method of the request's path."""
        headers = stream.headers
        method = self._methods.get(headers.path)
        if headers.http_status != _OK and headers.path != _CHECK:
            stream.refuse_http()
        elif method is None:
            stream.refuse(Status.UNIMPLEMENTED, "unknown method")
        else:
            try:
                method(stream, message)
            except InvalidMessageError as error:  # of health and reflection
                stream.refuse(Status.INTERNAL, str(error))
            except Exception as error:  # noqa: BLE001 - it must not close the connection, which other calls share
                self._fail(stream, error)

    def denial(self, stream: Stream, why: Unserved) -> bytes | None:
        """A CheckResponse for a call to Check, and for a request whose path is unknown."""
        if stream.headers.path and stream.headers.path != _CHECK:
            return None
        return self._refuse(codec.deny_overloaded(why.cause) if why.temporary else codec.deny_malformed(why.cause))

    def _fail(self, stream: Stream, error: BaseException) -> None:
        self._logger.error("serving failed", exc_info=error)
        if stream.headers.path == _CHECK:
            stream.answer(self._refuse(INTERNAL_ERROR))
        else:
            stream.refuse(Status.INTERNAL, "internal error")

    # Check.

    def _serve_check(self, stream: Stream, message: bytes) -> None:
        response = self._check(message, stream.headers.timeout, stream.headers.traceparent)
        if isinstance(response, bytes):
            stream.answer(response)
        else:
            task = asyncio.create_task(response)
            self.tasks.add(task)
            task.add_done_callback(partial(self._answer_later, stream))
            stream.on_cancel = task.cancel

    def _answer_later(self, stream: Stream, task: asyncio.Task[bytes]) -> None:
        self.tasks.discard(task)
        if not stream.open:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not report it
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            stream.answer(task.result())
        else:
            self._fail(stream, error)

    # Reflection.

    def _serve_reflection(self, stream: Stream, message: bytes) -> None:
        if self._reflection is None:
            from authz_service.transport.reflection import Reflection

            self._reflection = Reflection()
        response = self._reflection.answer(message)
        if stream.remote_closed:
            stream.answer(response)
        else:
            stream.send(response)

    # Health (grpc.health.v1).

    def set_serving(self, *, serving: bool) -> None:
        """Change the status, and send it to those who watch."""
        changed, self._serving = serving != self._serving, serving
        if changed:
            for stream in [stream for stream, readiness in self._watchers.items() if readiness]:
                stream.send(health.response(self._status("")))

    def stop(self) -> None:
        """End every watch."""
        self.stopped = True
        for stream in list(self._watchers):
            stream.refuse(Status.UNAVAILABLE, _SHUTTING_DOWN)
        self._watchers.clear()

    def _serve_health(self, stream: Stream, message: bytes) -> None:
        status = self._status(health.service_in(message))
        if status is ServingStatus.SERVICE_UNKNOWN:
            stream.refuse(Status.NOT_FOUND, "unknown service")
        else:
            stream.answer(health.response(status))

    def _serve_watch(self, stream: Stream, message: bytes) -> None:
        service = health.service_in(message)
        stream.send(health.response(self._status(service)))
        if self.stopped:
            stream.refuse(Status.UNAVAILABLE, _SHUTTING_DOWN)
        else:
            self._watchers[stream] = service in health.READINESS
            stream.on_cancel = partial(self._watchers.pop, stream)

    def _status(self, service: str) -> ServingStatus:
        return health.status_of(service, serving=self._serving)
