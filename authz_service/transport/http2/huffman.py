"""Huffman's code of header strings (RFC 7541 section 5.2 and appendix B), decoded an octet at a time.

``hpack``'s own decoder goes by half octets and takes seven times as long. A row says what each octet means where it
begins at one place of the code's tree; rows are made when they are first needed, since most never are.
"""

from __future__ import annotations

from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

LONGEST_CODE: Final = 30  # bits
_BITS = 8
_EOS = 256  # a symbol that no string may hold
_ROOT: Final = 1

# A place in the tree is the bits that lead there, behind a 1 that keeps their number.
_SYMBOLS: Final = {
    1 << size | code: symbol
    for symbol, (code, size) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
}

Row = list[tuple[bytes, "Row"]]  # for each octet: the symbols that it ends, and the row of where it leads to
_rows: Final[dict[int, Row]] = {}
_INVALID: Final[Row] = []  # leads nowhere
_INVALID.extend([(b"", _INVALID)] * 256)


def _row(place: int) -> Row:
    """The row of a place, to be filled when it is used."""
    return _rows.setdefault(place, [])


_START: Final = _row(_ROOT)
_PADDING: Final = frozenset(id(_row((1 << size + 1) - 1)) for size in range(_BITS))  # fewer than 8 bits, all of them 1


def _fill(row: Row) -> None:
    start = next(place for place, each in _rows.items() if each is row)
    row += [_step(start, octet) for octet in range(256)]


def _step(place: int, octet: int) -> tuple[bytes, Row]:
    ended = bytearray()
    for bit in range(_BITS - 1, -1, -1):
        place = place << 1 | octet >> bit & 1
        if (symbol := _SYMBOLS.get(place)) is not None:
            if symbol == _EOS:
                return b"", _INVALID
            ended.append(symbol)
            place = _ROOT
    return bytes(ended), _row(place)


def decode(octets: bytes) -> bytes:
    """The string that is encoded so.

    Raises:
        ValueError: when it holds the end-of-string symbol, or ends in anything but a padding of fewer than 8 ones.
    """
    row, decoded = _START, []
    for octet in octets:
        if not row:
            _fill(row)
        symbols, row = row[octet]
        decoded.append(symbols)
    if id(row) not in _PADDING:
        raise ValueError("not Huffman's code")
    return b"".join(decoded)
