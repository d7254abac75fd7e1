"""Receives the security events of one issuer, so that what they revoke is refused within seconds.

Processes that share a snapshot file share a stream of events: the one that holds the file's lock polls, and the others
follow the file. Without a snapshot file, each process polls.

Invariants:
- An event is acknowledged once it takes effect and is saved. What cannot be saved takes effect, and is delivered again.
- No event is processed before the acknowledgments of earlier ones were delivered, or given up: then the transmitter
  delivers those events again, and they change nothing.
- ``run`` ends by cancellation only, and not before a write to the file has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar

from authz_service.core import backoff
from authz_service.core.errors import FetchFailed
from authz_service.telemetry.logs import fields
from authz_service.tokens.revocation.event_batch import BatchVerifier
from authz_service.tokens.revocation.event_store import EventStore
from authz_service.tokens.revocation.poll_client import MAX_SETS
from authz_service.tokens.revocation.receiver_log import ReceiverLog, Trouble

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence

    from authz_service.config.model import Issuer, SecurityEventsSettings
    from authz_service.keys.cache import KeyCache
    from authz_service.telemetry.issuer_metrics import SecurityEventMetrics
    from authz_service.tokens.revocation.event_batch import Batch
    from authz_service.tokens.revocation.event_file import EventFile
    from authz_service.tokens.revocation.event_token import RefusedSetError
    from authz_service.tokens.revocation.poll_client import PollResponse
    from authz_service.tokens.revocation.revocations import Revocation

P = ParamSpec("P")
T = TypeVar("T")

_FOLLOW_INTERVAL: Final = 0.5  # seconds
_MORE_INTERVAL: Final = 0.1  # seconds, while more events are available
_MAX_BACKOFF: Final = 60.0  # seconds
_MAX_RETRY_AFTER: Final = 300.0  # seconds: a transmitter cannot silence its events for longer by that header
_NO_WAIT_TIME: Final = 600.0  # seconds without waiting for events, after a poll that waited failed
_MAX_ACK_ATTEMPTS: Final = 3
_STEPS_PER_TURN: Final = 50  # of the event loop


class EventClient(Protocol):
    """What polls a transmitter: see ``PollClient``."""

    async def poll(self, acks: Sequence[str], errors: Mapping[str, RefusedSetError], *, wait: bool) -> PollResponse:
        """Acknowledge and refuse SETs, and get the next ones. Raises ``FetchFailed``."""

    async def close(self) -> None:
        """Close the connections."""


class EventReceiver:
    """Polls the events of one issuer, or follows the process that polls them."""

    def __init__(
        self,
        issuer: Issuer,
        settings: SecurityEventsSettings,
        keys: KeyCache,
        client: EventClient,
        file: EventFile | None,
        *,
        previous: EventReceiver | None,
        metrics: SecurityEventMetrics,
        logger: logging.Logger,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """``previous`` is the receiver of the previous configuration, whose events and age this one takes over.

        ``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock.
        """
        self.issuer = issuer
        self.settings = settings
        self.store: EventStore = (
            EventStore(issuer.event_lifetime, settings.max_entries) if previous is None else previous.store
        )
        self.restored = asyncio.Event()  # set once the file was read, or could not be, or if there is none
        self._client = client
        self._file = file
        self._verifier = BatchVerifier(issuer, keys, settings.audience, clock)
        self._metrics = metrics
        self._logger, self._log = logger, ReceiverLog(logger, issuer.label, timer)
        self._clock, self._timer = clock, timer
        self._timer_epoch: float = clock() - timer() if previous is None else previous._timer_epoch  # noqa: SLF001 - same class

        self._acks: Sequence[str] = ()  # to deliver with the next poll
        self._errors: Mapping[str, RefusedSetError] = {}
        self._is_reachable = False  # the last poll succeeded
        self._waits_from = timer()  # then a poll may wait for events
        self._failures = 0  # in a row
        self._may_save = False  # the file is locked by this process, and all of it was read
        # When the last poll was whose events all take effect and are saved, or the start.
        self._complete_at: float = timer() if previous is None else previous._complete_at  # noqa: SLF001 - same class
        metrics.watch(lambda: self._age)

    @property
    def _now(self) -> float:
        """The time for expiry, in seconds since the epoch: a clock that is set forward by mistake expires nothing."""
        return min(self._clock(), self._timer_epoch + self._timer())

    @property
    def _age(self) -> float:
        """Seconds since all events took effect and were saved."""
        return self._timer() - self._complete_at

    async def run(self) -> None:
        """Receive events until canceled."""
        self.store.set_limits(self.issuer.event_lifetime, self.settings.max_entries)
        if self._file is None:
            self.restored.set()
        elif len(self.store):
            self._file.require_replacement()
        try:
            while True:
                pause = await self._turn()
                self.restored.set()  # even if that failed unexpectedly
                await asyncio.sleep(pause)
        finally:
            if self._file is not None:
                self._file.unlock()
            await self._client.close()

    async def _turn(self) -> float:
        """Poll, or read what is new in the file; returns how many seconds to wait then."""
        try:
            await self._trim()
            if self._file is not None and not await self._leads(self._file):
                return _FOLLOW_INTERVAL
            return await self._poll()
        except Exception:
            # A bug must not end the receiving: the next events may be readable.
            self._logger.exception(
                "receiving security events failed unexpectedly", extra=fields(issuer=self.issuer.label)
            )
            return self._after_failure()

    # The file.

    async def _leads(self, file: EventFile) -> bool:
        """Read what is new in the file; returns whether it is for this process to poll."""
        try:
            self._may_save = leads = await _in_thread(file.lock)
            self._log.log_end(Trouble.LOCK)
        except OSError as error:
            self._may_save, leads = False, True
            self._log.log_file_trouble(Trouble.LOCK, file.lock_path, error)
        try:
            await self._read(file)
            self._log.log_end(Trouble.READ)
        except OSError as error:
            self._may_save = False
            self._log.log_file_trouble(Trouble.READ, file.path, error)
        if file.complete_at is not None and not (leads and self.restored.is_set()):
            self._complete_at = self._timer() - max(0.0, self._clock() - file.complete_at)
        self.restored.set()
        if self._may_save and file.lacks(self.store):
            await self._save((), self._age)
        self._log.log_role(leads=leads)
        return leads

    async def _read(self, file: EventFile) -> None:
        """Add what is new in the file to the store."""
        revocations = damaged = 0
        more = True
        while more:
            read, bad, more = await _in_thread(file.read)
            await self._add(read)
            revocations += len(read)
            damaged += bad
        self._log.log_read(revocations, damaged)

    async def _add(self, revocations: Sequence[Revocation]) -> None:
        """Let revocations take effect."""
        for start in range(0, len(revocations), _STEPS_PER_TURN):
            now, some = self._now, revocations[start : start + _STEPS_PER_TURN]
            self._metrics.record_evictions(sum(self.store.add(each, now) for each in some))
            await asyncio.sleep(0)

    async def _trim(self) -> None:
        """Remove what has expired, or what exceeds lower limits."""
        while self.store.needs_trim(now := self._now):
            self._metrics.record_evictions(self.store.trim(now, _STEPS_PER_TURN))
            await asyncio.sleep(0)

    async def _save(self, new: Sequence[Revocation], age: float) -> bool:
        """Save these revocations, which are in the store; returns whether that succeeded.

        ``age`` is how many seconds ago the store had all events.
        """
        if self._file is None:
            return True
        if not self._may_save:
            self._file.require_replacement()
            return False
        try:
            await _in_thread(self._file.save, new, self.store, self._clock() - age)
        except OSError as error:
            self._log.log_file_trouble(Trouble.SAVE, self._file.path, error)
            return False
        self._log.log_end(Trouble.SAVE)
        return True

    # Polling.

    async def _poll(self) -> float:
        """Poll once; returns how many seconds to wait before the next poll."""
        started = self._timer()
        waits = self._is_reachable and started >= self._waits_from
        try:
            response = await self._client.poll(self._acks, self._errors, wait=waits)
        except FetchFailed as failure:
            self._metrics.record_poll(self._timer() - started, success=False)
            if waits:
                self._waits_from = self._timer() + _NO_WAIT_TIME
            delay = self._after_failure(failure.retry_after)
            if self._failures >= _MAX_ACK_ATTEMPTS:  # perhaps because of them
                self._acks, self._errors = (), {}
            if not waits or self._failures > 1:  # a transmitter that only waits longer than we do works
                self._log.log_trouble(Trouble.POLL, str(failure))
            return delay
        self._metrics.record_poll(self._timer() - started, success=True)
        self._acks, self._errors = (), {}
        self._log.log_end(Trouble.POLL)
        batch = await self._verifier.verify(response.sets)
        if not await self._apply(batch):
            return self._after_failure()
        self._failures = 0
        self._is_reachable = True
        # A full response is followed at once, since ``moreAvailable`` is optional.
        has_more = response.more_available or len(response.sets) >= MAX_SETS
        return _MORE_INTERVAL if has_more and batch.has_news else self.settings.interval

    async def _apply(self, batch: Batch) -> bool:
        """Let events take effect and save them; returns whether they are saved."""
        self._errors = batch.errors
        for _ in batch.refusals:
            self._metrics.record_event("rejected")
        self._log.log_refusals(batch.refusals)
        revocations = [revocation for event in batch.events for revocation in event.revocations]
        await self._add(revocations)
        age = self._age if batch.waiting else 0.0
        if not await self._save(revocations, age):
            return False
        self._complete_at = self._timer() - age
        self._acks = batch.acks
        self._verifier.remember(batch)
        for event in batch.events:
            self._metrics.record_event(event.type)
        self._log.log_events(batch.events)
        if batch.waiting:
            self._log.log_trouble(Trouble.WAIT, f"{batch.waiting} of them")
        else:
            self._log.log_end(Trouble.WAIT)
        return True

    def _after_failure(self, retry_after: float = 0.0) -> float:
        """How many seconds to wait after another failure."""
        self._failures += 1
        self._is_reachable = False
        initial = self.settings.interval
        delay = backoff.exponential(self._failures, initial=initial, maximum=max(initial, _MAX_BACKOFF))
        delay = backoff.with_jitter(delay, random.random())  # noqa: S311 - spreads load
        return max(delay, min(retry_after, _MAX_RETRY_AFTER))


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work in a thread. A cancellation takes effect once the work has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # retrieved
        raise
