r"""Paths into nested claims: ``realm_access.roles`` is the member ``roles`` of the claim ``realm_access``.

Law: pure. A dot separates names, ``\.`` is a dot in a name (``https://example\.com/roles``), ``\\`` a backslash. A path
leads through objects only; one that meets anything else on its way leads nowhere, which is not the same as absent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"(?:[^.\\]|\\[.\\])+")
_PATH = re.compile(rf"{_NAME.pattern}(?:\.{_NAME.pattern})*")
_ESCAPE = re.compile(r"\\(.)")


class NoObjectError(Exception):
    """Something on the way is no object, so that the path cannot be followed."""


def parse(path: str) -> tuple[str, ...]:
    """The names of a path.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    if not _PATH.fullmatch(path) or not path.isprintable():
        raise ValueError(
            f"{shown(path)} is no path to a claim: write names separated by single dots, and \\. for a dot in a name"
        )
    return tuple(_ESCAPE.sub(r"\1", name) for name in _NAME.findall(path))


def follow(members: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What stands at the end of the path; None where it is absent or null.

    Raises:
        NoObjectError: when something before the end is neither an object nor absent.
    """
    found: Any = members
    for name in names:
        if found is None:
            return None
        if not isinstance(found, dict):
            raise NoObjectError
        found = found.get(name)
    return found
