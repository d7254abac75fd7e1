"""One issuer's keys, kept so that no request ever waits for a key that is known.

Law: reading is a look at what is there: no lock, no task, no clock. Fetching happens beside it: in the background
ahead of need, with at most one fetch in flight, and at most one extra fetch a cool-down however many unknown key ids
the traffic brings. A failed fetch takes nothing away: the last good keys serve for ``outage_tolerance`` beyond the time
at which they were due, and after that the issuer's tokens are ``keys_unavailable``, which is nobody's bad token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from authz_service.core.errors import FetchFailed
from authz_service.keys.snapshot import Snapshot
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.config.model import Keys
    from authz_service.keys.keyset import Key, KeySet
    from authz_service.keys.snapshot import SnapshotFile
    from authz_service.keys.source import Fetched, KeySource
    from authz_service.telemetry.metrics import IssuerMetrics

_REFRESH_AHEAD = (0.6, 0.9)  # of the lifetime: time is left to try again, and a hundred issuers spread out
_JITTER = 0.1  # of a delay, so that many sidecars do not ask at once
_FIRST_RETRY = 1.0  # seconds after a first failure; doubled with each further one
_MAX_RETRY_WITHOUT_KEYS = 5.0  # seconds: nobody is served meanwhile, so recovery must be quick
_MAX_WAITING = 32  # requests that wait for one fetch: as many can still be answered in the last tenth of a deadline
_MAX_ABSENT = 1000  # key ids remembered as absent; the oldest make way
_MAX_TOLD = 10  # key ids in a log line
_MAX_KID = 256  # characters: a longer key id is in no provider's key set, and not worth remembering


class NoKey(Enum):
    """Why there is no key to verify with."""

    ABSENT = "the issuer's key set has no such key"
    FETCH = "it may be in the key set by now: await the refresh, then ask again"
    UNAVAILABLE = "the issuer's keys are not available"


class Serving(Enum):
    """Which keys an issuer's tokens are verified with."""

    FRESH = "fresh keys serve"
    STALE = "stale keys serve, since the provider cannot be reached"
    NOTHING = "no keys serve, since the provider could not be reached for too long"


class KeyCache:
    """The keys of one issuer. All methods belong to the event loop's thread."""

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
        """``issuer`` is its name in metrics and logs; ``clock`` gives seconds since the epoch."""
        self.issuer = issuer
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._logger = logger
        self._clock = clock
        self._snapshots = snapshots
        self.first_keys = asyncio.Event()  # set once there ever were keys: what readiness waits for
        self._key_set: KeySet | None = None
        self._fetched_at = -math.inf
        self._fresh_until = -math.inf  # beyond it the keys are stale: a refresh is overdue
        self._usable_until = -math.inf  # beyond it they do not serve
        self._told = Serving.NOTHING
        self._saved_at = -math.inf
        self._failures = 0
        self._retry_at = -math.inf  # when the next background fetch is due, by the clock on the wall
        self._fetch_due = -math.inf  # the same by the loop's clock
        self._rescheduled = asyncio.Event()
        self._extra_fetch_at = -math.inf  # from when on an unknown kid may cause a fetch
        self._waiting = 0
        # kid proven absent -> until when that is believed, and for how long it was
        self._absent: dict[str, tuple[float, float]] = {}
        self._fetch: asyncio.Task[None] | None = None
        metrics.watch(
            age=lambda: clock() - self._fetched_at,
            stale=lambda: self.serving(clock()) is not Serving.FRESH,
            usable_until=lambda: max(0.0, self._usable_until),
        )

    # Reading: what a decision calls.

    def current(self, now: float) -> KeySet | None:
        """The keys that may verify now; None before the first fetch and after too long an outage."""
        return self._key_set if now < self._usable_until else None

    def serving(self, now: float) -> Serving:
        """Which keys serve now."""
        if self.current(now) is None:
            return Serving.NOTHING
        return Serving.FRESH if now < self._fresh_until else Serving.STALE

    def find(self, kid: str | None, now: float, *, may_fetch: bool) -> tuple[Key, ...] | NoKey:
        """The keys that a token with this ``kid`` may mean.

        ``NoKey.FETCH`` is only answered when ``may_fetch``: await ``refresh_for_request()`` and ask again without it.
        """
        key_set = self.current(now)
        if key_set is None:
            return NoKey.FETCH if may_fetch and self._may_wait(now) else NoKey.UNAVAILABLE
        keys = key_set.named(kid)
        if keys or kid is None:
            return keys
        if may_fetch:
            self._metrics.unknown_kid()
        return self._unknown(kid, now, may_fetch=may_fetch)

    def _unknown(self, kid: str, now: float, *, may_fetch: bool) -> NoKey:
        if len(kid) > _MAX_KID or self._is_absent(kid, now):
            return NoKey.ABSENT
        if may_fetch and self._may_wait(now):
            return NoKey.FETCH
        if self._failures or self._in_flight:  # it may be there, and nobody can tell yet
            return NoKey.UNAVAILABLE
        if not may_fetch:
            self._remember_absent(kid, now)
        return NoKey.ABSENT

    def _remember_absent(self, kid: str, now: float) -> None:
        """Believe it for a cool-down at first, since a kid may be published after it was seen; then twice as long."""
        cooldown, longest = self._settings.unknown_kid_cooldown, self._settings.refresh_interval
        _, before = self._absent.pop(kid, (0.0, cooldown / 2))
        if len(self._absent) >= _MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        span = min(before * 2, max(longest, cooldown))
        self._absent[kid] = (now + span, span)

    def _is_absent(self, kid: str, now: float) -> bool:
        until, span = self._absent.get(kid, (now, 0.0))
        return until - span <= now < until  # nothing from the future, should the clock have been set back

    def _may_wait(self, now: float) -> bool:
        """Whether one more request may wait: for the fetch in flight, or for one that the cool-down allows."""
        if self._waiting >= _MAX_WAITING:
            return False
        longest = max(self._settings.unknown_kid_cooldown, self._settings.max_refresh_interval)
        return self._in_flight or not now < self._extra_fetch_at <= now + 2 * longest

    def retry_after(self, now: float) -> int:
        """Seconds after which asking again may help."""
        return math.ceil(min(max(1.0, self._retry_at - now), self._settings.refresh_interval))

    # Fetching: beside the decisions.

    @property
    def _in_flight(self) -> bool:
        return self._fetch is not None and not self._fetch.done()

    async def refresh_for_request(self) -> None:
        """What a request that was answered ``NoKey.FETCH`` awaits: a fetch shared by all, and then a cool-down.

        It is called in a task of its own, some turns of the loop after that answer: the fetch may have ended, and those
        that came together with it may wait already.
        """
        now = self._clock()
        if not self._may_wait(now):
            return
        if not self._in_flight:
            self._extra_fetch_at = now + self._settings.unknown_kid_cooldown
        self._waiting += 1
        try:
            await self.refresh()
        finally:
            self._waiting -= 1

    async def refresh(self) -> None:
        """Wait for the one fetch in flight, which is started when there is none.

        Never raises for a fetch that failed or was cancelled, and takes it from nobody when the waiting is cancelled.
        """
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._fetch_once(), name=f"fetch keys of {self.issuer}")
        await asyncio.wait([self._fetch])

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled."""
        try:
            await self._restore()
            while True:
                await self.refresh()
                await self._save()
                await self._due()
        finally:
            if self._fetch is not None:
                self._fetch.cancel()
                await asyncio.wait([self._fetch])
            await self._source.close()

    async def _due(self) -> None:
        """Wait for the time of the next fetch, which one made for a request may have moved either way.

        Measured by the loop's clock: the one on the wall can be set.
        """
        loop = asyncio.get_running_loop()
        while (delay := self._fetch_due - loop.time()) > 0:
            self._rescheduled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._rescheduled.wait()

    def _schedule(self, delay: float, now: float) -> None:
        self._retry_at = now + delay
        self._fetch_due = asyncio.get_running_loop().time() + delay
        self._rescheduled.set()

    async def _fetch_once(self) -> None:
        started = self._clock()
        try:
            fetched = await self._source.fetch(have_keys=self._key_set is not None)
        except FetchFailed as failure:
            self._failed(str(failure), started, failure.retry_after)
        except Exception as error:
            # A fault of ours must not end the background task: with it would end all refreshing.
            self._logger.exception("fetching keys failed unexpectedly", extra=fields(issuer=self.issuer))
            self._failed(f"unexpected {type(error).__name__}", started)
        else:
            self._succeeded(fetched, started)

    def _succeeded(self, fetched: Fetched, started: float) -> None:
        now = self._clock()
        self._failures = 0
        self._believe(now, fetched.lifetime)
        self._schedule(fetched.lifetime * random.uniform(*_REFRESH_AHEAD), now)  # noqa: S311 - spreads load
        self._metrics.fetched("not_modified" if fetched.key_set is None else "success", max(0.0, now - started))
        self._metrics.succeeded(now)
        if fetched.key_set is not None:
            self._take(fetched.key_set)
        self._tell_serving(now)

    def _believe(self, fetched_at: float, lifetime: float) -> None:
        self._fetched_at = fetched_at
        self._fresh_until = fetched_at + lifetime
        self._usable_until = self._fresh_until + self._settings.outage_tolerance

    def _take(self, key_set: KeySet) -> None:
        changed = self._key_set is None or [key.identity for key in self._key_set.keys] != [
            key.identity for key in key_set.keys
        ]
        self._key_set = key_set
        self.first_keys.set()
        self._metrics.keys(len(key_set.keys))
        if changed:
            kids = [key.kid for key in key_set.keys[:_MAX_TOLD]]
            refused = key_set.refused[:_MAX_TOLD]
            told = fields(issuer=self.issuer, keys=len(key_set.keys), kids=kids, refused=refused)
            self._logger.info("new keys", extra=told)

    def _failed(self, cause: str, started: float, retry_after: float = 0.0) -> None:
        now = self._clock()
        self._failures += 1
        serving = self.serving(now)
        settings = self._settings
        if serving is Serving.NOTHING:  # nobody gets in meanwhile, so its word counts for less
            longest, most_obeyed = _MAX_RETRY_WITHOUT_KEYS, settings.min_refresh_interval
        else:
            longest, most_obeyed = settings.min_refresh_interval, settings.max_refresh_interval
        delay = min(_FIRST_RETRY * 2.0 ** min(self._failures - 1, 16), longest)
        delay = max(delay, min(retry_after, most_obeyed)) * _jitter()
        self._schedule(delay, now)
        if retry_after:  # the provider asks to be left alone: requests do not ask it either
            self._extra_fetch_at = max(self._extra_fetch_at, now + delay)
        self._metrics.fetched("failure", max(0.0, now - started))
        self._logger.warning(
            "fetching keys failed",
            extra=fields(
                issuer=self.issuer,
                cause=cause,
                failures=self._failures,
                serving=serving.name.lower(),
                retry_in_s=round(delay, 3),
            ),
        )
        self._tell_serving(now)

    def _tell_serving(self, now: float) -> None:
        """Say when other keys begin to serve: stale ones, none, fresh ones again."""
        serving = self.serving(now)
        if serving is self._told:
            return
        self._told = serving
        level = logging.INFO if serving is Serving.FRESH else logging.WARNING
        told = fields(
            issuer=self.issuer,
            serving=serving.name.lower(),
            fetched=_moment(self._fetched_at),
            stale_since=_moment(self._fresh_until),
            usable_until=_moment(self._usable_until),
        )
        self._logger.log(level, serving.value, extra=told)

    # On disk.

    async def _restore(self) -> None:
        """Begin with the keys of an earlier run, if they are still to be believed."""
        if self._snapshots is None:
            return
        try:
            snapshot = await asyncio.to_thread(self._snapshots.load)
        except FetchFailed as failure:
            self._logger.warning("snapshot refused", extra=fields(issuer=self.issuer, cause=str(failure)))
            return
        now = self._clock()
        if snapshot is None or self._key_set is not None:  # a request may have fetched keys meanwhile
            return
        if not snapshot.at <= now < snapshot.at + self._settings.refresh_interval + self._settings.outage_tolerance:
            self._logger.warning("snapshot refused", extra=fields(issuer=self.issuer, cause="its time has passed"))
            return
        self._believe(snapshot.at, self._settings.refresh_interval)
        self._take(snapshot.key_set)
        self._tell_serving(now)

    async def _save(self) -> None:
        """Write the keys down beside the event loop; a disk that is full costs the snapshot and nothing else."""
        if self._snapshots is None or self._key_set is None or self._fetched_at == self._saved_at:
            return
        snapshot = Snapshot(self._key_set, self._fetched_at)
        try:
            await asyncio.to_thread(self._snapshots.save, snapshot)
        except OSError as error:
            self._logger.warning("snapshot not written", extra=fields(issuer=self.issuer, cause=error.strerror))
        else:
            self._saved_at = snapshot.at


def _moment(at: float) -> str:
    """A time for the log; one beyond all calendars is never."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError):
        return "never"


def _jitter() -> float:
    return 1.0 + random.uniform(-_JITTER, _JITTER)  # noqa: S311 - spreads load, guards nothing
