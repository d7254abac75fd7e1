"""The field blocks of one connection are decoded as by ``hpack``.

The input is a sequence of blocks, each after its length in two octets; the length 0 repeats the block before it.

* A block that ``hpack`` decodes is decoded here too, and the request has the path that ``hpack`` finds. This holds for
  every later block, so the two dynamic tables never differ. Only our limits may close the connection before that.
* A block that ``hpack`` rejects closes the connection, unless it has a string so long that it may remain undecoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hpack

from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError, Http2StreamError
from authz_service.transport.http2.headers import HeadersReader

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTCOMES = {"read", "compression error", "not read"}
MAX_BYTES = 8192
_MAY_STAY_UNDECODED = 256  # octets
_PATH = b":path"


def run(data: bytes) -> str:
    reader, reference = HeadersReader(), hpack.Decoder(max_header_list_size=1 << 30)
    outcome = "not read"
    for block in _blocks(data):
        fields = _reference(reference, block)
        try:
            headers = reader.read(block)
        except Http2ConnectionError as error:
            assert error.code == ErrorCode.ENHANCE_YOUR_CALM or fields is None
            return "compression error" if fields is None else "beyond bounds"
        except Http2StreamError:
            headers = None
        if fields is None:
            assert len(block) > _MAY_STAY_UNDECODED
            return "undecoded"
        paths = {value for name, value in fields if name == _PATH}
        if headers is not None and headers.path:
            assert {headers.path} == paths
            outcome = "read"
    return outcome


def _blocks(data: bytes) -> Iterator[bytes]:
    at, block = 0, b""
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        if size:
            block = data[at + 2 : at + 2 + size]
        yield block
        at += 2 + size


def _reference(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None
