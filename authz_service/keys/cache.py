"""One issuer's keys, refreshed in the background so that a decision finds them without waiting.

Owns when the keys are fetched, how long they may be used, and what an unknown ``kid`` leads to. Where they come from is
the concern of ``source``, what they verify that of ``jwk``, and which are tried that of ``trials``.

Invariants:

* ``find`` uses no lock, no task and no clock.
* At most one fetch is in flight. Requests cause at most one fetch per ``unknown_kid_cooldown`` beside scheduled ones,
  however many unknown key ids they contain.
* A token with a new ``kid`` waits for a fetch. If a request caused one less than ``unknown_kid_cooldown`` ago, the
  token is rejected until the next fetch.
* A failed fetch removes no key. The last good keys are used for ``outage_tolerance`` beyond their lifetime. Without
  usable keys, the issuer's tokens are ``keys_unavailable``, not invalid.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from enum import Enum
from typing import TYPE_CHECKING

from authz_service.core import backoff
from authz_service.core.errors import FetchFailed
from authz_service.core.utc import utc
from authz_service.keys.absent_kids import AbsentKids
from authz_service.keys.schedule import FetchSchedule
from authz_service.keys.snapshot import Snapshot
from authz_service.keys.trials import KeyTrials
from authz_service.single_flight import SharedTask
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.config.model import Keys
    from authz_service.keys.jwk import Key
    from authz_service.keys.keyset import KeySet
    from authz_service.keys.snapshot import SnapshotFile
    from authz_service.keys.source import Fetched, KeySource
    from authz_service.telemetry.issuer_metrics import IssuerMetrics

_REFRESH_AHEAD = (0.6, 0.9)  # of the lifetime: leaves time for retries, and spreads many issuers' refreshes
_FIRST_BACKOFF = 1.0  # seconds
_MAX_BACKOFF_WITHOUT_KEYS = 5.0  # seconds: all of the issuer's tokens are denied until a fetch succeeds
_MAX_WAITING = 32  # requests waiting for a fetch: as many as can be decided in the last tenth of their deadline
_MAX_KID_LENGTH = 256  # characters; no provider uses longer ones, and they would fill the memory of absent ones
_MAX_LOGGED_KEYS = 10


class NoKey(Enum):
    """Why ``KeyCache.find`` returned no key."""

    ABSENT = "the issuer's key set has no such key"
    FETCH = "the key set may have it by now: await refresh_for_request, then call find again"
    UNAVAILABLE = "the issuer's keys are not available"


class KeyState(Enum):
    """Which keys verify an issuer's tokens. The values are log events."""

    FRESH = "fresh keys are in use"
    STALE = "stale keys are in use: no refresh has succeeded within their lifetime"
    NONE = "no usable keys: no refresh has succeeded within the lifetime of the last ones and outage_tolerance"


class KeyCache:
    """The keys of one issuer. All methods run on the event loop's thread."""

    def __init__(
        self,
        source: KeySource,
        settings: Keys,
        *,
        issuer: str,
        metrics: IssuerMetrics,
        logger: logging.Logger,
        clock: Callable[[], float],
        snapshots: SnapshotFile | None = None,
    ) -> None:
        """``issuer`` is its name in metrics and logs; ``clock`` returns seconds since the epoch."""
        self.issuer = issuer
        self.first_keys = asyncio.Event()  # set once there have been keys: readiness waits for it
        self.trials = KeyTrials()
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._logger = logger
        self._clock = clock
        self._snapshots = snapshots

        self._key_set: KeySet | None = None
        self._fetched_at = -math.inf
        self._fresh_until = -math.inf  # then they are stale: a refresh is overdue
        self._usable_until = -math.inf
        self._saved_at = -math.inf  # the _fetched_at of the last snapshot
        self._logged_state = KeyState.NONE
        self._logged_refusals: tuple[str, ...] = ()  # of the last key set

        self._fetch: SharedTask[None] | None = None
        self._failures = 0  # in a row
        self._schedule = FetchSchedule()
        self._waiting = 0  # requests in refresh_for_request
        self._request_fetch_at = -math.inf  # the earliest time at which a request may start another fetch
        self._absent = AbsentKids(settings.unknown_kid_cooldown, settings.refresh_interval)
        metrics.watch(
            age=lambda: clock() - self._fetched_at,
            stale=lambda: self.state(clock()) is not KeyState.FRESH,
            usable_until=lambda: max(0.0, self._usable_until),
        )

    # Lookup, on the path of a decision.

    def current(self, now: float) -> KeySet | None:
        """The usable keys; None before the first fetch and after too long an outage."""
        return self._key_set if now < self._usable_until else None

    @property
    def fetched_at(self) -> float:
        """When the provider delivered the keys, or confirmed them; minus infinity: never."""
        return self._fetched_at

    def state(self, now: float) -> KeyState:
        """Which keys are in use."""
        if self.current(now) is None:
            return KeyState.NONE
        return KeyState.FRESH if now < self._fresh_until else KeyState.STALE

    def find(self, kid: str | None, now: float, *, may_fetch: bool) -> tuple[Key, ...] | NoKey:
        """The keys that a token with this ``kid`` may be signed with; all keys where it has none.

        Returns ``NoKey.FETCH`` only if ``may_fetch``: then await ``refresh_for_request`` and call again without it.
        """
        key_set = self.current(now)
        if key_set is None:
            return NoKey.FETCH if may_fetch and self._may_wait(now) else NoKey.UNAVAILABLE
        keys = key_set.candidates(kid)
        if keys or kid is None:
            return keys
        return self.look_for_new_key(kid, now, may_fetch=may_fetch)

    def look_for_new_key(self, kid: str | None, now: float, *, may_fetch: bool) -> NoKey:
        """What to do about a token that a new key may have signed.

        Its ``kid`` is not in the key set, or no key has one and none of them verifies it.
        """
        if kid is not None:
            if may_fetch:
                self._metrics.record_unknown_kid()
            if len(kid) > _MAX_KID_LENGTH or self._absent.has(kid, now):
                return NoKey.ABSENT
        if may_fetch and self._may_wait(now):
            return NoKey.FETCH
        if self._failures or self._is_fetching:  # the provider may have published it
            return NoKey.UNAVAILABLE
        if kid is not None and not may_fetch:
            self._absent.add(kid, now)
        return NoKey.ABSENT

    def _may_wait(self, now: float) -> bool:
        """Whether another request may wait: for the fetch in flight, or for one that it may start."""
        if self._waiting >= _MAX_WAITING:
            return False
        longest = max(self._settings.unknown_kid_cooldown, self._settings.max_refresh_interval)
        # A cooldown that ends later than any can was started before the clock was set back.
        return self._is_fetching or not now < self._request_fetch_at <= now + 2 * longest

    def retry_after(self, now: float) -> int:
        """Seconds until the next scheduled fetch, for the caller's Retry-After."""
        return math.ceil(min(max(1.0, self._schedule.due_at - now), self._settings.refresh_interval))

    # Fetching.

    @property
    def _is_fetching(self) -> bool:
        return self._fetch is not None and not self._fetch.is_done

    async def refresh_for_request(self) -> None:
        """Wait for a fetch, on behalf of a request that got ``NoKey.FETCH``. A fetch that it starts starts a cooldown.

        The request's task may begin to run some turns of the loop after ``find``: the fetch may have ended since, and
        other requests may have taken the places for waiting.
        """
        now = self._clock()
        if not self._may_wait(now):
            return
        if not self._is_fetching:
            self._request_fetch_at = now + self._settings.unknown_kid_cooldown
        self._waiting += 1
        try:
            await self.refresh()
        finally:
            self._waiting -= 1

    async def refresh(self) -> None:
        """Wait for the fetch in flight; start one if there is none. Does not raise when it fails or is canceled."""
        if self._fetch is None or self._fetch.is_done:
            self._fetch = SharedTask(self._fetch_once(), name=f"fetch keys of {self.issuer}")
        await self._fetch.wait()

    async def run(self) -> None:
        """Keep the keys fresh until canceled."""
        try:
            await self._restore_snapshot()
            while True:
                await self.refresh()
                await self._save_snapshot()
                await self._schedule.wait()  # a fetch for a request may change the time
        finally:
            if self._fetch is not None:
                await self._fetch.cancel()
            await self._source.close()

    async def _fetch_once(self) -> None:
        started = self._clock()
        try:
            fetched = await self._source.fetch(have_keys=self._key_set is not None)
        except FetchFailed as failure:
            self._handle_failure(str(failure), started, failure.retry_after)
        except Exception as error:
            # A bug in a source must not end the background task, and all refreshes with it.
            self._logger.exception("fetching keys failed unexpectedly", extra=fields(issuer=self.issuer))
            self._handle_failure(f"unexpected {type(error).__name__}", started)
        else:
            self._handle_success(fetched, started)

    def _handle_success(self, fetched: Fetched, started: float) -> None:
        now = self._clock()
        self._failures = 0
        self._set_validity(now, fetched.lifetime)
        self._schedule.set(fetched.lifetime * random.uniform(*_REFRESH_AHEAD), now)  # noqa: S311 - spreads load
        self._metrics.record_fetch("not_modified" if fetched.key_set is None else "success", max(0.0, now - started))
        self._metrics.record_success(now)
        if fetched.key_set is not None:
            self._use(fetched.key_set)
        self._log_state(now)

    def _set_validity(self, fetched_at: float, lifetime: float) -> None:
        self._fetched_at = fetched_at
        self._fresh_until = fetched_at + lifetime
        self._usable_until = self._fresh_until + self._settings.outage_tolerance

    def _use(self, key_set: KeySet) -> None:
        changed = self._key_set is None or [key.identity for key in self._key_set.keys] != [
            key.identity for key in key_set.keys
        ]
        self._key_set = key_set
        self.first_keys.set()
        self._metrics.record_key_count(len(key_set.keys))
        if changed:
            kids = [key.kid for key in key_set.keys[:_MAX_LOGGED_KEYS]]
            extra = fields(issuer=self.issuer, keys=len(key_set.keys), kids=kids, rejected=len(key_set.refused))
            self._logger.info("new keys", extra=extra)
        self._log_refusals(key_set.refused)

    def _log_refusals(self, refused: tuple[str, ...]) -> None:
        """Log each unusable key once, and again only if it or its problem changes."""
        logged, self._logged_refusals = frozenset(self._logged_refusals), refused
        for line in dict.fromkeys(refused):
            if line not in logged:
                self._logger.info("unusable key", extra=fields(issuer=self.issuer, cause=line))

    def _handle_failure(self, cause: str, started: float, retry_after: float = 0.0) -> None:
        now = self._clock()
        self._failures += 1
        delay = self._retry_delay(now, retry_after)
        self._schedule.set(delay, now)
        if retry_after:  # no request starts a fetch before that time either
            self._request_fetch_at = max(self._request_fetch_at, now + delay)
        self._metrics.record_fetch("failure", max(0.0, now - started))
        self._logger.warning(
            "fetching keys failed",
            extra=fields(
                issuer=self.issuer,
                cause=cause,
                failures=self._failures,
                state=self.state(now).name.lower(),
                retry_in_s=round(delay, 3),
            ),
        )
        self._log_state(now)

    def _retry_delay(self, now: float, retry_after: float) -> float:
        """Seconds until the next attempt: a backoff, or what the provider's Retry-After requests within a limit."""
        settings = self._settings
        if self.state(now) is KeyState.NONE:  # all tokens are denied, so both limits are low
            max_backoff, max_retry_after = _MAX_BACKOFF_WITHOUT_KEYS, settings.min_refresh_interval
        else:
            max_backoff, max_retry_after = settings.min_refresh_interval, settings.max_refresh_interval
        delay = backoff.exponential(self._failures, initial=_FIRST_BACKOFF, maximum=max_backoff)
        return backoff.with_jitter(max(delay, min(retry_after, max_retry_after)), random.random())  # noqa: S311 - spreads load

    def _log_state(self, now: float) -> None:
        """Log each change between fresh, stale and no keys once."""
        state = self.state(now)
        if state is self._logged_state:
            return
        self._logged_state = state
        level = logging.INFO if state is KeyState.FRESH else logging.WARNING
        extra = fields(
            issuer=self.issuer,
            state=state.name.lower(),
            fetched=utc(self._fetched_at, "never"),
            stale_since=utc(self._fresh_until, "never"),
            usable_until=utc(self._usable_until, "never"),
        )
        self._logger.log(level, state.value, extra=extra)

    # Snapshots.

    async def _restore_snapshot(self) -> None:
        """Use the keys that an earlier run saved, unless they are too old."""
        if self._snapshots is None:
            return
        try:
            snapshot = await asyncio.to_thread(self._snapshots.load)
        except FetchFailed as failure:
            self._logger.warning("snapshot rejected", extra=fields(issuer=self.issuer, cause=str(failure)))
            return
        if snapshot is None or self._key_set is not None:  # a request may have fetched keys by now
            return
        now, lifetime = self._clock(), self._settings.refresh_interval
        usable_until = snapshot.at + lifetime + self._settings.outage_tolerance
        if not snapshot.at <= now < usable_until:
            cause = f"its keys are usable from {utc(snapshot.at, 'never')} until {utc(usable_until, 'never')}, not now"
            self._logger.warning("snapshot rejected", extra=fields(issuer=self.issuer, cause=cause))
            return
        self._set_validity(snapshot.at, lifetime)
        self._use(snapshot.key_set)
        self._log_state(now)

    async def _save_snapshot(self) -> None:
        """Write the keys to disk in a thread. A failure, such as a full disk, affects nothing else."""
        if self._snapshots is None or self._key_set is None or self._fetched_at == self._saved_at:
            return
        snapshot = Snapshot(self._key_set, self._fetched_at)
        try:
            await asyncio.to_thread(self._snapshots.save, snapshot)
        except OSError as error:
            self._logger.warning("snapshot not written", extra=fields(issuer=self.issuer, cause=error.strerror))
        else:
            self._saved_at = snapshot.at
