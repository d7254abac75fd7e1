"""Finds what revokes a token, in constant time whatever the number of revocations.

A revocation names one or more parts of a token and revokes every token that has all of them. Revocations are
indexed by which parts they name: a lookup costs one step for each combination in use, of which there are few.

Invariants:
- A token that lacks a part does not match it, except the time: a token without ``iat`` may have been issued at any
  time.
- Of two revocations that name the same parts with the same values, the later ``issued_before`` applies.
"""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from authz_service.core.claims import Claims
    from authz_service.tokens.revocation.event_store import EventStore

_Values = tuple[str, ...]


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


class Revocations:
    """A set of revocations."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._by_shape: dict[_Values, dict[_Values, Revocation]] = {}  # by the names of the parts, then by their values
        self._count = 0
        for each in revocations:
            self.add(each)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Revocation]:
        return itertools.chain.from_iterable(same_shape.values() for same_shape in self._by_shape.values())

    def get(self, parts: TokenParts) -> Revocation | None:
        """The revocation of these parts."""
        shape, values = _key(parts)
        return self._by_shape.get(shape, {}).get(values)

    def add(self, revocation: Revocation) -> None:
        """Add a revocation."""
        shape, values = _key(revocation.parts)
        same_shape = self._by_shape.setdefault(shape, {})
        known = same_shape.get(values)
        if known is None:
            self._count += 1
        if known is None or known.issued_before < revocation.issued_before:
            same_shape[values] = revocation

    def discard(self, parts: TokenParts) -> None:
        """Remove the revocation of these parts, if there is one."""
        shape, values = _key(parts)
        same_shape = self._by_shape.get(shape, {})
        if same_shape.pop(values, None) is not None:
            self._count -= 1
            if not same_shape:
                del self._by_shape[shape]

    def find(self, claims: Claims) -> Revocation | None:
        """What revokes a token with these claims, if anything does."""
        if not self._by_shape:
            return None
        raw = claims.raw
        own = TokenParts(
            issuer=claims.issuer,
            subject=claims.subject,
            client=claims.client_id,
            session=_string(raw.get("sid")),
            jti=_string(raw.get("jti")),
            kid=claims.kid or "",
        )
        iss = _string(raw.get("iss"))  # a tenant of a template is named by it
        return self._find(own, raw.get("iat")) or (
            self._find(own._replace(issuer=iss), raw.get("iat")) if iss else None
        )

    def _find(self, own: TokenParts, issued_at: object) -> Revocation | None:
        for shape, revocations in self._by_shape.items():
            found = revocations.get(tuple(getattr(own, name) for name in shape))
            if found is not None and not (isinstance(issued_at, (int, float)) and issued_at >= found.issued_before):
                return found
        return None


def _key(parts: TokenParts) -> tuple[_Values, _Values]:
    """The names of the parts that are not empty, and their values."""
    shape = tuple(name for name, value in zip(TokenParts._fields, parts, strict=True) if value)
    return shape, tuple(filter(None, parts))


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
            raise Rejected(Reason.REVOKED, f"revoked by a {revocation.origin} event of {claims.issuer}")
