"""The Huffman code of string literals (RFC 7541 section 5.2 and appendix B), decoded one octet at a time.

``hpack`` decodes half an octet at a time and takes several times as long. Here, a row of a table maps an octet to the
symbols that it completes and to the next row. Rows are filled on demand: of 65,536 entries few are ever used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

MAX_CODE: Final = 30  # bits
_BITS = 8
_EOS = 256  # the end-of-string symbol, which no string may contain
_ROOT: Final = 1  # a node of the code's tree is the bits that lead to it, behind a 1 that preserves their number
_INVALID: Final = 0
_SYMBOLS: Final = {
    1 << size | code: symbol
    for symbol, (code, size) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
}
_PADDINGS: Final = frozenset((1 << size + 1) - 1 for size in range(_BITS))  # nodes behind fewer than 8 ones
_NODE: Final = -1  # the key of a row's own node, beside the octets

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
