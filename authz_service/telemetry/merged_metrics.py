"""Merges the metrics of several processes that serve as one.

Invariants:

* A total never decreases: counters and histograms are summed, including those of ended processes.
* A gauge is merged by its entry in ``GAUGES``, which is the cautious choice wherever processes may differ: a state that
  is reported as good is good in each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Exemplar, Sample

from authz_service.telemetry.metrics import exposition_of

Merge: TypeAlias = Callable[[Iterable[float]], float]

GAUGES: Mapping[str, Merge] = {
    "authz_checks_in_flight": sum,
    "authz_transport_connections": sum,
    "authz_dpop_replay_cache_entries": sum,
    "authz_revocations": max,
    "authz_revocations_file_refused": max,
    "authz_security_events_age_seconds": max,
    "authz_token_cache_entries": sum,
    "authz_token_cache_bytes": sum,
    "authz_jwks_keys": min,
    "authz_jwks_last_success_timestamp_seconds": min,
    "authz_jwks_stale": max,
    "authz_jwks_age_seconds": max,
    "authz_jwks_usable_until_timestamp_seconds": min,
    "authz_introspections_in_flight": sum,
    "authz_introspection_breaker_state": max,  # 1 for each state that a breaker is in: there may be several
    "authz_introspection_breaker_open": max,
    "authz_introspection_cache_entries": sum,
    "authz_introspection_cache_bytes": sum,
    "authz_config_last_reload_successful": min,
    "authz_config_last_reload_success_timestamp_seconds": min,
    "authz_tls_certificate_not_before_timestamp_seconds": max,
    "authz_tls_certificate_not_after_timestamp_seconds": min,
    "authz_ready": min,
    "authz_build_info": max,
    # From the library. File descriptors are limited per process, so the process nearest to its limit matters.
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_start_time_seconds": min,
    "process_open_fds": max,
    "process_max_fds": min,
    "python_info": max,
}
_TOTALS = frozenset({"counter", "histogram"})


def encode(registry: CollectorRegistry) -> str:
    """The current metrics of a registry as JSON on one line. May be called from any thread."""
    return json.dumps(
        [
            [family.name, family.documentation, family.type, [_encoded(each) for each in family.samples]]
            for family in registry.collect()
        ]
    )


def _encoded(sample: Sample) -> tuple[object, ...]:
    """Name, labels and value of a sample, and its exemplar if it has one."""
    return sample[:3] if sample.exemplar is None else (*sample[:3], sample.exemplar)


def decode(parsed: Iterable[tuple[str, str, str, Any]]) -> list[Metric]:
    """The metrics that ``encode`` wrote, from the parsed JSON."""
    return [_family(*parts) for parts in parsed]


def _family(name: str, documentation: str, kind: str, samples: Iterable[Sequence[Any]]) -> Metric:
    family = Metric(name, documentation, kind)
    for sample_name, labels, value, *exemplar in samples:
        family.add_sample(sample_name, labels, value, exemplar=Exemplar(*exemplar[0]) if exemplar else None)
    return family


def totals(families: Iterable[Metric]) -> list[Metric]:
    """The families that outlive their process: counters and histograms."""
    return [family for family in families if family.type in _TOTALS]


def merged(processes: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The families of several processes as those of one."""
    parts: dict[tuple[str, str], list[Metric]] = {}  # by name and type: a gauge and a counter may have one name
    for families in processes:
        for family in families:
            parts.setdefault((family.name, family.type), []).append(family)
    return [_merged(each) for each in parts.values()]


def _merged(parts: list[Metric]) -> Metric:
    first = parts[0]
    merge = _exact_sum if first.type in _TOTALS else GAUGES.get(first.name, max)  # max for gauges of a newer library
    same: dict[tuple[str, tuple[tuple[str, str], ...]], list[Sample]] = {}
    for family in parts:
        for sample in family.samples:
            same.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample)
    samples = (
        (name, dict(labels), merge(each.value for each in every), *_newest_exemplar(every))
        for (name, labels), every in same.items()
    )
    return _family(first.name, first.documentation, first.type, samples)


def _newest_exemplar(samples: Iterable[Sample]) -> list[Exemplar]:
    """The newest exemplar of these samples, if they have any."""
    found = [sample.exemplar for sample in samples if sample.exemplar is not None]
    return sorted(found, key=lambda exemplar: exemplar.timestamp or 0.0)[-1:]


def _exact_sum(values: Iterable[float]) -> Any:
    """Sum without rounding, which depends on the order and could make a total slightly smaller after a worker's end.

    Prometheus would take that for a restart and count the whole total as an increase.
    """
    return sum(map(Fraction, values), Fraction())


class MergedMetrics:
    """The metrics of the supervisor and its workers, as those of one service.

    ``update`` and ``remove`` belong to the event loop's thread.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        """``own`` is the supervisor's registry."""
        self._own = own
        # The latest metrics of each running worker, and the totals of ended ones. Replaced as a whole: a rendering in
        # another thread counts a worker that ends meanwhile exactly once.
        self._workers: tuple[Mapping[int, Sequence[Metric]], Sequence[Metric]] = ({}, ())

    def update(self, worker: int, families: Sequence[Metric]) -> None:
        """Store the latest metrics of the worker with this number."""
        running, ended = self._workers
        self._workers = ({**running, worker: families}, ended)

    def remove(self, worker: int) -> None:
        """Keep only the totals of the worker with this number, which has ended."""
        running, ended = self._workers
        others = {number: families for number, families in running.items() if number != worker}
        self._workers = (others, merged([ended, totals(running.get(worker, ()))]))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type, for an Accept header. May be called from any thread."""
        running, ended = self._workers
        return exposition_of(_Collected(merged([self._own.collect(), *running.values(), ended])), accept)


class _Collected(CollectorRegistry):
    """A registry of families that are collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Any:
        return self._families
