"""The three pages of an admin server, and its errors: problem documents (RFC 9457) with the status and nothing else."""

from __future__ import annotations

import json
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from authz_service.admin.exchange import AdminResponse
from authz_service.core.connection_failure import ConnectionFailure
from authz_service.core.errors import BadMessage
from authz_service.core.headers import combined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import h11

    from authz_service.admin.exchange import AdminExchange
    from authz_service.telemetry.connection_log import FailureLog


class Page(Enum):
    """A page, by its path."""

    METRICS = "/metrics"
    HEALTH = "/healthz"
    READINESS = "/readyz"


_PAGES: Final = {page.value: page for page in Page}
_METHODS = (b"GET", b"HEAD")
_MAX_SHARE: Final = 0.1  # of the time: rendering the metrics is expensive, so scrapes in a loop must wait
_MAX_PAUSE: Final = 1.0  # seconds between two renderings


class Exposed(Protocol):
    """The metrics of one process or of several."""

    def exposition(self, *, openmetrics: bool) -> Iterator[str]:
        """All metrics, in pieces that take little time each."""


def none() -> Sequence[str]:
    """Nothing is missing."""
    return ()


def page_of(request: h11.Request) -> Page | AdminResponse:
    """The requested page, or the response to a request for none of them."""
    target = request.target.decode("ascii")
    if not target.startswith("/"):  # the absolute form, as sent to a proxy (RFC 9112 section 3.2.2)
        target = "/" + target.partition("://")[2].partition("/")[2]
    page = _PAGES.get(target.partition("?")[0])
    if page is None:
        return problem(HTTPStatus.NOT_FOUND)
    return page if request.method in _METHODS else problem(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET,HEAD")


def accept_of(request: h11.Request) -> str:
    """The Accept header of a request."""
    headers = combined((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
    return headers.get("accept", "")


def health() -> AdminResponse:
    """The response of a process that lives."""
    return _json(HTTPStatus.OK, {"status": "ok"})


def readiness(missing: Callable[[], Sequence[str]], also_missing: Callable[[], Sequence[str]]) -> AdminResponse:
    """What is missing, of which only the first kind affects readiness."""
    required = missing()
    status = HTTPStatus.SERVICE_UNAVAILABLE if required else HTTPStatus.OK
    return _json(status, {"ready": not required, "missing": [*required, *also_missing()]})


def pause_after(rendering: float) -> float:
    """Seconds to wait after a rendering of the metrics that took so many seconds, before the next one."""
    return min(rendering * (1 / _MAX_SHARE - 1), _MAX_PAUSE)


def problem(status: int, **headers: str) -> AdminResponse:
    """An error."""
    value = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status)}
    return _json(status, value, "application/problem+json", **headers)


def refusal(error: BadMessage | h11.RemoteProtocolError) -> AdminResponse:
    """The response to a request that could not be read."""
    if not isinstance(error, BadMessage):
        return problem(error.error_status_hint)
    too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return problem(too_large if error.too_large else HTTPStatus.BAD_REQUEST)


def record_grpc(exchange: AdminExchange, protocol: str, peer: str, failures: FailureLog) -> None:
    """Record a request of a gRPC client, which has the wrong port."""
    if exchange.is_grpc:
        failures.failed(ConnectionFailure.GRPC, f"{protocol} on the admin port", peer)


def _json(status: int, value: object, media_type: str = "application/json", **headers: str) -> AdminResponse:
    return AdminResponse(status, f"{media_type}; charset=utf-8", json.dumps(value).encode(), headers)
