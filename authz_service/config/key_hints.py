"""Hints for names that do not exist, and for keys in the wrong section, found in the model itself."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from authz_service.config.kinds import ANY_KEY, INDEX
from authz_service.config.sections import sections_within

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.config.kinds import Where
    from authz_service.config.sections import Section

_MAX_PLACES = 3  # that a hint names
# Names of claims, and common words, for keys that have other names.
_SYNONYMS = {
    "sub": "subject", "user": "subject", "username": "subject", "sid": "session", "iss": "issuer",
    "iat": "issued_before", "azp": "client", "client_id": "client", "prefix": "paths", "domains": "hosts",
    "port": "grpc_address", "cert": "certificate_file", "key": "key_file", "ca": "client_ca_file",
}  # fmt: skip
_ALIKE, _VERY_ALIKE = 0.6, 0.8  # difflib's ratio: a guess; a spelling mistake


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not one of ``names``: the closest of them, or all."""
    names = tuple(names)
    close = closest(name, names)
    return f"did you mean {close}?" if close else f"write one of {', '.join(names)}"


def closest(name: str, names: Iterable[str], cutoff: float = _ALIKE) -> str | None:
    """The name that is most like another one, if any is."""
    return next(iter(difflib.get_close_matches(name, tuple(names), n=1, cutoff=cutoff)), None)


def right_key(where: Where, around: type[Section], root: type[Section]) -> str:
    """A hint for an unknown key: a key here that is spelled alike, the sections where it belongs, or all keys here.

    ``around`` is the section that has the key, ``root`` that of the whole file.
    """
    section, name, keys = where[:-1], str(where[-1]), tuple(around.declared)
    if (meant := _SYNONYMS.get(name)) in keys:
        return f"did you mean {meant}?"
    misspelled, close = closest(name, keys, _VERY_ALIKE), closest(name, keys)
    if section and misspelled == f"{name}s":
        return f"did you mean {misspelled}?"
    places = _places(name, section, root)
    beside = [place for place in places if place[:1] == section[:1]]
    if close and section:  # another part of the file has a key of this name by chance
        places = beside
    if places:
        belongs = f"{name} belongs in {' or '.join(map(_shown, (beside or places)[:_MAX_PLACES]))}"
        if misspelled and section:
            return f"did you mean {misspelled}? ({belongs})"
        return belongs
    elsewhere = None if misspelled else _misspelled_elsewhere(name, section, root)
    return elsewhere or (f"did you mean {close}?" if close else f"write one of {', '.join(keys)}")


def _places(name: str, near: Where, root: type[Section]) -> list[Where]:
    """The sections that have a key of this name, those first that share most of their place with ``near``.

    A section that occurs in several places, and one within another one of them, are listed once.
    """
    known = tuple(INDEX if isinstance(part, int) else part for part in near)
    kinds: dict[type[Section], Where] = {}
    for where, kind in sections_within(root):
        kinds.setdefault(kind, where)
    having = [where for kind, where in kinds.items() if name in kind.declared]
    found: list[Where] = []
    for where in sorted(having, key=lambda where: (-_shared(where, known), len(where))):
        if not any(where[: len(each)] == each for each in found):
            found.append(where)
    return found


def _misspelled_elsewhere(name: str, near: Where, root: type[Section]) -> str | None:
    """A hint for a key that is both misspelled and in the wrong section of its part of the file."""
    own = [kind for where, kind in sections_within(root) if where[:1] == near[:1]]
    close = closest(name, (key for kind in own for key in kind.declared), _VERY_ALIKE)
    return (
        None if close is None else f"did you mean {close}? ({close} belongs in {_shown(_places(close, near, root)[0])})"
    )


def _shared(one: Where, other: Where) -> int:
    """The number of leading parts that two places share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a not in {b, ANY_KEY}), min(len(one), len(other)))


def _shown(section: Where) -> str:
    parts = ("[]" if part == INDEX else f".{part}" for part in section)
    return "".join(parts).removeprefix(".") or "the top level"
