"""A plain parser of x-forwarded-client-cert, one character after the other, to compare the real one with."""

from __future__ import annotations

import string

MAX_LENGTH, MAX_ELEMENTS, MAX_PAIRS = 65536, 100, 1000
_LETTERS = frozenset(string.ascii_letters)
_KEY = _LETTERS | set(string.digits) | set("-_")
_SPACES = frozenset(" \t")
_CONTROLS = frozenset(map(chr, [*range(32), 127]))


def element(header: str, position: int) -> dict[str, str] | None:
    """As ``xfcc.element``."""
    if len(header) > MAX_LENGTH:
        raise ValueError
    elements = _Reader(header).elements()
    if len(elements) > MAX_ELEMENTS or any(len(pairs) > MAX_PAIRS for pairs in elements):
        raise ValueError
    if position > len(elements):
        return None
    pairs: dict[str, str] = {}
    for key, value in elements[-position]:
        if key in pairs and key not in {"by", "uri", "dns"}:
            raise ValueError
        pairs.setdefault(key, value)
    return pairs


class _Reader:
    """Reads from the left, and raises ValueError at the first character that does not belong there."""

    def __init__(self, header: str) -> None:
        self._left = list(reversed(header))

    def elements(self) -> list[list[tuple[str, str]]]:
        found = []
        while True:
            self._skip_spaces()
            found.append(self._pairs())
            self._skip_spaces()
            if not self._left:
                return found
            self._expect(",")

    def _pairs(self) -> list[tuple[str, str]]:
        found = [self._pair()]
        while self._next() == ";":
            self._expect(";")
            found.append(self._pair())
        return found

    def _pair(self) -> tuple[str, str]:
        if self._next() not in _LETTERS:
            raise ValueError
        key = ""
        while self._next() in _KEY:
            key += self._left.pop()
        self._expect("=")
        return key.lower(), self._quoted() if self._next() == '"' else self._token()

    def _quoted(self) -> str:
        self._expect('"')
        value = ""
        while self._next() != '"':
            if self._next() == "\\":
                value += self._left.pop()
            if not self._left or self._next() in _CONTROLS:
                raise ValueError
            value += self._left.pop()
        self._expect('"')
        return value

    def _token(self) -> str:
        value = ""
        while self._left and self._next() not in {" ", ",", ";", '"', "\\", *_CONTROLS}:
            value += self._left.pop()
        return value

    def _skip_spaces(self) -> None:
        while self._next() in _SPACES:
            self._left.pop()

    def _next(self) -> str:
        return self._left[-1] if self._left else ""

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise ValueError
        self._left.pop()
