"""Counts decisions and observes their duration.

Recording a decision takes a few look-ups and three additions. There may be tens of thousands of series, nearly all of
them 0, so a series is one entry of a dictionary, and its text is made when the metrics are read.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import TYPE_CHECKING, Final

from authz_service.core.correlation import NO_CORRELATION
from authz_service.core.reasons import ALLOWANCES, ANSWERS, Reason
from authz_service.telemetry.families import CHECK_BOUNDS
from authz_service.telemetry.instruments import Samples, escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz_service.core.correlation import Correlation
    from authz_service.core.decision import Decision
    from authz_service.telemetry.families import Families
    from authz_service.telemetry.instruments import Histogram
    from authz_service.telemetry.spans import Wait

_NAME: Final = "authz_checks_total"
_DESCRIPTION: Final = "Decisions. The rule is - if none matched. Decisions with mode shadow are logged, not enforced."


class Checks:
    """The decisions, by rule, mode and reason."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._counts: dict[tuple[str, str], dict[Reason, int]] = {}  # by rule and mode
        self._durations: dict[Reason, Histogram] = {}

    def declare(self, rule: str, mode: str, reasons: Iterable[Reason]) -> None:
        """Create the series of a rule with these reasons. May be called from any thread."""
        counts = self._counts.setdefault((rule, mode), {})
        for reason in reasons:
            if reason not in self._durations:
                self._durations[reason] = self._families.check_duration.labels(_decision_of(reason))
            counts.setdefault(reason, 0)

    def record(
        self,
        decision: Decision,
        seconds: float,
        correlation: Correlation = NO_CORRELATION,
        wait: Wait | None = None,
    ) -> None:
        """Record a decision, its duration and what it waited for."""
        reason = decision.reason
        try:
            self._counts[decision.rule, decision.mode][reason] += 1
        except KeyError:
            self.declare(decision.rule, decision.mode, (reason,))
            self._counts[decision.rule, decision.mode][reason] += 1
        duration = self._durations[reason]
        duration.counts[bisect_left(CHECK_BOUNDS, seconds)] += 1
        duration.sum += seconds
        if correlation.sampled:
            duration.exemplify(seconds, correlation.trace_id)
            if self._families.spans is not None:
                self._families.spans.record_check(correlation, decision, seconds, wait)

    def collect(self) -> Iterator[Samples]:
        """The current counts, in parts: one for each rule."""
        for rule, mode in list(self._counts):  # at once, unlike a list of the items: another thread may declare a rule
            counts, beginnings, end = self._counts[rule, mode], _beginnings(mode), f'{escaped(rule)}"}}'
            values: dict[str, float] = {beginnings[reason] + end: counts[reason] for reason in list(counts)}
            yield Samples(_NAME, _DESCRIPTION, "counter", values, {})


def _decision_of(reason: Reason) -> str:
    return "allow" if reason in ALLOWANCES else "answer" if reason in ANSWERS else "deny"


@cache
def _beginnings(mode: str) -> dict[Reason, str]:
    """The name of a sample with its labels, up to the rule."""
    return {
        reason: f'{_NAME}{{decision="{_decision_of(reason)}",mode="{mode}",reason="{reason.value}",rule="'
        for reason in Reason
    }
