"""JWTs whose signature was verified and whose claims are invalid, cached so that a repeated one costs little.

Clients repeat an expired token; parsing and verifying it takes many times as long as the rest of the denial.

Invariants:
- It holds no decision: claims that may have become valid or invalid for another reason are validated again.
- Only verified tokens enter, and they are bounded apart from the valid ones: a flood of forged tokens evicts nothing,
  and one of expired tokens no valid one.
- A token is found only while its key is in the issuer's key set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.footprint import footprint
from authz_service.tokens.jwt.claims import identity_of, requirements_to_repeat

if TYPE_CHECKING:
    from authz_service.core.claims import Identity
    from authz_service.keys.jwk import Key
    from authz_service.keys.keyset import KeySet
    from authz_service.tokens.jwt.claims import Requirements
    from authz_service.tokens.validator import TrustedIssuer

_BOUNDS = Bounds(1000, 1 << 20)  # beside those of the valid tokens
_OVERHEAD = 1024  # bytes of an entry besides the header and the claims


class UnvalidatedJwt(NamedTuple):
    """A JWT whose signature was verified, and whose claims were not validated."""

    issuer: TrustedIssuer
    key: Key
    header: dict[str, Any]
    claims: dict[str, Any]


class InvalidJwt(NamedTuple):
    """A JWT whose claims are invalid."""

    jwt: UnvalidatedJwt
    identity: Identity
    repeated: Requirements  # none of the other requirements can be the first one that is not met
    until: float  # seconds since the epoch
    key_set: KeySet  # in which the key was found


class InvalidJwts:
    """The JWTs with invalid claims that were verified last."""

    def __init__(self, bounds: Bounds, max_ttl: float) -> None:
        """``bounds`` are those of the valid tokens, and ``max_ttl`` is in seconds."""
        self._max_ttl = max_ttl
        self._entries: BoundedMap[bytes, InvalidJwt] = BoundedMap(Bounds(*map(min, bounds, _BOUNDS)))

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Evict everything."""
        self._entries.clear()

    def get(self, digest: bytes, now: float) -> InvalidJwt | None:
        """The entry, unless it has expired or its key has left the key set."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        current = entry.jwt.issuer.keys.current(now)
        if now < entry.until and current is not None and (current is entry.key_set or entry.jwt.key in current):
            return entry
        self._entries.discard(digest)
        return None

    def put(self, digest: bytes, jwt: UnvalidatedJwt, requirements: Requirements, now: float) -> None:
        """Cache a token that does not meet these requirements, for ``max_ttl`` from when it was verified."""
        issuer, _, header, claims = jwt
        key_set = issuer.keys.current(now)
        if digest in self._entries or key_set is None:
            return
        repeated = requirements_to_repeat(issuer.settings, header, claims, now, requirements)
        entry = InvalidJwt(jwt, identity_of(issuer.settings, claims), repeated, now + self._max_ttl, key_set)
        self._entries.put(digest, entry, _OVERHEAD + footprint((header, claims)))
