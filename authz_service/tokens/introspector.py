"""Asking one issuer about its tokens: each token once, a bounded number at a time, and nobody who is not there.

Law: all in the event loop, without threads and locks. Equal tokens share one call; a caller that stops waiting takes it
from nobody. At most ``max_concurrent`` calls are in flight and as many wait for their turn; what comes beyond, or while
the breaker is open, is told so at once. Nothing is tried twice. What is kept is what the server said, under a digest.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any, Protocol

from authz_service.core.errors import FetchFailed
from authz_service.telemetry.logs import fields
from authz_service.tokens.breaker import Breaker, State, whole_seconds
from authz_service.tokens.introspection import Answer, Unavailable, judge
from authz_service.tokens.introspection_cache import AnswerCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.config.model import Introspection, Issuer
    from authz_service.core.bounded import Bounds
    from authz_service.core.claims import Claims
    from authz_service.telemetry.metrics import IntrospectionMetrics

_SUCCESSES_TO_RECOVER = 5  # in a row, before the log says so: a server that answers now and then has not recovered
_TELL_AGAIN = 60.0  # seconds between two lines about the same kind of trouble: callers can provoke some kinds
_STATES = {
    State.CLOSED: (logging.INFO, "introspection is asked again"),
    State.OPEN: (logging.WARNING, "introspection is left alone for a while"),
}


class ClientRefused(FetchFailed):
    """The server does not accept our client credentials, or does not let this client ask."""


class QuestionRefused(FetchFailed):
    """The server works, and does not answer this question: nothing to leave it alone for."""


class Client(Protocol):
    """Asks a server about a token."""

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """What the server says of it.

        Raises:
            FetchFailed: when it says nothing that can be read, within the time that a call may take.
        """

    async def prepare(self) -> None:
        """Get ready what the first call would have to wait for. Never raises for what can not be had yet."""

    async def close(self) -> None:
        """Let go of connections."""


class _Call:
    """One call and who waits for it."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[Answer | Unavailable]] = set()

    async def outcome(self) -> Answer | Unavailable:
        """Wait for it. A future for each who waits, so that thousands may come and go at no cost to each other."""
        mine: asyncio.Future[Answer | Unavailable] = asyncio.get_running_loop().create_future()
        self._waiting.add(mine)
        try:
            return await mine
        finally:
            self._waiting.discard(mine)

    def end(self, outcome: Answer | Unavailable) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(outcome)


class Introspector:
    """Knows, or asks, what one issuer says of its tokens. All methods belong to the event loop's thread."""

    def __init__(
        self,
        issuer: Issuer,
        settings: Introspection,
        client: Client,
        *,
        metrics: IntrospectionMetrics,
        logger: logging.Logger,
        clock: Callable[[], float],
        timer: Callable[[], float],
        remembered: Bounds,
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a clock that is never set.

        ``remembered`` bounds the answers.
        """
        self.issuer = issuer
        self.settings = settings
        self.clock = clock
        self._client = client
        self._metrics = metrics
        self._logger = logger
        self._timer = timer
        self._cache = AnswerCache(remembered)
        self._calls: dict[bytes, _Call] = {}
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._in_flight = 0
        self._breaker = Breaker()
        self._troubles: dict[str, float] = {}  # what the log was told, and when
        self._recovered = True
        self._successes = 0  # in a row, since the last failure
        metrics.watch(
            in_flight=lambda: self._in_flight,
            state=lambda: self._breaker.state(timer()),
            entries=self._cache.__len__,
            size=lambda: self._cache.used_bytes,
        )

    # Reading: what a decision calls.

    def look(self, digest: bytes, now: float) -> Answer | None:
        """What is remembered of the token with this digest."""
        answer = self._cache.get(digest, now)
        if answer is not None:
            self._metrics.cache_hit()
        return answer

    def remember(self, older: Introspector) -> None:
        """Take over what an older one remembers, if it judged by the same settings."""
        if older.issuer == self.issuer:
            self._cache.fill(older._cache)

    # Asking.

    async def ask(self, token: str, digest: bytes, verified: Claims | None = None) -> Answer | Unavailable:
        """What the server says, by the one call in flight for this token, which is begun when there is none.

        ``verified`` are the claims of a JWT whose signature was verified. Never raises for a call that failed.
        """
        self._metrics.cache_miss()
        call = self._calls.get(digest)
        if call is None:
            begun = self._begin(token, digest, verified)
            if isinstance(begun, Unavailable):
                return begun
            call = begun
        return await call.outcome()

    def _begin(self, token: str, digest: bytes, verified: Claims | None) -> _Call | Unavailable:
        if len(self._calls) >= 2 * self.settings.max_concurrent:
            return self._unavailable("too many calls are in flight and waiting")
        permit = self._breaker.permit(self._timer())
        if permit is None:
            return self._unavailable("the server is left alone for a while")
        call = self._calls[digest] = _Call()
        call.task = asyncio.create_task(
            self._run(call, token, digest, verified, permit), name=f"introspection at {self.issuer.label}"
        )
        return call

    async def _run(self, call: _Call, token: str, digest: bytes, verified: Claims | None, permit: int) -> None:
        outcome: Answer | Unavailable | None = None
        try:
            async with self._slots:
                outcome = await self._asked(token, digest, verified, permit)
        finally:  # whatever happened: nobody waits for what will not come
            self._calls.pop(digest, None)
            call.end(self._unavailable("the call was given up") if outcome is None else outcome)

    async def _asked(self, token: str, digest: bytes, verified: Claims | None, permit: int) -> Answer | Unavailable:
        if not self._breaker.holds(permit):
            return self._unavailable("the server failed while this call waited for its turn")
        started = self._timer()
        self._in_flight += 1
        try:
            said = await self._client.introspect(token)
            answer = judge(self.issuer, self.settings, said, verified, self.clock())
        except FetchFailed as failure:
            return self._failed(failure, permit, started)
        except Exception as fault:
            # A fault of ours is no answer, and must not leave those who wait without one.
            self._logger.exception("introspection failed unexpectedly", extra=fields(issuer=self.issuer.label))
            return self._failed(FetchFailed(f"unexpected {type(fault).__name__}"), permit, started)
        finally:
            self._in_flight -= 1
        self._cache.put(digest, answer)
        self._succeeded(answer, permit, started)
        return answer

    def _succeeded(self, answer: Answer, permit: int, started: float) -> None:
        now = self._timer()
        self._metrics.called("active" if answer.active else "inactive", max(0.0, now - started))
        before = self._breaker.state(now)
        self._breaker.succeeded(permit)
        self._successes += 1
        if not self._recovered and self._successes >= _SUCCESSES_TO_RECOVER:
            self._recovered = True
            self._logger.info("introspection works again", extra=fields(issuer=self.issuer.label))
        self._tell_state(before, now)

    def _failed(self, failure: FetchFailed, permit: int, started: float) -> Unavailable:
        now = self._timer()
        self._metrics.called("failure", max(0.0, now - started))
        before = self._breaker.state(now)
        if isinstance(failure, QuestionRefused):
            self._breaker.succeeded(permit)
        else:
            self._breaker.failed(permit, now, failure.retry_after)
        self._successes = 0
        self._tell_trouble(failure, now)
        self._tell_state(before, now)
        return self._unavailable(str(failure))

    def _tell_trouble(self, failure: FetchFailed, now: float) -> None:
        """Once a minute for each kind of trouble, and not once a request."""
        kind = type(failure).__name__
        if now - self._troubles.get(kind, -math.inf) < _TELL_AGAIN:
            return
        self._troubles[kind] = now
        self._recovered = False
        told = fields(issuer=self.issuer.label, cause=str(failure))
        if isinstance(failure, ClientRefused):
            self._logger.error("the introspection server refuses this client", extra=told)
        else:
            self._logger.warning("introspection failed", extra=told)

    def _tell_state(self, before: State, now: float) -> None:
        state = self._breaker.state(now)
        if state is not before:
            level, event = _STATES[state]
            wait = round(self._breaker.wait(now), 3)
            self._logger.log(level, event, extra=fields(issuer=self.issuer.label, breaker=state, retry_in_s=wait))

    def _unavailable(self, cause: str) -> Unavailable:
        wait = whole_seconds(self._breaker.wait(self._timer()))
        return Unavailable(f"introspection at {self.issuer.label}: {cause}", wait)

    # Beginning and end.

    async def run(self) -> None:
        """Be ready for the first call, until cancelled."""
        try:
            await self._client.prepare()
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """End what is in flight, and let go of the connections."""
        calls = list(self._calls.values())
        for call in calls:
            call.task.cancel()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
        self._calls.clear()
        for call in calls:  # those that were not even begun
            call.end(self._unavailable("the call was given up"))
        await self._client.close()
