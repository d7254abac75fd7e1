"""The keys of one issuer, and the JSON Web Key Set (RFC 7517 section 5) that they are parsed from. Pure.

An unusable entry does not affect the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.errors import FetchFailed, quoted
from authz_service.keys import jwk
from authz_service.keys.jwk import SIGNATURE_USE, Key, UnusableKey
from authz_service.providers import json_object

if TYPE_CHECKING:
    from collections.abc import Collection


class KeySet:
    """The usable keys of one issuer at one time."""

    __slots__ = ("_by_identity", "_by_kid", "_without_kid", "keys", "refused")

    def __init__(self, keys: tuple[Key, ...], refused: tuple[str, ...] = ()) -> None:
        """``refused`` has a line for each unusable entry and the reason."""
        self.keys = keys
        self.refused = refused
        self._by_identity = {key.identity: key for key in reversed(keys)}  # the first of equal ones
        self._without_kid = tuple(key for key in keys if key.kid is None)
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            if key.kid is not None:
                self._by_kid[key.kid] = (*self._by_kid.get(key.kid, ()), key)

    def __contains__(self, key: Key) -> bool:
        return key.identity in self._by_identity

    def with_identity(self, identity: tuple[str | None, bytes]) -> Key | None:
        """The key with this identity, if the set still has it."""
        return self._by_identity.get(identity)

    @property
    def has_kids(self) -> bool:
        """Whether a ``kid`` selects among the keys: not if no key has one."""
        return bool(self._by_kid)

    def candidates(self, kid: str | None) -> tuple[Key, ...]:
        """The keys that a token with this ``kid`` may be signed with: those with that ``kid``, or else those without.

        All keys if the token has none.
        """
        return self.keys if kid is None else self._by_kid.get(kid, self._without_kid)


def parse(data: bytes, max_keys: int, uses: Collection[str] = SIGNATURE_USE) -> KeySet:
    """Parse a key set. ``uses`` are the values of ``use`` that are accepted.

    Raises:
        FetchFailed: if it is not a key set, has more than ``max_keys`` entries, or no usable key.
    """
    entries = json_object.parse(data, "the key set").get("keys")
    if not isinstance(entries, list):
        raise FetchFailed(
            "the key set has no list of keys: expected a JSON Web Key Set, an object with a member 'keys'"
        )
    entries = [entry for entry in entries if entry is not None]
    if len(entries) > max_keys:
        raise FetchFailed(f"the key set has {len(entries)} keys, more than keys.max_keys ({max_keys})")
    keys: list[Key] = []
    refused: list[str] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(jwk.parse(entry, uses))
        except UnusableKey as unusable:
            refused.append(f"{_name(index, entry)}: {unusable}")
    return usable(keys, refused, "the key set")


def usable(keys: list[Key], refused: list[str], what: str) -> KeySet:
    """The key set with these keys.

    Raises:
        FetchFailed: if there are none; ``what`` names the document.
    """
    if not keys:
        raise FetchFailed(f"{what} has no usable key" + "".join(f"; {line}" for line in refused[:3]))
    return KeySet(tuple(keys), tuple(refused))


def _name(index: int, entry: object) -> str:
    kid = entry.get("kid") if isinstance(entry, dict) else None
    return f"key {index} (no kid)" if kid is None else f"key {quoted(kid)}"
