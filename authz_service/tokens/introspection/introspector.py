"""Asking one issuer about its tokens: each token once, a bounded number at a time, and nobody who is not there.

Law: all in the event loop, without threads and locks. Equal tokens share one call; a caller that stops waiting takes it
from nobody. At most ``max_concurrent`` calls are in flight. Twice as many may be under way, waiting ones included,
about tokens that anybody could have invented, and as many again about proven ones (``Limiter``). What comes beyond, or
while the breaker is open, is refused at once. Nothing is tried twice. What is kept is what the server said, under a
digest.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from authz_service.core.errors import FetchFailed
from authz_service.telemetry.logs import fields
from authz_service.tokens.introspection.breaker import Breaker, Permit, State, whole_seconds
from authz_service.tokens.introspection.cache import IntrospectionCache
from authz_service.tokens.introspection.limiter import Limiter
from authz_service.tokens.introspection.response import (
    IntrospectionFailure,
    IntrospectionResponse,
    IntrospectionResult,
    evaluate,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from authz_service.config.model import Introspection, Issuer
    from authz_service.core.bounded import Bounds
    from authz_service.core.claims import Claims
    from authz_service.telemetry.metrics import IntrospectionMetrics, Refused

_SUCCESSES_TO_RECOVER = 5  # in a row, before the log says so: a server that answers now and then has not recovered
_TELL_AGAIN = 60.0  # seconds between two lines about the same kind of trouble: callers can provoke some kinds
_PROBE_BYTES = 32  # of randomness: nobody ever issued this token
_MAX_RETRY_AFTER = 300.0  # seconds; what a server may make callers wait, whatever it asks for
_REFUSALS: dict[Refused, str] = {
    "full": "too many calls are in flight and waiting",
    "open": "the server is left alone for a while",
}


class ClientRefused(FetchFailed):
    """The server does not accept our client credentials, or does not let this client ask."""


class Forbidden(FetchFailed):
    """Status 403: it does not let this client ask, or something in front of it dislikes the token."""


class RequestRefused(FetchFailed):
    """The server works, and does not answer this question: nothing to leave it alone for."""


class Client(Protocol):
    """Asks a server about a token."""

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """What the server says of it.

        Raises:
            FetchFailed: when it says nothing that can be read, within the time that a call may take.
        """

    async def prepare(self) -> None:
        """Get ready what the first call would have to wait for. Never raises for what cannot be had yet."""

    async def close(self) -> None:
        """Let go of connections."""


class IntrospectionRequest:
    """One call about a token, and who waits for it."""

    task: asyncio.Task[None]

    def __init__(self, token: str, digest: bytes, verified: Claims | None, permit: Permit, *, proven: bool) -> None:
        self.token = token
        self.digest = digest
        self.verified = verified
        self.permit = permit
        self.proven = proven
        self._waiting: set[asyncio.Future[IntrospectionResult]] = set()
        self._ended: IntrospectionResult | None = None

    async def outcome(self) -> IntrospectionResult:
        """Wait for it. A future for each who waits, so that thousands may come and go at no cost to each other."""
        if self._ended is not None:
            return self._ended
        mine: asyncio.Future[IntrospectionResult] = asyncio.get_running_loop().create_future()
        self._waiting.add(mine)
        try:
            return await mine
        finally:
            self._waiting.discard(mine)

    def end(self, outcome: IntrospectionResult) -> None:
        """It ended so, for all who wait, and for who joined it and comes to wait now."""
        self._ended = outcome
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
        self._cache = IntrospectionCache(remembered)
        self._calls: dict[bytes, IntrospectionRequest] = {}
        self._under_way = {True: 0, False: 0}  # calls about proven tokens, and about others
        self._limiter = Limiter(settings.max_concurrent, lambda: self._cache.proven)
        self._in_flight = 0
        self._breaker = Breaker()
        self._probing: asyncio.Task[None] | None = None
        self._troubles: dict[str, float] = {}  # what the log was told, and when
        self._logged_open = False
        self._recovered = True
        self._successes = 0  # in a row, since the last failure
        metrics.watch(
            in_flight=lambda: self._in_flight,
            state=lambda: self._breaker.state(timer()),
            entries=self._cache.__len__,
            size=lambda: self._cache.used_bytes,
        )

    # Reading: what a decision calls.

    def cached(self, digest: bytes, now: float) -> IntrospectionResponse | None:
        """What is remembered of the token with this digest."""
        answer = self._cache.get(digest, now)
        if answer is not None:
            self._metrics.cache_hit()
        return answer

    def in_flight(self, digest: bytes) -> IntrospectionRequest | None:
        """The call about the token with this digest, for ``introspect``."""
        return self._calls.get(digest)

    def copy_cache_of(self, older: Introspector) -> None:
        """Take over what an older one remembers, if it judged by the same settings."""
        if older.issuer == self.issuer:
            self._cache.copy_from(older._cache)

    # Asking.

    async def introspect(
        self, token: str, digest: bytes, verified: Claims | None = None, joined: IntrospectionRequest | None = None
    ) -> IntrospectionResult:
        """What the server says, by the one call under way for this token, which is begun when there is none.

        ``verified`` are the claims of a JWT whose signature was verified. ``joined`` is the call that was under way
        when the need to ask arose; it may have ended since. Never raises for a call that failed.
        """
        self._metrics.cache_miss()
        call = joined or self._calls.get(digest)
        if call is None:
            begun = self._begin(token, digest, verified)
            if isinstance(begun, IntrospectionFailure):
                return begun
            call = begun
        return await call.outcome()

    def _begin(self, token: str, digest: bytes, verified: Claims | None) -> IntrospectionRequest | IntrospectionFailure:
        proven = verified is not None or self._cache.is_proven(digest)
        if self._under_way[proven] >= 2 * self.settings.max_concurrent:
            return self._refused("full")
        permit = self._breaker.permit(self._timer(), proven=proven, max_wait=self.settings.timeout)
        if permit is None:
            return self._refused("open")
        self._under_way[proven] += 1
        call = self._calls[digest] = IntrospectionRequest(token, digest, verified, permit, proven=proven)
        call.task = asyncio.create_task(self._run(call), name=f"introspection at {self.issuer.label}")
        return call

    async def _run(self, call: IntrospectionRequest) -> None:
        outcome: IntrospectionResult | None = None
        try:
            await self._wait_until(call.permit.at)
            async with self._limiter.slot(proven=call.proven):
                outcome = await self._asked(call)
        finally:  # whatever happened: nobody waits for what will not come
            del self._calls[call.digest]
            self._under_way[call.proven] -= 1
            call.end(self._unavailable("the call was given up") if outcome is None else outcome)

    async def _wait_until(self, at: float) -> None:
        """Wait for the time of the next try, if there is one to wait for, and let the probe begin with it."""
        now = self._timer()
        if at > now:
            await asyncio.sleep(at - now)
        self._probe(max(at, now))

    async def _asked(self, call: IntrospectionRequest) -> IntrospectionResult:
        if not self._breaker.holds(call.permit):
            return self._refused("open")
        try:
            answer = await self._answer(call.token, call.verified)
        except FetchFailed as failure:
            return self._failed(failure, call)
        self._cache.put(call.digest, answer)
        self._succeeded(call.permit)
        return answer

    async def _answer(self, token: str, verified: Claims | None) -> IntrospectionResponse:
        """What the server says of a token.

        Raises:
            FetchFailed: when it says nothing, also for a fault of ours, which is no answer.
        """
        started = self._timer()
        self._in_flight += 1
        try:
            said = await self._client.introspect(token)
            answer = evaluate(self.issuer, self.settings, said, verified, self.clock())
        except FetchFailed:
            self._metrics.called("failure", self._timer() - started)
            raise
        except Exception as fault:
            self._metrics.called("failure", self._timer() - started)
            self._logger.exception("introspection failed unexpectedly", extra=fields(issuer=self.issuer.label))
            raise FetchFailed(f"unexpected {type(fault).__name__}") from None
        finally:
            self._in_flight -= 1
        self._metrics.called("active" if answer.active else "inactive", self._timer() - started)
        return answer

    def _succeeded(self, permit: Permit) -> None:
        self._breaker.answered(permit)
        self._successes += 1
        if not self._recovered and self._successes >= _SUCCESSES_TO_RECOVER:
            self._recovered = True
            self._logger.info("introspection works again", extra=fields(issuer=self.issuer.label))
        self._tell_state()

    def _failed(self, failure: FetchFailed, call: IntrospectionRequest) -> IntrospectionFailure:
        if not isinstance(failure, RequestRefused):
            urgent = failure.retry_after > 0 or isinstance(failure, ClientRefused)
            self._breaker.failed(call.permit, call.digest, urgent=urgent)
        self._successes = 0
        self._tell_trouble(failure)
        self._probe(self._timer())
        return self._unavailable(str(failure), failure.retry_after)

    def _refused(self, reason: Refused) -> IntrospectionFailure:
        self._metrics.refused(reason)
        return self._unavailable(_REFUSALS[reason])

    def _unavailable(self, cause: str, retry_after: float = 0.0) -> IntrospectionFailure:
        wait = max(self._breaker.wait(self._timer()), min(retry_after, _MAX_RETRY_AFTER))
        return IntrospectionFailure(f"introspection at {self.issuer.label}: {cause}", whole_seconds(wait))

    # Probing: what only the server has a part in.

    def _probe(self, now: float) -> None:
        """Ask about a token that nobody sent, where that is due."""
        permit = self._breaker.probe(now)
        if permit is not None:
            self._probing = asyncio.create_task(
                self._run_probe(permit), name=f"probe of introspection at {self.issuer.label}"
            )

    async def _run_probe(self, permit: Permit) -> None:
        failure: FetchFailed | None = FetchFailed("the probe was given up")
        suspected = False
        try:
            async with self._limiter.slot(proven=True, first=True):
                failure = await self._failure_of_probe()
        finally:  # whatever happened: without a result, the breaker would wait for one forever
            now = self._timer()
            suspected = self._breaker.holds(permit) and self._breaker.state(now) is State.CLOSED
            self._breaker.probed(permit, now, answered=failure is None)
        if failure is not None:
            # No token of a caller's can be to blame for this.
            self._tell_trouble(ClientRefused(str(failure)) if isinstance(failure, Forbidden) else failure)
        elif suspected:
            self._log_dispelled()
        self._tell_state()

    async def _failure_of_probe(self) -> FetchFailed | None:
        try:
            await self._answer(secrets.token_urlsafe(_PROBE_BYTES), None)
        except RequestRefused:
            return None
        except FetchFailed as failure:
            return failure
        return None

    # Logging.

    def _tell_trouble(self, failure: FetchFailed) -> None:
        """Once a minute for each kind of trouble, and not once a request."""
        if not self._is_news(type(failure).__name__):
            return
        self._recovered = False
        told = fields(issuer=self.issuer.label, cause=str(failure))
        if isinstance(failure, ClientRefused):
            self._logger.error("the introspection server refuses this client", extra=told)
        else:
            self._logger.warning("introspection failed", extra=told)

    def _log_dispelled(self) -> None:
        if self._is_news("dispelled"):
            told = fields(issuer=self.issuer.label)
            self._logger.warning("introspection fails for some tokens alone; the server answers", extra=told)

    def _tell_state(self) -> None:
        """Say when the server begins to be left alone, at most once a minute, and when that is over."""
        now = self._timer()
        is_open = self._breaker.state(now) is not State.CLOSED
        if is_open and not self._logged_open and self._is_news("open"):
            self._logged_open = True
            wait = round(self._breaker.wait(now), 3)
            told = fields(issuer=self.issuer.label, breaker=State.OPEN, retry_in_s=wait)
            self._logger.warning("introspection is left alone for a while", extra=told)
        elif not is_open and self._logged_open:
            self._logged_open = False
            told = fields(issuer=self.issuer.label, breaker=State.CLOSED)
            self._logger.info("introspection is asked again", extra=told)

    def _is_news(self, kind: str) -> bool:
        now = self._timer()
        if now - self._troubles.get(kind, -math.inf) < _TELL_AGAIN:
            return False
        self._troubles[kind] = now
        return True

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
        tasks = [call.task for call in calls] + ([] if self._probing is None else [self._probing])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._calls.clear()
        for call in calls:  # those that were not even begun
            call.end(self._unavailable("the call was given up"))
        await self._client.close()
