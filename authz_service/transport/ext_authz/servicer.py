"""Answering one call, whatever happens.

Law: ``answer`` returns the bytes of an explicit decision for any bytes, or what awaits it. It never raises but
for cancellation, never outlives its deadline, and needs no task where the decision needs no network. A gRPC error would
let the request through wherever the mesh runs with ``failure_mode_allow: true``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.decision import INTERNAL_ERROR, Decision, Deny
from authz_service.core.errors import Rejected
from authz_service.transport.ext_authz import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from authz_service.authorizer import Authorizer
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.telemetry.metrics import Metrics

# Of the caller's deadline, what is left for the answer's way: a tenth, and with a short one enough to answer a crowd.
_MARGIN = 0.1
_LEAST_MARGIN = 0.05  # seconds
_UNREAD = Attributes("", "", "", {})
_LAST_RESORT_ID = "-"  # one answer for all, made before anything could fail
_LAST_RESORT = codec.encode_response(INTERNAL_ERROR, _LAST_RESORT_ID)


class Servicer:
    """Decides what a transport hands over. ``active`` may be exchanged at any time, as a whole."""

    def __init__(
        self, active: ActiveConfig, *, metrics: Metrics, clock: Callable[[], float], timer: Callable[[], float]
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a clock that is never set."""
        self.active = active
        self._metrics = metrics
        self._clock = clock
        self._timer = timer
        self._logger = logging.getLogger("authz.check")

    async def check(self, data: bytes, time_remaining: float | None) -> bytes:
        """The bytes of a CheckResponse. ``time_remaining`` is the caller's, in seconds, if it gave a deadline."""
        answer = self.answer(data, time_remaining)
        return answer if isinstance(answer, bytes) else await answer

    def answer(self, data: bytes, time_remaining: float | None) -> bytes | Coroutine[None, None, bytes]:
        """The same at once where nothing needs to be waited for, or else what is to be awaited."""
        started = self._timer()
        config = self.active
        self._metrics.in_flight += 1
        attributes = _UNREAD
        try:
            attributes = _read(data, config.max_request_bytes)
            decision = self._begin(attributes, config)
            if isinstance(decision, Pending):
                return self._later(
                    decision, _budget(time_remaining, config.check_deadline), attributes, config, started
                )
            return self._answer(attributes, decision, config, started)
        except Exception as fault:  # noqa: BLE001 - whatever it was, the answer is an explicit no
            return self._last_resort(fault, attributes, config, started)
        finally:
            self._metrics.in_flight -= 1

    def refuse(self, denial: Deny) -> bytes:
        """The bytes of a denial at which the transport arrived itself, since it could not hand over a request."""
        started = self._timer()
        config = self.active
        try:
            return self._answer(_UNREAD, denial, config, started)
        except Exception as fault:  # noqa: BLE001 - as above
            return self._last_resort(fault, _UNREAD, config, started)

    async def _later(
        self, pending: Pending, budget: float, attributes: Attributes, config: ActiveConfig, started: float
    ) -> bytes:
        self._metrics.in_flight += 1
        try:
            decision = await self._resume(pending, config.authorizer, budget)
            return self._answer(attributes, decision, config, started)
        except Exception as fault:  # noqa: BLE001 - as above
            return self._last_resort(fault, attributes, config, started)
        finally:
            self._metrics.in_flight -= 1

    def _begin(self, attributes: Attributes, config: ActiveConfig) -> Decision | Pending:
        if attributes is _UNREAD:
            return codec.NOT_A_CHECK_REQUEST
        return config.authorizer.begin(attributes, self._clock())

    async def _resume(self, pending: Pending, authorizer: Authorizer, budget: float) -> Decision:
        try:
            async with asyncio.timeout(budget):
                await pending.ready()
        except TimeoutError:
            return authorizer.too_late(pending)
        return authorizer.finish(pending, self._clock())

    def _answer(self, attributes: Attributes, decision: Decision, config: ActiveConfig, started: float) -> bytes:
        decision_id = f"{random.getrandbits(64):016x}"
        answer = codec.encode_response(decision, decision_id)
        self._tell(attributes, decision, decision_id, config, started)
        return answer

    def _tell(
        self, attributes: Attributes, decision: Decision, decision_id: str, config: ActiveConfig, started: float
    ) -> None:
        seconds = self._timer() - started
        config.decision_log.write(attributes, decision, decision_id, seconds)
        self._metrics.count(decision, seconds)

    def _last_resort(self, fault: Exception, attributes: Attributes, config: ActiveConfig, started: float) -> bytes:
        """Deny, and tell the log why; should even telling fail, deny."""
        try:
            self._logger.error("deciding failed", exc_info=fault)
            self._tell(attributes, INTERNAL_ERROR, _LAST_RESORT_ID, config, started)
        except Exception:  # noqa: BLE001, S110 - there is nobody left to tell, and the caller must be told no
            pass
        return _LAST_RESORT


def _read(data: bytes, max_request_bytes: int) -> Attributes:
    """What the bytes say; ``_UNREAD`` when they are no CheckRequest, or too many."""
    if len(data) > max_request_bytes:
        return _UNREAD
    try:
        return codec.decode_request(data)
    except Rejected:
        return _UNREAD


def _budget(time_remaining: float | None, check_deadline: float) -> float:
    """Seconds for the decision, so that its answer comes in time."""
    if time_remaining is None:
        return check_deadline
    return min(check_deadline, time_remaining - max(time_remaining * _MARGIN, _LEAST_MARGIN))
