"""The validated responses of one introspection server, cached until they expire.

One cache for each server, so that no response counts for another issuer. Keys are digests. No I/O.

Invariants:
- Accepted and rejected tokens are bounded separately: a flood of invented tokens evicts no accepted one.
- Of an expired response, nothing remains but the digest of a token that was accepted (*proven*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.footprint import footprint

if TYPE_CHECKING:
    from authz_service.tokens.introspection.response import IntrospectionResponse

# This part of the bytes is for rejected tokens, and as much for the digests of proven ones: both are small.
_SMALL_SHARE = 8
_OVERHEAD = 128  # bytes of a response and its times
_PROVEN_BYTES = 256  # of a digest and its places in dictionaries


class IntrospectionCache:
    """The responses of one server. The oldest of its kind is evicted first."""

    def __init__(self, bounds: Bounds) -> None:
        """``bounds`` holds for the entries of each kind, and for the bytes of all."""
        small = Bounds(bounds.max_entries, bounds.max_bytes // _SMALL_SHARE)
        large = Bounds(bounds.max_entries, bounds.max_bytes - 2 * small.max_bytes)
        self._accepted: BoundedMap[bytes, IntrospectionResponse] = BoundedMap(large)
        self._rejected: BoundedMap[bytes, IntrospectionResponse] = BoundedMap(small)
        self._proven: BoundedMap[bytes, None] = BoundedMap(small)

    def __len__(self) -> int:
        return len(self._accepted) + len(self._rejected)

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries."""
        return self._accepted.used_bytes + self._rejected.used_bytes + self._proven.used_bytes

    @property
    def proven(self) -> int:
        """How many tokens are proven."""
        return len(self._proven)

    def is_proven(self, digest: bytes) -> bool:
        """Whether the token was accepted by the last response about it, however long ago."""
        return digest in self._proven

    def get(self, digest: bytes, now: float) -> IntrospectionResponse | None:
        """The response, unless it has expired, or the clock was set back to before it was received."""
        response = self._accepted.get(digest) or self._rejected.get(digest)
        if response is None or response.since <= now < response.until:
            return response
        self._discard(digest)
        return None

    def copy_from(self, older: IntrospectionCache) -> None:
        """Copy the entries of another cache, the newest of them if there is not room for all."""
        for digest in older._proven:
            self._proven.put(digest, None, _PROVEN_BYTES)
        for responses in (older._rejected, older._accepted):
            for digest, response in responses.items():
                self._put(digest, response, responses.size(digest))

    def put(self, digest: bytes, response: IntrospectionResponse) -> None:
        """Cache a response until it expires, in place of an earlier one."""
        self._discard(digest)
        if isinstance(response.outcome, tuple):
            self._proven.discard(digest)
            reason, cause, identity = response.outcome
            size = footprint((reason, cause, *(identity or ())))
        else:
            self._proven.put(digest, None, _PROVEN_BYTES)
            size = response.outcome.claims.footprint()
        if response.until > response.since:
            self._put(digest, response, _OVERHEAD + size)

    def _put(self, digest: bytes, response: IntrospectionResponse, size: int) -> None:
        if isinstance(response.outcome, tuple):
            self._rejected.put(digest, response, size)
            return
        self._accepted.put(digest, response, size)
        response.outcome.responses.charge_to(self._accepted, digest)

    def _discard(self, digest: bytes) -> None:
        self._accepted.discard(digest)
        self._rejected.discard(digest)
