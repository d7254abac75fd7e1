"""One HTTP request to a provider and the response to it, without I/O.

Bounds the work and the memory that a response takes, whatever the provider sends, before h11 parses it: heads by
``HeadBuffer``; a chunked body by parsing it in small slices, since h11 takes quadratic time for a long malformed
chunk header; and everything by ``advance``, which does one small step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h11

from authz_service.core.errors import BadMessage
from authz_service.core.headers import combined
from authz_service.core.http1_head import HeadBuffer
from authz_service.http1 import MAX_READ
from authz_service.providers.content import ContentDecoder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_HEAD_BYTES: Final = 1 << 15  # of all heads of a response; content security policies and cookies can be long
MAX_HEAD_LINES: Final = 256  # of one head: h11 parses them in half a millisecond
MAX_INFORMATIONAL: Final = 8  # responses with status 1xx (RFC 9110 section 15.2), which are ignored
MAX_FRAMING: Final = 1 << 16  # bytes of a chunked body that are not content: chunk headers and trailers
MAX_CHUNK_LINE: Final = 256  # bytes; the limit for trailers as well, which are rarely used


class Headers:
    """The header fields of a response, by lower-case name."""

    def __init__(self, fields: Collection[tuple[bytes, bytes]]) -> None:
        self._fields = [(name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in fields]

    def get(self, name: str) -> str:
        """The first value; empty if there is none."""
        return next((value for each, value in self._fields if each == name), "")

    def combined(self, name: str) -> str:
        """All values as one; empty if there is none."""
        return combined(self._fields).get(name, "")

    def __contains__(self, name: str) -> bool:
        return any(each == name for each, _ in self._fields)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, and how much of the response to read."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    max_bytes: int  # of the response's content, as received and once decompressed
    body_statuses: Collection[int]  # statuses whose body is read; with any other, the connection is closed


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response; ``body`` is empty unless its status is one of the request's ``body_statuses``."""

    status: int
    headers: Headers
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get("content-type").partition(";")[0].strip().lower()

    def retry_after(self, now: float) -> float:
        """Seconds to wait before the next request; 0 if there is no Retry-After header."""
        return parse_retry_after(self.headers.get("retry-after"), now)


def parse_retry_after(value: str, now: float) -> float:
    """Retry-After in seconds (RFC 9110 section 10.2.3); 0 if it is malformed or in the past."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):  # not a date, or one that no calendar has
        return 0.0


class Exchange:
    """One request and its response. Feed it what the provider sends, and call ``advance`` until it returns False."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        # h11 gets whole heads, so an incomplete event is a chunk header or a trailer.
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_CHUNK_LINE)
        self._heads = HeadBuffer(MAX_HEAD_BYTES, MAX_HEAD_LINES)
        self._informational = 0
        self._head_bytes = 0
        self._head: h11.Response | None = None  # of the final response
        self._headers = Headers(())
        self._unparsed = bytearray()  # of the body
        self._slice_size = MAX_READ
        self._parsed_body_bytes = 0  # framing included
        self._body_is_complete = False
        self._content = ContentDecoder(request.max_bytes)
        self._at_eof = False
        self.response: HttpResponse | None = None

    def encode_request(self) -> bytes:
        """The request as it is sent.

        Raises:
            h11.LocalProtocolError: if a header is malformed. Its message quotes the header.
        """
        request = self._request
        length = {"Content-Length": str(len(request.body))} if request.body else {}
        fields = [
            (name.encode("ascii"), value.encode("utf-8", "surrogateescape"))
            for name, value in (dict(request.headers) | length).items()
        ]
        head = h11.Request(method=request.method, target=request.target, headers=fields)
        events = [head, *([h11.Data(data=request.body)] if request.body else []), h11.EndOfMessage()]
        return b"".join(self._h11.send(event) or b"" for event in events)

    @property
    def nothing_received(self) -> bool:
        """Whether the provider has sent nothing yet."""
        return not self._informational and self._head is None and not self._heads

    @property
    def connection_is_reusable(self) -> bool:
        """Whether everything that was received belongs to this response, and the connection stays open."""
        return self._h11.their_state is h11.DONE and not (self._unparsed or self._h11.trailing_data[0] or self._at_eof)

    @property
    def has_unread_data(self) -> bool:
        """Whether data arrived after what was parsed so far."""
        return bool(self._unparsed or self._heads or self._h11.trailing_data[0])

    def feed(self, data: bytes) -> None:
        """Append what the provider sent; empty data is the end of the stream."""
        if not data:
            self._at_eof = True
        elif self._head is None:
            self._heads.feed(data)
        else:
            self._unparsed += data

    def advance(self) -> bool:
        """Do one small step. False if there is none before more data arrives, or if the response is complete.

        Raises:
            BadMessage: if the response is malformed or too large.
            h11.RemoteProtocolError: if it is not HTTP/1.1. Its message quotes the response.
        """
        if self.response is not None:
            return False
        return self._parse_head() if self._head is None else self._parse_body()

    def _parse_head(self) -> bool:
        head = self._heads.take()
        if head is None:
            if self._at_eof:
                raise BadMessage("ended before it was complete" if self._heads else "did not come")
            return False
        self._head_bytes += len(head)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadMessage(f"has a header section of more than {MAX_HEAD_BYTES} bytes", too_large=True)
        self._h11.receive_data(head)
        match self._h11.next_event():
            case h11.Response() as final if final.http_version in {b"1.1", b"1.0"}:
                self._begin_body(final)
            case h11.InformationalResponse():
                self._informational += 1
                if self._informational > MAX_INFORMATIONAL:
                    raise BadMessage(f"begins with more than {MAX_INFORMATIONAL} informational responses")
            case _:
                raise BadMessage("is not HTTP/1.1")
        return True

    def _begin_body(self, head: h11.Response) -> None:
        self._head = head
        self._headers = Headers(list(head.headers))
        self._unparsed += self._heads.take_remaining()
        if head.status_code in self._request.body_statuses:
            if "transfer-encoding" in self._headers:
                if "content-length" in self._headers:  # an attempt at response splitting (RFC 9112 section 6.1)
                    raise BadMessage("has both Content-Length and Transfer-Encoding")
                self._slice_size = MAX_CHUNK_LINE
            self._content.begin(self._headers)
            self._take_events()  # a response without content is complete now
        else:
            self._take_events()
            self.response = HttpResponse(head.status_code, self._headers, b"")

    def _parse_body(self) -> bool:
        if self._content.can_decompress:
            self._content.decompress()
        elif self._body_is_complete:
            assert self._head is not None  # noqa: S101 - for the type checker
            self.response = HttpResponse(self._head.status_code, self._headers, self._content.finish())
        elif self._unparsed:
            data = bytes(self._unparsed[: self._slice_size])
            del self._unparsed[: self._slice_size]
            self._parse_slice(data)
        elif self._at_eof:
            if "transfer-encoding" in self._headers or "content-length" in self._headers:
                raise BadMessage("ended before it was complete")
            self._parse_slice(b"")
        else:
            return False
        return True

    def _parse_slice(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._parsed_body_bytes += len(data)
        self._take_events()
        if self._parsed_body_bytes - self._content.received > MAX_FRAMING:
            raise BadMessage(f"has more than {MAX_FRAMING} bytes of chunk headers and trailers", too_large=True)

    def _take_events(self) -> None:
        while True:
            match self._h11.next_event():
                case h11.Data() as data:
                    self._content.feed(data.data)
                case h11.EndOfMessage():
                    self._body_is_complete = True
                    return
                case _:
                    return
