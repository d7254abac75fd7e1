"""Querying one issuer's introspection server, and caching its responses.

Owns when a request is sent and how many are. All methods belong to the event loop's thread.

Invariants:
- Callers with equal tokens share one request; one that stops waiting takes it from no other.
- At most ``max_concurrent`` requests are in flight. Of each kind of token (proven, others), at most twice as many are
  admitted, those that wait for a slot included.
- A request beyond these bounds, or while the circuit breaker is open, fails at once. None is sent twice.
- A failure is not cached: the next call sends a new request unless the circuit breaker is open.
- The cache holds digests and validated responses, never tokens.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.errors import FetchFailed
from authz_service.single_flight import SharedTask, SharedTaskCancelledError, SingleFlight
from authz_service.tokens.introspection.breaker import BreakerState, CircuitBreaker, Permit
from authz_service.tokens.introspection.cache import IntrospectionCache
from authz_service.tokens.introspection.client import ClientRefused, RequestRefused
from authz_service.tokens.introspection.limiter import Limiter
from authz_service.tokens.introspection.outage_log import OutageLog
from authz_service.tokens.introspection.response import (
    IntrospectionFailure,
    IntrospectionResponse,
    IntrospectionResult,
    VerifiedJwt,
    validate_response,
)
from authz_service.tokens.jwt import jws

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from authz_service.config.model import IntrospectionSettings, Issuer
    from authz_service.core.bounded import Bounds
    from authz_service.core.claims import Claims
    from authz_service.telemetry.issuer_metrics import IntrospectionMetrics, RefusalReason
    from authz_service.tokens.introspection.client import IntrospectionClient

IntrospectionRequest = SharedTask[IntrospectionResult]

_PROBE_BYTES = 32  # of randomness: no issuer ever issued this token
_MAX_RETRY_AFTER = 300.0  # seconds that a server can make callers wait
_ADMITTED_PER_SLOT = 2  # of each kind: one in flight, one waiting
_REFUSALS: dict[RefusalReason, str] = {
    "full": "too many requests are in flight and waiting",
    "open": "the circuit breaker is open",
}


class _Query(NamedTuple):
    """What one request is about."""

    token: str
    digest: bytes
    verified: Claims | None
    permit: Permit
    proven: bool


class Introspector:
    """What one issuer's introspection server responds about tokens, cached or requested."""

    def __init__(
        self,
        issuer: Issuer,
        settings: IntrospectionSettings,
        client: IntrospectionClient,
        *,
        metrics: IntrospectionMetrics,
        logger: logging.Logger,
        clock: Callable[[], float],
        timer: Callable[[], float],
        cache_bounds: Bounds,
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock."""
        self.issuer = issuer
        self.settings = settings
        self.clock = clock
        self._client = client
        self._metrics = metrics
        self._timer = timer
        self._cache = IntrospectionCache(cache_bounds)
        self._requests: SingleFlight[IntrospectionResult] = SingleFlight()
        self._admitted = {True: 0, False: 0}  # requests about proven tokens, and about others
        self._limiter = Limiter(settings.max_concurrent, lambda: self._cache.proven)
        self._in_flight = 0
        self._breaker = CircuitBreaker()
        self._probe: asyncio.Task[None] | None = None
        self._log = OutageLog(logger, issuer.label, timer)
        metrics.watch(
            in_flight=lambda: self._in_flight,
            state=lambda: self._breaker.state(timer()),
            entries=self._cache.__len__,
            size=lambda: self._cache.used_bytes,
        )

    def cached(self, digest: bytes, now: float) -> IntrospectionResponse | None:
        """The cached response for the token with this digest."""
        response = self._cache.get(digest, now)
        if response is not None:
            self._metrics.record_cache_hit()
        return response

    def copy_cache_of(self, older: Introspector) -> None:
        """Copy the cached responses of an older introspector, if it validated them by the same settings."""
        if older.issuer == self.issuer:
            self._cache.copy_from(older._cache)

    # Requests.

    def request_for(self, digest: bytes) -> IntrospectionRequest | None:
        """The request about the token with this digest, if there is one, for ``introspect`` to join."""
        return self._requests.get(digest)

    async def introspect(
        self,
        token: str,
        digest: bytes,
        verified: Claims | None = None,
        joined: IntrospectionRequest | None = None,
    ) -> IntrospectionResult:
        """The result for a token, by the one request that there is for it, or by a new one.

        ``verified`` are the claims of a JWT whose signature was verified. ``joined`` is the request that there was when
        the need arose; it may have ended since. Never raises for a failed request.
        """
        self._metrics.record_cache_miss()
        request = joined or self._requests.get(digest) or self._start(token, digest, verified)
        if isinstance(request, IntrospectionFailure):
            return request
        try:
            return await request.result()
        except SharedTaskCancelledError:
            return self._failure("the request was canceled")

    def _start(self, token: str, digest: bytes, verified: Claims | None) -> IntrospectionRequest | IntrospectionFailure:
        proven = verified is not None or self._cache.is_proven(digest)
        if self._admitted[proven] >= _ADMITTED_PER_SLOT * self.settings.max_concurrent:
            return self._refuse("full")
        permit = self._breaker.permit(self._timer(), proven=proven, max_wait=self.settings.timeout)
        if permit is None:
            return self._refuse("open")
        query = _Query(token, digest, verified, permit, proven)
        self._admitted[proven] += 1
        return self._requests.join(digest, partial(self._run, query), name=f"introspection at {self.issuer.label}")

    async def _run(self, query: _Query) -> IntrospectionResult:
        try:
            now = self._timer()
            if query.permit.at > now:
                await asyncio.sleep(query.permit.at - now)
            self._start_probe_if_due(max(query.permit.at, now))
            async with self._limiter.slot(proven=query.proven):
                if not self._breaker.is_valid(query.permit):  # its state changed while this waited
                    return self._refuse("open")
                response = await self._send(query.token, query.verified)
            self._cache.put(query.digest, response)
            self._breaker.record_response(query.permit)
            self._log.log_response()
            self._log.log_state(self._breaker)
        except Exception as error:  # noqa: BLE001 - a fault of ours is logged, and denies like any other failure
            return self._record_failure(self._as_failure(error), query)
        else:
            return response
        finally:
            self._admitted[query.proven] -= 1

    async def _send(self, token: str, verified: Claims | None) -> IntrospectionResponse:
        """Send one request and validate its response.

        Raises:
            FetchFailed: if there is none.
        """
        started = self._timer()
        self._in_flight += 1
        try:
            body = await self._client.introspect(token)
            jwt = None if verified is None else VerifiedJwt(jws.parse(token).header, verified)
            response = validate_response(self.issuer, self.settings, body, jwt, self.clock())
        except Exception:
            self._metrics.record_call("failure", self._timer() - started)
            raise
        finally:
            self._in_flight -= 1
        self._metrics.record_call("active" if response.active else "inactive", self._timer() - started)
        return response

    def _as_failure(self, error: Exception) -> FetchFailed:
        if isinstance(error, FetchFailed):
            return error
        self._log.log_fault(error)
        return FetchFailed(f"unexpected {type(error).__name__}")

    def _record_failure(self, failure: FetchFailed, query: _Query) -> IntrospectionFailure:
        if not isinstance(failure, RequestRefused):
            urgent = failure.retry_after > 0 or isinstance(failure, ClientRefused)
            self._breaker.record_failure(query.permit, query.digest, urgent=urgent)
        self._log.log_failure(failure)
        self._start_probe_if_due(self._timer())
        return self._failure(str(failure), failure.retry_after)

    def _refuse(self, reason: RefusalReason) -> IntrospectionFailure:
        self._metrics.record_refusal(reason)
        return self._failure(_REFUSALS[reason])

    def _failure(self, cause: str, retry_after: float = 0.0) -> IntrospectionFailure:
        wait = max(self._breaker.wait(self._timer()), min(retry_after, _MAX_RETRY_AFTER))
        return IntrospectionFailure(f"introspection at {self.issuer.label}: {cause}", max(1, math.ceil(wait)))

    # Probes: requests about tokens that no caller chose.

    def _start_probe_if_due(self, now: float) -> None:
        permit = self._breaker.permit_probe(now)
        if permit is not None:
            self._probe = asyncio.create_task(
                self._run_probe(permit), name=f"probe of introspection at {self.issuer.label}"
            )

    async def _run_probe(self, permit: Permit) -> None:
        failure: FetchFailed | None = None
        responded = was_closed = False
        try:
            async with self._limiter.slot(proven=True, first=True):
                await self._send(secrets.token_urlsafe(_PROBE_BYTES), None)
            responded = True
        except RequestRefused:
            responded = True
        except Exception as error:  # noqa: BLE001 - as in _run
            failure = self._as_failure(error)
        finally:  # also when it is canceled: without a result, the breaker would wait for one forever
            now = self._timer()
            was_closed = self._breaker.is_valid(permit) and self._breaker.state(now) is BreakerState.CLOSED
            self._breaker.record_probe(permit, now, responded=responded)
        if failure is not None:
            self._log.log_failed_probe(failure)
        elif was_closed:
            self._log.log_healthy_probe()
        self._log.log_state(self._breaker)

    # Start and end.

    async def run(self) -> None:
        """Prepare the client for the first request, and close when canceled."""
        try:
            await self._client.prepare()
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel all requests, and close the connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._requests.close()
        await self._client.close()
