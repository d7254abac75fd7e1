"""Verifies the SETs of one poll response, and keeps in mind which were handled before.

Invariants:
- One SET is verified per turn of the event loop, so that decisions do not wait for a batch.
- A SET whose signature cannot be verified now is neither accepted nor refused: only keys that were fetched after it
  arrived prove that its key is unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.errors import Rejected
from authz_service.tokens.attempt import FIRST, LAST
from authz_service.tokens.revocation.event_token import RefusedSetError, SetVerifier
from authz_service.tokens.validator import NeedKeys, SignatureVerifier, TrustedIssuer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.config.model import Issuer
    from authz_service.keys.cache import KeyCache
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.revocation.events import SecurityEvent

_REMEMBERED: Final = Bounds(1000, 1000)  # SETs, by their digests


@dataclass(slots=True)
class Batch:
    """What became of the SETs of one response."""

    acks: list[str] = field(default_factory=list)
    errors: dict[str, RefusedSetError] = field(default_factory=dict)
    events: list[SecurityEvent] = field(default_factory=list)  # of those that were not handled before
    refusals: list[RefusedSetError] = field(default_factory=list)  # the same
    accepted: list[bytes] = field(default_factory=list)  # digests, for ``BatchVerifier.remember``
    waiting: int = 0  # SETs that wait for keys, or for their time

    @property
    def has_news(self) -> bool:
        """Whether any SET was handled for the first time."""
        return bool(self.accepted or self.refusals)


class BatchVerifier:
    """Verifies the SETs of one issuer."""

    def __init__(self, issuer: Issuer, keys: KeyCache, audience: str, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds since the epoch."""
        trusted = TrustedIssuer(issuer, keys)
        self._verifier = SetVerifier(SignatureVerifier([trusted]), trusted, audience)
        self._keys = keys
        self._cooldown = issuer.keys.unknown_kid_cooldown
        self._clock = clock
        self._refreshed_at = -math.inf
        self._applied: BoundedMap[bytes, bytes] = BoundedMap(_REMEMBERED)
        self._refused: BoundedMap[bytes, RefusedSetError] = BoundedMap(_REMEMBERED)  # with their jti

    async def verify(self, sets: Mapping[str, str]) -> Batch:
        """Verify SETs, which are by the ``jti`` under which they were delivered."""
        batch, arrived = Batch(), self._clock()
        for jti, text in sets.items():
            digest = _digest_of(text)
            if digest in self._applied:
                batch.acks.append(jti)
            elif (refusal := self._refused.get(_digest_of(jti, text))) is not None:
                batch.errors[jti] = refusal
            else:
                await self._add(jti, text, digest, arrived, batch)
            await asyncio.sleep(0)
        return batch

    async def _add(self, jti: str, text: str, digest: bytes, arrived: float, batch: Batch) -> None:
        try:
            events = await self._verify(text, arrived)
        except RefusedSetError as error:
            refusal = RefusedSetError(error.code, str(error))  # without the frames that hold the SET
            self._refused.put(_digest_of(jti, text), refusal, 1)
            batch.errors[jti] = refusal
            batch.refusals.append(refusal)
            return
        if events is None:
            batch.waiting += 1
            return
        batch.acks.append(jti)
        batch.accepted.append(digest)
        batch.events += events

    async def _verify(self, text: str, arrived: float) -> tuple[SecurityEvent, ...] | None:
        """The events of a SET, with the keys that are known or can be fetched; None if it has to wait."""
        events = self._attempt(text, FIRST, arrived)
        if events is None:
            await self._refresh_keys()
            events = self._attempt(text, LAST, arrived)
        return events

    def _attempt(self, text: str, attempt: Attempt, arrived: float) -> tuple[SecurityEvent, ...] | None:
        try:
            events = self._verifier.verify(text, self._clock(), attempt)
        except RefusedSetError as refusal:
            if refusal.code == "invalid_key" and self._keys.fetched_at < arrived:
                return None
            raise
        except Rejected:  # the keys are unavailable, or the clock here is slow
            return None
        return None if isinstance(events, NeedKeys) else events

    async def _refresh_keys(self) -> None:
        now = self._clock()
        if not self._refreshed_at <= now < self._refreshed_at + self._cooldown:
            self._refreshed_at = now
            await self._keys.refresh()

    def remember(self, batch: Batch) -> None:
        """The events of a batch take effect and are saved: none of its SETs needs to be verified again."""
        for digest in batch.accepted:
            self._applied.put(digest, digest, 1)


def _digest_of(*texts: str) -> bytes:
    return hashlib.sha256(" ".join(texts).encode("utf-8", "surrogatepass")).digest()
