"""One exposition for several processes that serve as one.

Law: a total never goes backwards: counters and histograms are added up, and what a process that is gone had counted
stays in the sum. A gauge is told of all of them by the rule that stands here, which is the cautious one wherever the
processes may differ: what is reported as good is good in each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Metric

from authz_service.telemetry.metrics import exposition_of

Rule: TypeAlias = Callable[[Iterable[float]], float]

GAUGES: Mapping[str, Rule] = {
    "authz_checks_in_flight": sum,
    "authz_token_cache_entries": sum,
    "authz_token_cache_bytes": sum,
    "authz_jwks_keys": min,
    "authz_jwks_last_success_timestamp_seconds": min,
    "authz_jwks_stale": max,
    "authz_jwks_age_seconds": max,
    "authz_jwks_usable_until_timestamp_seconds": min,
    "authz_introspections_in_flight": sum,
    "authz_introspection_breaker_state": max,  # so 1 for each state that a breaker is in, of which there may be several
    "authz_introspection_breaker_open": max,
    "authz_introspection_cache_entries": sum,
    "authz_introspection_cache_bytes": sum,
    "authz_config_last_reload_successful": min,
    "authz_config_last_reload_success_timestamp_seconds": min,
    "authz_tls_certificate_not_before_timestamp_seconds": max,
    "authz_tls_certificate_not_after_timestamp_seconds": min,
    "authz_build_info": max,
    # Of the libraries. Descriptors are limited for each process: who is nearest to the limit is what matters.
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_start_time_seconds": min,
    "process_open_fds": max,
    "process_max_fds": min,
    "python_info": max,
}
_TOTALS = frozenset({"counter", "histogram"})


def encode(registry: CollectorRegistry) -> str:
    """What a registry holds now, as a text for another process. May be called from any thread."""
    return json.dumps(
        [
            [family.name, family.documentation, family.type, [each[:3] for each in family.samples]]
            for family in registry.collect()
        ]
    )


def decode(parsed: Iterable[tuple[str, str, str, Any]]) -> list[Metric]:
    """What ``encode`` wrote, parsed."""
    return [_family(*parts) for parts in parsed]


def _family(name: str, documentation: str, kind: str, samples: Iterable[tuple[str, dict[str, str], float]]) -> Metric:
    family = Metric(name, documentation, kind)
    for sample in samples:
        family.add_sample(*sample)
    return family


def totals(families: Iterable[Metric]) -> list[Metric]:
    """What outlives a process: all that it has counted."""
    return [family for family in families if family.type in _TOTALS]


def merged(processes: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The families of several processes as those of one."""
    parts: dict[str, list[Metric]] = {}
    for families in processes:
        for family in families:
            parts.setdefault(family.name, []).append(family)
    return [_merged(each) for each in parts.values()]


def _added(values: Iterable[float]) -> Any:
    """Their exact sum: one that is rounded depends on the order, and may be a trifle less after a death.

    Prometheus would take that for a new start, and all that was ever counted for an increase.
    """
    return sum(map(Fraction, values), Fraction())


def _merged(parts: list[Metric]) -> Metric:
    first = parts[0]
    rule = _added if first.type in _TOTALS else GAUGES.get(first.name, max)  # max for what a newer library may add
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for family in parts:
        for sample in family.samples:
            values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    samples = ((name, dict(labels), rule(each)) for (name, labels), each in values.items())
    return _family(first.name, first.documentation, first.type, samples)


class MergedMetrics:
    """The numbers of a supervisor and of its workers, as those of one service.

    ``update`` and ``remove`` belong to the event loop's thread.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        """``own`` are the supervisor's."""
        self._own = own
        # What each worker said last, and what those that are gone had counted. Replaced as a whole: who reads it in
        # another thread while a worker goes finds that one's numbers once, neither twice nor not at all.
        self._told: tuple[Mapping[int, Sequence[Metric]], Sequence[Metric]] = ({}, ())

    def update(self, worker: int, families: Sequence[Metric]) -> None:
        """This is what the worker of this number counts by now."""
        living, gone = self._told
        self._told = ({**living, worker: families}, gone)

    def remove(self, worker: int) -> None:
        """The worker of this number is gone: what it had counted stays."""
        living, gone = self._told
        others = {number: families for number, families in living.items() if number != worker}
        self._told = (others, merged([gone, totals(living.get(worker, ()))]))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """As that of ``Metrics``. May be called from any thread."""
        living, gone = self._told
        return exposition_of(_Collected(merged([self._own.collect(), *living.values(), gone])), accept)


class _Collected(CollectorRegistry):
    """What has been collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Any:
        return self._families
