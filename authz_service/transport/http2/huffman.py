"""The Huffman code of string literals (RFC 7541 section 5.2 and appendix B), decoded one octet at a time.

A row of a table maps an octet to the symbols that it completes and to the next row, which takes a fraction of the time
of smaller steps. Rows are filled on demand: of 65,536 entries few are ever used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

# The bits of each symbol's code. The code is canonical: in the order of their lengths, codes count upwards.
_CODE_LENGTHS: Final = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
    6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
    13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
    15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
    20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
    22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
    26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
    20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
    30
"""
MAX_CODE: Final = 30  # bits
_BITS = 8
_EOS = 256  # the end-of-string symbol, which no string may contain
_ROOT: Final = 1  # a node of the code's tree is the bits that lead to it, behind a 1 that preserves their number
_INVALID: Final = 0
_PADDINGS: Final = frozenset((1 << size + 1) - 1 for size in range(_BITS))  # nodes behind fewer than 8 ones
_NODE: Final = -1  # the key of a row's own node, beside the octets


def _symbols() -> dict[int, int]:
    """The symbols, by the nodes of their codes."""
    symbols: dict[int, int] = {}
    node, depth = _ROOT, 0
    for size, symbol in sorted((int(size), symbol) for symbol, size in enumerate(_CODE_LENGTHS.split())):
        node, depth = node << size - depth, size
        symbols[node] = symbol
        node += 1
    return symbols


_SYMBOLS: Final = _symbols()

# For each node, and in its row for each octet: the symbols that it completes, and the row of the next node.
_rows: Final[dict[int, dict[int, Any]]] = {}


def _row(node: int) -> dict[int, Any]:
    return _rows.setdefault(node, {_NODE: node})


def _step(row: dict[int, Any], octet: int) -> tuple[bytes, dict[int, Any]]:
    first, node = _half_step(row[_NODE], octet >> 4)
    second, node = _half_step(node, octet & 15)
    step = row[octet] = first + second, _row(node)
    return step


@cache
def _half_step(node: int, bits: int) -> tuple[bytes, int]:
    """The symbol that four bits complete, if any, and the next node. No code is short enough for two symbols."""
    completed = b""
    for bit in (3, 2, 1, 0):
        node = node and node << 1 | bits >> bit & 1
        symbol = _SYMBOLS.get(node)
        if symbol == _EOS:
            node = _INVALID
        elif symbol is not None:
            completed, node = bytes((symbol,)), _ROOT
    return completed, node


_START: Final = _row(_ROOT)


def decode(octets: bytes) -> bytes:
    """Decode a string.

    Raises:
        ValueError: when it contains the end-of-string symbol, or does not end in a padding of fewer than 8 ones.
    """
    row, decoded = _START, []
    for octet in octets:
        try:
            symbols, row = row[octet]
        except KeyError:
            symbols, row = _step(row, octet)
        decoded.append(symbols)
    if row[_NODE] not in _PADDINGS:
        raise ValueError("invalid Huffman code")
    return b"".join(decoded)
