"""One CheckResponse for every call, whatever happens.

Invariants: any bytes are answered with an explicit decision, at once or after a wait that never outlives the deadline.
Nothing is raised except on cancellation, and no task is created unless the decision needs the network. A gRPC error
would let the request through wherever Envoy runs with ``failure_mode_allow: true``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.correlation import correlation_of
from authz_service.core.decision import INTERNAL_ERROR, Decision, Deny
from authz_service.core.errors import Rejected
from authz_service.telemetry.spans import Wait
from authz_service.tokens.validator import NeedKeys
from authz_service.transport.ext_authz import codec
from authz_service.transport.ext_authz.codec import NO_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from authz_service.authorizer import Authorizer
    from authz_service.core.correlation import Correlation
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.telemetry.metrics import Metrics
    from authz_service.telemetry.spans import SpanName

# The part of the caller's deadline that is left for the response to arrive; the minimum is enough to answer a burst.
_MARGIN = 0.1
_MIN_MARGIN = 0.05  # seconds
_LAST_RESORT_ID = "-"
# Encoded before anything can fail.
_LAST_RESORT = codec.encode_response(INTERNAL_ERROR, _LAST_RESORT_ID)
_LAST_RESORT_TO_GRPC = codec.encode_response(
    INTERNAL_ERROR, _LAST_RESORT_ID, Attributes("POST", "", "", {"content-type": "application/grpc"})
)


class Servicer:
    """Answers the calls that a transport receives. ``active`` may be replaced at any time, as a whole."""

    def __init__(
        self, active: ActiveConfig, *, metrics: Metrics, clock: Callable[[], float], timer: Callable[[], float]
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock."""
        self.active = active
        self._metrics = metrics
        self._clock = clock
        self._timer = timer
        self._logger = logging.getLogger("authz.check")

    async def check(self, data: bytes, time_remaining: float | None, traceparent: str = "") -> bytes:
        """As ``answer``, for a transport that always awaits."""
        answer = self.answer(data, time_remaining, traceparent)
        return answer if isinstance(answer, bytes) else await answer

    def answer(
        self, data: bytes, time_remaining: float | None, traceparent: str = ""
    ) -> bytes | Coroutine[None, None, bytes]:
        """The bytes of the CheckResponse to a CheckRequest, or a coroutine for them if the network is needed.

        ``time_remaining`` is the caller's, in seconds, if it set a deadline. ``traceparent`` is that of the call: the
        span of an Envoy that traces. If the trace begins at this Envoy, the request's own headers lack it.
        """
        started = self._timer()
        config = self.active  # a call keeps the configuration under which it began
        self._metrics.in_flight += 1
        attributes = NO_ATTRIBUTES
        try:
            attributes = _decode(data, config.max_request_bytes, traceparent)
            if attributes is NO_ATTRIBUTES:
                return self._respond(attributes, codec.NOT_A_CHECK_REQUEST, config, started)
            decision = config.authorizer.begin(attributes, self._clock())
            if isinstance(decision, Pending):
                attributes = decision.attributes = _without_message(attributes)
                budget = _budget(time_remaining, config.check_deadline)
                return self._finish(decision, budget, attributes, config, started)
            return self._respond(attributes, decision, config, started)
        except Exception as error:  # noqa: BLE001 - whatever it was, the response is an explicit denial
            return self._last_resort(error, attributes, config, started)
        finally:
            self._metrics.in_flight -= 1

    def refuse(self, denial: Deny) -> bytes:
        """The bytes of a denial that the transport made itself, for a call that contains no readable request."""
        started = self._timer()
        config = self.active
        try:
            return self._respond(NO_ATTRIBUTES, denial, config, started)
        except Exception as error:  # noqa: BLE001 - as above
            return self._last_resort(error, NO_ATTRIBUTES, config, started)

    async def _finish(
        self, pending: Pending, budget: float, attributes: Attributes, config: ActiveConfig, started: float
    ) -> bytes:
        self._metrics.in_flight += 1
        try:
            waiting = self._timer()
            decision = await self._await_decision(pending, config.authorizer, budget)
            wait = self._wait(pending, started, waiting) if self._metrics.traced else None
            return self._respond(attributes, decision, config, started, wait)
        except Exception as error:  # noqa: BLE001 - as above
            return self._last_resort(error, attributes, config, started)
        finally:
            self._metrics.in_flight -= 1

    async def _await_decision(self, pending: Pending, authorizer: Authorizer, budget: float) -> Decision:
        try:
            async with asyncio.timeout(budget):
                await pending.ready()
        except TimeoutError:
            return authorizer.too_late(pending)
        return authorizer.finish(pending, self._clock())

    def _wait(self, pending: Pending, started: float, waiting: float) -> Wait:
        name: SpanName = "key fetch" if isinstance(pending.need, NeedKeys) else "introspection"
        return Wait(name, pending.need.issuer, waiting - started, self._timer() - waiting)

    def _respond(
        self,
        attributes: Attributes,
        decision: Decision,
        config: ActiveConfig,
        started: float,
        wait: Wait | None = None,
    ) -> bytes:
        decision_id = f"{random.getrandbits(64):016x}"
        correlation = correlation_of(attributes.headers, attributes.traceparent)
        response = codec.encode_response(decision, decision_id, attributes, config.metadata, correlation)
        self._record(attributes, decision, decision_id, correlation, config, started, wait)
        return response

    def _record(
        self,
        attributes: Attributes,
        decision: Decision,
        decision_id: str,
        correlation: Correlation,
        config: ActiveConfig,
        started: float,
        wait: Wait | None = None,
    ) -> None:
        seconds = self._timer() - started
        config.decision_log.write(attributes, decision, decision_id, correlation, seconds)
        self._metrics.record_decision(decision, seconds, correlation, wait)

    def _last_resort(self, error: Exception, attributes: Attributes, config: ActiveConfig, started: float) -> bytes:
        """Deny, and log why."""
        response = _LAST_RESORT
        try:
            if codec.is_grpc(attributes):
                response = _LAST_RESORT_TO_GRPC
            self._logger.error("decision failed", exc_info=error)
            correlation = correlation_of(attributes.headers, attributes.traceparent)
            self._record(attributes, INTERNAL_ERROR, _LAST_RESORT_ID, correlation, config, started)
        except Exception:  # noqa: BLE001, S110 - logging itself failed, and the caller must get a denial all the same
            pass
        return response


def _decode(data: bytes, max_request_bytes: int, traceparent: str) -> Attributes:
    """The attributes of a CheckRequest; ``NO_ATTRIBUTES`` if the bytes are not one, or too many."""
    if len(data) > max_request_bytes:
        return NO_ATTRIBUTES
    try:
        return codec.decode_request(data, traceparent)
    except Rejected:
        return NO_ATTRIBUTES


def _without_message(attributes: Attributes) -> Attributes:
    """The attributes of a call that waits: they do not keep the message alive, which may contain a body."""
    return attributes._replace(headers=dict(attributes.headers))


def _budget(time_remaining: float | None, check_deadline: float) -> float:
    """Seconds for the decision, so that the response arrives before the deadline."""
    if time_remaining is None:
        return check_deadline
    return min(check_deadline, time_remaining - max(time_remaining * _MARGIN, _MIN_MARGIN))
