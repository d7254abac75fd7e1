"""The requests and responses of one connection to an admin server, one after the other: bytes in, bytes out.

The size of a request's head is bounded. A request's body is not read. It does no I/O, so the event loop and threads
serve the same HTTP.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import h11

from authz_service.core.errors import BadMessage
from authz_service.core.http1_head import HeadBuffer

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_BYTES: Final = 1 << 13
MAX_HEAD_LINES: Final = 100


class AdminResponse(NamedTuple):
    """A response, complete but for the headers that depend on the connection."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


class AdminExchange:
    """The requests that one connection has received and not answered yet."""

    def __init__(self) -> None:
        self._heads = HeadBuffer(MAX_HEAD_BYTES, MAX_HEAD_LINES)
        self._h11 = h11.Connection(h11.SERVER)
        self._send_body = True
        self.is_grpc = False  # whether the request is a gRPC client's

    @property
    def has_data(self) -> bool:
        """Whether a part of the next request has arrived."""
        return bool(self._heads)

    def begin(self) -> None:
        """Expect another request."""
        self._h11 = h11.Connection(h11.SERVER)
        self._send_body = True

    def feed(self, data: bytes) -> None:
        """Append what the client sent."""
        self._heads.feed(data)

    def take_head(self) -> bytes | None:
        """The head of the next request; None while it is incomplete.

        Raises:
            BadMessage: when it is too large or contains forbidden bytes.
        """
        return self._heads.take()

    def parse(self, head: bytes) -> h11.Request:
        """The request with this head.

        Raises:
            BadMessage: when it is of another version of HTTP.
            h11.RemoteProtocolError: when it is not an HTTP request.
        """
        self._h11.receive_data(head)
        request = self._h11.next_event()
        self.is_grpc = isinstance(request, h11.Request) and _is_grpc(request)
        if not isinstance(request, h11.Request) or request.http_version not in {b"1.1", b"1.0"}:
            raise BadMessage("is not HTTP/1.1")
        self._send_body = request.method != b"HEAD"
        self._h11.next_event()  # the end of the request, if it has no body
        return request

    def encode(self, response: AdminResponse) -> bytes:
        """The bytes of the response to the current request, or to one that could not be read."""
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),  # nothing sets a locale for times
            "Cache-Control": "no-store",
            **response.headers,
            **({} if self._h11.their_state is h11.DONE else {"Connection": "close"}),
        }
        head = h11.Response(
            status_code=response.status,
            reason=HTTPStatus(response.status).phrase.encode(),
            headers=list(headers.items()),
        )
        body = [h11.Data(data=response.body)] if self._send_body else []
        return b"".join(self._h11.send(event) or b"" for event in (head, *body, h11.EndOfMessage()))

    @property
    def is_open(self) -> bool:
        """Whether another request may follow the response: not after one with a body, or one that was not read."""
        return self._h11.our_state is h11.DONE is self._h11.their_state


def _is_grpc(request: h11.Request) -> bool:
    """Whether it begins HTTP/2's preface, or is a gRPC call over HTTP/1.1."""
    return request.method == b"PRI" or (b"content-type", b"application/grpc") in list(request.headers)
