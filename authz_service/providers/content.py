"""Decodes the content of a response in small steps, and no further than its maximum size. Without I/O."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final

from authz_service.core.errors import BadMessage

if TYPE_CHECKING:
    from authz_service.providers.exchange import Headers

_NO_CODING: Final = frozenset({"", "identity"})
_JSON_OBJECT: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{")
MAX_STEP: Final = 1 << 16  # bytes that one step decompresses
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # zlib.h


class BadContent(BadMessage):
    """The content of a response is not usable, although the response is valid HTTP."""


class ContentDecoder:
    """Collects a response's content. Compressed content is accepted although the requests do not ask for it."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` bounds the content as received, and once decompressed."""
        self._max_bytes = max_bytes
        self._content = bytearray()
        self._coding = ""
        self._has_unknown_coding = False
        self._compressed = b""  # received and not decompressed yet
        self._has_more_output = False  # the decompressor holds more, even when all input is consumed
        self._decompressor: zlib._Decompress | None = None
        self.received = 0  # bytes, as they came

    def begin(self, headers: Headers) -> None:
        """Read the headers that describe the content.

        Raises:
            BadContent: if the content is compressed more than once, or will be too large.
        """
        codings = [each.strip().lower() for each in headers.combined("content-encoding").split(",")]
        compressions = [each for each in codings if each in _WINDOW_BITS]
        if len(compressions) > 1:
            raise BadContent("is compressed more than once, which was not requested")
        self._coding = compressions[0] if compressions else ""
        # The content may still be plain: some servers put utf-8 here, or a coding that a proxy has already decoded.
        self._has_unknown_coding = not _NO_CODING.issuperset(codings) and not compressions
        self._require_size(int(headers.get("content-length") or 0))

    def feed(self, data: bytes) -> None:
        """Append received content.

        Raises:
            BadContent: if it is too large.
        """
        self.received += len(data)
        self._require_size(self.received)
        if self._coding in _WINDOW_BITS:
            self._compressed += data
        else:
            self._content += data

    @property
    def can_decompress(self) -> bool:
        """Whether ``decompress`` has something to do."""
        return bool(self._compressed) or self._has_more_output

    def decompress(self) -> None:
        """Decompress at most ``MAX_STEP`` bytes.

        Raises:
            BadContent: if the content is corrupt or too large.
        """
        if self._decompressor is None:
            # deflate is zlib's format (RFC 9110 section 8.4.1.2), but some servers send the raw data inside it.
            raw = self._coding == "deflate" and self._compressed[0] & 0x0F != zlib.DEFLATED
            self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS if raw else _WINDOW_BITS[self._coding])
        try:
            data = self._decompressor.decompress(self._compressed, MAX_STEP)
        except zlib.error:
            raise BadContent(f"has content that is not {self._coding}, as its content encoding says") from None
        self._compressed = self._decompressor.unconsumed_tail
        self._has_more_output = len(data) == MAX_STEP
        self._content += data
        self._require_size(len(self._content))
        if self._decompressor.unused_data:
            raise BadContent(f"has data after the end of its {self._coding} content")

    def finish(self) -> bytes:
        """The whole content.

        Raises:
            BadContent: if the compressed content is incomplete, or its coding is unknown and it is not a JSON object.
        """
        if self._decompressor is not None and not self._decompressor.eof:
            raise BadContent(f"ends before the end of its {self._coding} content")
        if self._has_unknown_coding and self._content and not _JSON_OBJECT.match(self._content):
            raise BadContent("has a content encoding that was not requested")
        return bytes(self._content)

    def _require_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BadContent(f"is larger than max_bytes ({self._max_bytes})", too_large=True)
