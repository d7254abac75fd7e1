"""Spans of traces, until they are exported.

Invariants:

* Attributes come from the configuration or a closed list, as the labels of metrics: never a path, a subject or a token.
* Recording never waits, and the spans that wait for their export are bounded: beyond that, new ones are dropped.
"""

from __future__ import annotations

import random
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from authz_service.core.decision import decision_label
from authz_service.core.reasons import DENIALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.core.correlation import Correlation
    from authz_service.core.decision import Decision

MAX_WAITING: Final = 2048  # spans
SpanName = Literal["Check", "key fetch", "introspection", "event poll"]


class Span(NamedTuple):
    """One span that has ended. Times are in seconds since the epoch."""

    name: SpanName
    trace_id: bytes
    span_id: bytes
    parent_id: bytes  # empty for a root
    start: float
    end: float
    attributes: tuple[tuple[str, str], ...]
    failed: bool


class Wait(NamedTuple):
    """What a decision waited for."""

    name: SpanName
    issuer: str
    start: float  # seconds since the beginning of the Check
    seconds: float


class SpanRecorder:
    """Records spans for an exporter that takes them in batches. Belongs to the event loop's thread."""

    def __init__(self, clock: Callable[[], float], record_dropped: Callable[[], None]) -> None:
        """``clock`` gives seconds since the epoch. ``record_dropped`` is called for each dropped span."""
        self._clock = clock
        self._record_dropped = record_dropped
        self._waiting: deque[Span] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def record_check(self, correlation: Correlation, decision: Decision, seconds: float, wait: Wait | None) -> None:
        """Record a Check that took this long and ends now, below the caller's span."""
        end = self._clock()
        trace_id, parent_id, span_id = bytes.fromhex(correlation.trace_id), bytes.fromhex(correlation.span_id), _id(8)
        attributes = _attributes(decision)
        failed = decision_label(decision) == "deny" and _is_our_failure(decision)
        self._add(Span("Check", trace_id, span_id, parent_id, end - seconds, end, attributes, failed))
        if wait is not None:
            start = end - seconds + wait.start
            attributes = (("authz.issuer", wait.issuer),)
            self._add(Span(wait.name, trace_id, _id(8), span_id, start, start + wait.seconds, attributes, failed=False))

    def record_root(self, name: SpanName, seconds: float, issuer: str, result: str) -> None:
        """Record work for an issuer that no request caused, as a trace of its own. It took this long and ends now."""
        end = self._clock()
        attributes = (("authz.issuer", issuer), ("authz.result", result))
        self._add(Span(name, _id(16), _id(8), b"", end - seconds, end, attributes, result == "failure"))

    def take(self, count: int) -> list[Span]:
        """Remove and return the oldest spans, at most so many."""
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def _add(self, span: Span) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(span)
        else:
            self._record_dropped()


def _id(size: int) -> bytes:
    return random.getrandbits(8 * size).to_bytes(size)


def _attributes(decision: Decision) -> tuple[tuple[str, str], ...]:
    attributes = (
        ("authz.decision", decision_label(decision)),
        ("authz.reason", decision.reason.value),
        ("authz.rule", decision.rule),
        ("authz.mode", decision.mode),
    )
    return attributes if decision.claims is None else (*attributes, ("authz.issuer", decision.claims.issuer))


def _is_our_failure(decision: Decision) -> bool:
    return DENIALS[decision.reason].status >= HTTPStatus.INTERNAL_SERVER_ERROR
