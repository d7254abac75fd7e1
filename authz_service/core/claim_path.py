r"""Paths into nested claims: ``realm_access.roles`` is the member ``roles`` of the claim ``realm_access``.

Pure. A dot separates names, ``\.`` is a dot in a name (``https://example\.com/roles``), ``\\`` a backslash. A path
leads through objects only: one that meets another value before its end cannot be followed, which differs from absent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"(?:[^.\\]|\\[.\\])+")
_PATH = re.compile(rf"{_NAME.pattern}(?:\.{_NAME.pattern})*")
_ESCAPE = re.compile(r"\\(.)")


class NotAnObjectError(Exception):
    """A value before the end of the path is not an object."""


class ClaimPath(NamedTuple):
    """A parsed path."""

    text: str  # as written
    names: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def find(self, claims: Mapping[str, Any], absent: Any) -> Any:
        """The value at the end of the path, null included; ``absent`` if the claims do not have it.

        Raises:
            NotAnObjectError: if a value before the end, null included, is not an object.
        """
        members = claims
        for name in self.names[:-1]:
            if name not in members:
                return absent
            members = members[name]
            if not isinstance(members, dict):
                raise NotAnObjectError
        return members.get(self.names[-1], absent)

    def follow(self, claims: Mapping[str, Any]) -> Any:
        """The value at the end of the path; None if it is absent or null.

        Raises:
            NotAnObjectError: if a value before the end is neither an object nor absent.
        """
        value: Any = claims
        for name in self.names:
            if value is None:
                return None
            if not isinstance(value, dict):
                raise NotAnObjectError
            value = value.get(name)
        return value


def parse_claim_path(text: str) -> ClaimPath:
    """Parse a claim path of the configuration.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    if not _PATH.fullmatch(text) or not text.isprintable():
        raise ValueError(
            f"{shown(text)} is not a path to a claim: write names separated by single dots, and \\. for a dot in a name"
        )
    return ClaimPath(text, tuple(_ESCAPE.sub(r"\1", name) for name in _NAME.findall(text)))
