"""Where the fields of a header block begin and end (RFC 7541 section 6).

Law: it looks at lengths, and decodes nothing. With each literal ``hpack`` copies all that follows it, which for a long
block is its square: 4 MB of small ones took it more than two minutes. Given one by one, they cost their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_service.transport.http2.frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDEXED: Final = 0x80
_INCREMENTAL: Final = 0x40
_RESIZE: Final = 0x20
_MORE: Final = 0x80
_MOST_OCTETS: Final = 5  # of an integer behind its prefix: beyond 32 bits there is nothing to count


def representations(block: bytes) -> Iterator[bytes]:
    """The octets of each field, or resizing of the table, in a block.

    Raises:
        ConnectionFault: when the block ends amid one, or holds a number that none can be.
    """
    at, end = 0, len(block)
    while at < end:
        start, first = at, block[at]
        if first & _INDEXED:
            _, at = _integer(block, at, 0x7F)
        elif first & (_INCREMENTAL | _RESIZE) == _RESIZE:
            _, at = _integer(block, at, 0x1F)
        else:
            name, at = _integer(block, at, 0x3F if first & _INCREMENTAL else 0x0F)
            if not name:
                at = _after_string(block, at)
            at = _after_string(block, at)
        if at > end:
            raise _cut()
        yield block[start:at]


def _after_string(block: bytes, at: int) -> int:
    size, at = _integer(block, at, 0x7F)
    return at + size


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """A number (section 5.1) and where it ends. ``prefix`` is the mask of its first octet."""
    octets = block[at : at + 1 + _MOST_OCTETS]
    if not octets:
        raise _cut()
    number = octets[0] & prefix
    if number < prefix:
        return number, at + 1
    for place, octet in enumerate(octets[1:]):
        number += (octet & ~_MORE) << 7 * place
        if not octet & _MORE:
            return number, at + place + 2
    raise _cut()


def _cut() -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can not be decoded")
