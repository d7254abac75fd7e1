"""Finds what revokes a token, in constant time whatever the number of revocations.

A revocation names one or more parts of a token and revokes every token that has all of them. Revocations are
indexed by which parts they name: a lookup costs one step for each combination in use, of which there are few.

Invariants:
- A token that lacks a part does not match it, except the time: a token without ``iat`` may have been issued at any
  time.
- Of two revocations that name the same parts with the same values, the later ``issued_before`` applies.
"""

from __future__ import annotations

import math
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.core.utc import utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from authz_service.core.claims import Claims
    from authz_service.tokens.revocation.event_store import EventStore

_Shape: TypeAlias = tuple[int, ...]  # which parts are named, by their places
_Key: TypeAlias = str | tuple[str, ...]  # their values; of a single one, the string


class TokenParts(NamedTuple):
    """The parts by which revocations name tokens. Empty: the token lacks it, or the revocation accepts any."""

    issuer: str = ""
    subject: str = ""
    client: str = ""
    session: str = ""  # sid
    jti: str = ""
    kid: str = ""  # of the key that verified the token


class Revocation(NamedTuple):
    """What revokes tokens."""

    parts: TokenParts
    issued_before: float = math.inf  # seconds since the epoch
    origin: str = ""  # where it is written, or the type of the event: for the log and for explain


class _SameShape(NamedTuple):
    """The revocations that name the same parts."""

    key_of: Callable[[TokenParts], _Key]  # the values of those parts
    has_issuer: bool
    entries: dict[
        _Key, tuple[float, str]
    ]  # time and origin: plain tuples of values cost the collector of cycles nothing


class Revocations:
    """A set of revocations."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._by_shape: dict[_Shape, _SameShape] = {}
        self._count = 0
        for each in revocations:
            self.add(each)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Revocation]:
        for shape, (_, _, entries) in self._by_shape.items():
            for key, entry in entries.items():
                yield Revocation(_parts(shape, key), *entry)

    def get(self, parts: TokenParts) -> Revocation | None:
        """The revocation of these parts."""
        same_shape = self._by_shape.get(_shape_of(parts))
        entry = None if same_shape is None else same_shape.entries.get(same_shape.key_of(parts))
        return None if entry is None else Revocation(parts, *entry)

    def add(self, revocation: Revocation) -> None:
        """Add a revocation."""
        shape = _shape_of(revocation.parts)
        same_shape = self._by_shape.get(shape)
        if same_shape is None:
            same_shape = self._by_shape[shape] = _SameShape(_getter(shape), 0 in shape, {})
        key = same_shape.key_of(revocation.parts)
        known = same_shape.entries.get(key)
        if known is None:
            self._count += 1
        if known is None or known[0] < revocation.issued_before:
            same_shape.entries[key] = (revocation.issued_before, revocation.origin)

    def discard(self, parts: TokenParts) -> None:
        """Remove the revocation of these parts, if there is one."""
        shape = _shape_of(parts)
        same_shape = self._by_shape.get(shape)
        if same_shape is not None and same_shape.entries.pop(same_shape.key_of(parts), None) is not None:
            self._count -= 1
            if not same_shape.entries:
                del self._by_shape[shape]

    def find(self, claims: Claims) -> Revocation | None:
        """What revokes a token with these claims, if anything does."""
        if not self._by_shape:
            return None
        raw = claims.raw
        sid, jti, iss, issued_at = raw.get("sid"), raw.get("jti"), raw.get("iss"), raw.get("iat")
        own = TokenParts(claims.issuer, claims.subject, claims.client_id, _string(sid), _string(jti), claims.kid or "")
        # In whole seconds, since the times of events are.
        until = issued_at // 1 if isinstance(issued_at, (int, float)) else -math.inf
        for shape, (key_of, has_issuer, entries) in self._by_shape.items():
            found = entries.get(key_of(own))
            if found is not None and until < found[0]:
                return Revocation(_parts(shape, key_of(own)), *found)
            if has_issuer and isinstance(iss, str) and iss:  # a tenant of a template is named by it
                key = key_of(own._replace(issuer=iss))
                found = entries.get(key)
                if found is not None and until < found[0]:
                    return Revocation(_parts(shape, key), *found)
        return None


def _shape_of(parts: TokenParts) -> _Shape:
    return tuple(place for place, value in enumerate(parts) if value)


def _getter(shape: _Shape) -> Callable[[TokenParts], _Key]:
    return itemgetter(*shape) if shape else lambda _parts: ()


def _parts(shape: _Shape, key: _Key) -> TokenParts:
    values = (key,) if isinstance(key, str) else key
    return TokenParts(**{TokenParts._fields[place]: value for place, value in zip(shape, values, strict=True)})


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


class RevocationList:
    """The revocations in force: those of the operator's file, which can be replaced at any time, and of events."""

    def __init__(
        self,
        file: Revocations | None = None,
        file_digest: bytes = b"",
        events: Mapping[str, EventStore] = MappingProxyType({}),
    ) -> None:
        """``file`` are those of the operator's file whose content has this digest; ``events`` are by issuer's label."""
        self._file = file or Revocations()
        self._events = events
        self.file_digest = file_digest
        self.any = len(self._file) > 0 or bool(events)  # an attribute, since every request looks at it

    def replace_file(self, revocations: Revocations, digest: bytes) -> None:
        """Take the revocations of the file from its new content."""
        self._file, self.file_digest = revocations, digest
        self.any = len(revocations) > 0 or bool(self._events)

    @property
    def file_entries(self) -> int:
        """How many revocations the file has."""
        return len(self._file)

    @property
    def event_entries(self) -> int:
        """How many revocations the events of all issuers come to."""
        return sum(map(len, self._events.values()))

    def require_none(self, claims: Claims) -> None:
        """Require that nothing revokes a token with these claims.

        Raises:
            Rejected: ``revoked``.
        """
        revocation = self._file.find(claims)
        if revocation is not None:
            raise Rejected(Reason.REVOKED, f"revoked by {revocation.origin}")
        events = self._events.get(claims.issuer)
        revocation = None if events is None else events.find(claims)
        if revocation is not None:
            at = utc(revocation.issued_before, "an unknown time")
            raise Rejected(Reason.REVOKED, f"revoked by an event of {claims.issuer}: {revocation.origin} at {at}")
