"""What one introspection server said of tokens, for as long as it is to be believed.

Law: pure; bounded in entries and in bytes; keyed by a digest, so that no token is kept, in a cache for each server, so
that what one says is never taken for another's word. Acceptable tokens and others are bounded apart: a flood of rubbish
displaces no session. Beyond its time, no more is kept of a token than that it was acceptable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.footprint import footprint

if TYPE_CHECKING:
    from authz_service.tokens.introspection.response import IntrospectionResponse

# This part of the bytes is for tokens that are not acceptable, and as much for digests of proven ones: both are small.
_SMALL_SHARE = 8
_OVERHEAD = 128  # bytes of an answer and its times
_PROVEN = 256  # bytes of a digest and its places in dictionaries


class IntrospectionCache:
    """The answers of one server. The oldest of its kind is evicted first."""

    def __init__(self, bounds: Bounds) -> None:
        """So many acceptable tokens and as many others may be remembered, and so many bytes of all of them."""
        small = Bounds(bounds.max_entries, bounds.max_bytes // _SMALL_SHARE)
        large = Bounds(bounds.max_entries, bounds.max_bytes - 2 * small.max_bytes)
        self._active: BoundedMap[bytes, IntrospectionResponse] = BoundedMap(large)
        self._others: BoundedMap[bytes, IntrospectionResponse] = BoundedMap(small)
        self._proven: BoundedMap[bytes, None] = BoundedMap(small)

    def __len__(self) -> int:
        return len(self._active) + len(self._others)

    @property
    def used_bytes(self) -> int:
        """What they take."""
        return self._active.used_bytes + self._others.used_bytes + self._proven.used_bytes

    @property
    def proven(self) -> int:
        """How many tokens are known to have been acceptable when they were last asked about."""
        return len(self._proven)

    def is_proven(self, digest: bytes) -> bool:
        """Whether the token was acceptable when it was last asked about, however long ago."""
        return digest in self._proven

    def get(self, digest: bytes, now: float) -> IntrospectionResponse | None:
        """The answer, unless its time has passed, or has not come since the clock was set back."""
        answer = self._active.get(digest) or self._others.get(digest)
        if answer is None or answer.since <= now < answer.until:
            return answer
        self._forget(digest)
        return None

    def copy_from(self, older: IntrospectionCache) -> None:
        """Take over what another one holds, as far as there is room."""
        for digest in older._proven:
            self._proven.put(digest, None, _PROVEN)
        for answers in (older._others, older._active):
            for digest, answer in answers.items():
                self._put(digest, answer, answers.size(digest))

    def put(self, digest: bytes, answer: IntrospectionResponse) -> None:
        """Remember an answer until its end."""
        self._forget(digest)
        if isinstance(answer.outcome, tuple):
            self._proven.discard(digest)
            size = footprint(answer.outcome)
        else:
            self._proven.put(digest, None, _PROVEN)
            size = answer.outcome.claims.footprint()
        if answer.until > answer.since:
            self._put(digest, answer, _OVERHEAD + size)

    def _put(self, digest: bytes, answer: IntrospectionResponse, size: int) -> None:
        if isinstance(answer.outcome, tuple):
            self._others.put(digest, answer, size)
            return
        self._active.put(digest, answer, size)
        answer.outcome.responses.account.open(self._active, digest)

    def _forget(self, digest: bytes) -> None:
        self._active.discard(digest)
        self._others.discard(digest)
