"""Huffman's code of header strings (RFC 7541 section 5.2 and appendix B), decoded an octet at a time.

``hpack``'s own decoder goes by half octets and takes several times as long. A row says what an octet means where it
begins at one place of the code's tree, and is made as far as it is needed: of 65,536 cases few ever come.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

MAX_CODE: Final = 30  # bits
_BITS = 8
_EOS = 256  # a symbol that no string may hold
_ROOT: Final = 1  # a place in the tree is the bits that lead there, behind a 1 that keeps their number
_INVALID: Final = 0
_SYMBOLS: Final = {
    1 << size | code: symbol
    for symbol, (code, size) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
}
_PADDINGS: Final = frozenset((1 << size + 1) - 1 for size in range(_BITS))  # fewer than 8 bits, all of them 1
_PLACE: Final = -1  # beside the octets, in each row

# For each place, and there for each octet: the symbols that it ends, and the row of the place to which it leads.
_rows: Final[dict[int, dict[int, Any]]] = {}


def _row(place: int) -> dict[int, Any]:
    return _rows.setdefault(place, {_PLACE: place})


def _step(row: dict[int, Any], octet: int) -> tuple[bytes, dict[int, Any]]:
    first, place = _half_step(row[_PLACE], octet >> 4)
    second, place = _half_step(place, octet & 15)
    step = row[octet] = first + second, _row(place)
    return step


@cache
def _half_step(place: int, bits: int) -> tuple[bytes, int]:
    """What four bits end, and where they lead: no code is so short that they end two."""
    ended = b""
    for bit in (3, 2, 1, 0):
        place = place and place << 1 | bits >> bit & 1
        symbol = _SYMBOLS.get(place)
        if symbol == _EOS:
            place = _INVALID
        elif symbol is not None:
            ended, place = bytes((symbol,)), _ROOT
    return ended, place


_START: Final = _row(_ROOT)


def decode(octets: bytes) -> bytes:
    """The string that is encoded so.

    Raises:
        ValueError: when it holds the end-of-string symbol, or ends in anything but a padding of fewer than 8 ones.
    """
    row, decoded = _START, []
    for octet in octets:
        try:
            symbols, row = row[octet]
        except KeyError:
            symbols, row = _step(row, octet)
        decoded.append(symbols)
    if row[_PLACE] not in _PADDINGS:
        raise ValueError("not Huffman's code")
    return b"".join(decoded)
