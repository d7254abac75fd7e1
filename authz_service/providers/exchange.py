"""One request to a provider and its answer, without I/O: octets in, octets out.

Whatever the provider sends, the work and the memory that it takes are bounded before h11 parses it: heads by
``http1.HeadBuffer``, a chunked body by handing it over in slices, since a long malformed chunk header takes h11
quadratic time, and everything by ``advance``, which does one small step at a time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h11

from authz_service.core.errors import BadMessage
from authz_service.core.headers import combined
from authz_service.http1 import MAX_READ, HeadBuffer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_HEAD_BYTES: Final = 1 << 15  # of all heads of an answer; content security policies and cookies can be long
MAX_HEAD_LINES: Final = 256  # of one head: what h11 reads in half a millisecond
MAX_INFORMATIONAL: Final = 8  # answers with a status of 1xx (RFC 9110 section 15.2), which are passed over
MAX_FRAMING: Final = 1 << 16  # bytes of a body that are no content: sizes of chunks, their extensions, trailers
MAX_CHUNK_LINE: Final = 256  # bytes; also of trailers, which nobody needs
_MAX_INFLATED = 1 << 16  # bytes that one step unpacks
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # zlib.h


class Headers:
    """Header fields of an answer, by their names in lower case."""

    def __init__(self, fields: Collection[tuple[bytes, bytes]]) -> None:
        self._fields = [(name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in fields]

    def get(self, name: str) -> str:
        """The value; the first one where there are several, empty where there is none."""
        return next((value for each, value in self._fields if each == name), "")

    def joined(self, name: str) -> str:
        """All values as one list (RFC 9110 section 5.3)."""
        return combined(self._fields).get(name, "")

    def __contains__(self, name: str) -> bool:
        return any(each == name for each, _ in self._fields)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``body`` is empty for a status of which the body was not to be read."""

    status: int
    headers: Headers
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get("content-type").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask, and how much answer to read."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    max_bytes: int  # of the answer's content, also once it is unpacked
    reads: Collection[int]  # the statuses of which the content is read; with any other one the connection ends


class Exchange:
    """``send``, then ``feed`` and ``advance`` until there is a ``response``."""

    def __init__(self, request: Request) -> None:
        self._request = request
        # Heads are handed over whole: what is incomplete can only be the header of a chunk, or trailers.
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_CHUNK_LINE)
        self._heads = HeadBuffer(MAX_HEAD_BYTES, MAX_HEAD_LINES)
        self._informational = 0
        self._head_bytes = 0
        self._octets = bytearray()  # of the body, not parsed yet
        self._slice = MAX_READ
        self._ended = False
        self._is_whole = False
        self._final: h11.Response | None = None
        self._headers = Headers(())
        self._content = _Content(request.max_bytes)
        self._body_bytes = 0  # parsed, framing included
        self.response: Response | None = None

    def send(self) -> bytes:
        """The request as it is sent.

        Raises:
            h11.LocalProtocolError: when a header holds what HTTP does not allow. Its text quotes the header.
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
    def is_untouched(self) -> bool:
        """Whether the provider has sent nothing yet."""
        return not self._informational and self._final is None and not self._heads

    @property
    def leaves_connection_clean(self) -> bool:
        """Whether the connection can be used again: all that was sent belongs to this answer."""
        return self._h11.their_state is h11.DONE and not (self._octets or self._h11.trailing_data[0] or self._ended)

    def feed(self, octets: bytes) -> None:
        """Take what the provider sent; nothing is its end."""
        if not octets:
            self._ended = True
        elif self._final is None:
            self._heads.feed(octets)
        else:
            self._octets += octets

    def advance(self) -> bool:
        """Do one step; False when there is none before more comes, or when the answer is complete.

        Raises:
            BadMessage: when the answer is none, or larger than allowed.
            h11.RemoteProtocolError: when it is not HTTP/1.1. Its text quotes the answer.
        """
        if self.response is not None:
            return False
        return self._read_head() if self._final is None else self._read_body()

    def _read_head(self) -> bool:
        head = self._heads.take()
        if head is None:
            if self._ended:
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

    def _begin_body(self, final: h11.Response) -> None:
        self._final = final
        self._headers = Headers(list(final.headers))
        self._octets += self._heads.take_remaining()
        if final.status_code in self._request.reads:
            if "transfer-encoding" in self._headers:
                if "content-length" in self._headers:  # RFC 9112 section 6.1: somebody may try to split answers
                    raise BadMessage("has both Content-Length and Transfer-Encoding")
                self._slice = MAX_CHUNK_LINE
            self._content.begin(self._headers)
            self._take_events()  # of an answer without content even the end is known by now
        else:
            self._take_events()
            self._complete()

    def _read_body(self) -> bool:
        if self._content.is_packed:
            self._content.unpack()
        elif self._is_whole:
            self._content.finish()
            self._complete()
        elif self._octets:
            octets = bytes(self._octets[: self._slice])
            del self._octets[: self._slice]
            self._hand_over(octets)
        elif self._ended:
            if "transfer-encoding" in self._headers or "content-length" in self._headers:
                raise BadMessage("ended before it was complete")
            self._hand_over(b"")
        else:
            return False
        return True

    def _hand_over(self, octets: bytes) -> None:
        self._h11.receive_data(octets)
        self._body_bytes += len(octets)
        self._take_events()
        if self._body_bytes - self._content.received > MAX_FRAMING:
            raise BadMessage(f"has more than {MAX_FRAMING} bytes of chunk headers and trailers", too_large=True)

    def _take_events(self) -> None:
        while True:
            match self._h11.next_event():
                case h11.Data() as data:
                    self._content.take(data.data)
                case h11.EndOfMessage():
                    self._is_whole = True
                    return
                case _:
                    return

    def _complete(self) -> None:
        assert self._final is not None  # noqa: S101 - for the type checker
        self.response = Response(self._final.status_code, self._headers, self._content.body())


class _Content:
    """The content of an answer, unpacked where it came packed although nobody asked for that."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._coding = ""
        self._packed = b""  # not unpacked yet
        self._unpacks_more = False  # although nothing is left of what is packed
        self._inflater: zlib._Decompress | None = None
        self.received = 0  # bytes, packed as they came

    def begin(self, headers: Headers) -> None:
        self._coding = headers.joined("content-encoding").strip().lower()
        if self._coding not in {"", "identity", *_WINDOW_BITS}:
            raise BadMessage("has a content encoding that was not asked for")
        self._require(int(headers.get("content-length") or 0))

    def take(self, octets: bytes) -> None:
        self.received += len(octets)
        self._require(self.received)
        if self._coding in _WINDOW_BITS:
            self._packed += octets
        else:
            self._body += octets

    @property
    def is_packed(self) -> bool:
        return bool(self._packed) or self._unpacks_more

    def unpack(self) -> None:
        """Unpack a little."""
        if self._inflater is None:
            # RFC 9110 section 8.4.1.2 wants zlib's format, and some servers send what is in it alone.
            raw = self._coding == "deflate" and self._packed[0] & 0x0F != zlib.DEFLATED
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else _WINDOW_BITS[self._coding])
        try:
            octets = self._inflater.decompress(self._packed, _MAX_INFLATED)
        except zlib.error:
            raise BadMessage(f"is not what its content encoding says ({self._coding})") from None
        self._packed = self._inflater.unconsumed_tail
        self._unpacks_more = len(octets) == _MAX_INFLATED
        self._body += octets
        self._require(len(self._body))
        if self._inflater.unused_data:
            raise BadMessage(f"goes on behind the end of what its content encoding says ({self._coding})")

    def finish(self) -> None:
        if self._inflater is not None and not self._inflater.eof:
            raise BadMessage(f"ends before what its content encoding says ({self._coding})")

    def body(self) -> bytes:
        return bytes(self._body)

    def _require(self, size: int) -> None:
        if size > self._max_bytes:
            raise BadMessage(f"is larger than max_bytes ({self._max_bytes})", too_large=True)
