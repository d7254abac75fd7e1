"""Merges the metrics of several processes that serve as one. Imports little: the supervisor decides nothing.

Invariants:

* A total never decreases: counters and histograms are summed, including those of ended processes.
* A gauge is merged by its entry in ``GAUGES``, which is the cautious choice wherever processes may differ: a state that
  is reported as good is good in each of them.
"""

from __future__ import annotations

import json
from itertools import islice
from sys import intern
from typing import TYPE_CHECKING, Any, Final

from authz_service.telemetry.exposition import exposition
from authz_service.telemetry.instruments import SERIES_PER_PART, Exemplar, Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from authz_service.telemetry.instruments import Collector, MetricType

GAUGES: Mapping[str, Callable[[Iterable[float]], float]] = {
    "authz_checks_in_flight": sum,
    "authz_transport_connections": sum,
    "authz_dpop_replay_cache_entries": sum,
    "authz_revocations": max,
    "authz_revocations_file_rejected": max,
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
    # File descriptors are limited per process, so the process nearest to its limit matters.
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_start_time_seconds": min,
    "process_open_fds": max,
    "process_max_fds": min,
    "python_info": max,
}
_TOTALS: Final = frozenset({"counter", "histogram"})
# Totals are summed as integers, in this fraction of one. The sum of floats depends on their order, so a total could
# become slightly smaller after a worker's end. Prometheus would take that for a restart and count all of it again.
_FRACTION: Final = 1 << 80


def encode(collected: Iterable[Samples]) -> Iterator[str]:
    """These samples as JSON on one line, in pieces that take little time each."""
    separator = "["
    for samples in collected:
        yield separator + json.dumps(samples)
        separator = ","
    yield "]" if separator == "," else "[]"


def decode(parsed: Iterable[tuple[str, str, MetricType, dict[str, float], dict[str, Any]]]) -> list[Samples]:
    """The samples that ``encode`` wrote, from the parsed JSON."""
    return [
        Samples(
            family,
            description,
            kind,
            {intern(name): value for name, value in values.items()},  # the same names for each worker
            {name: Exemplar(*each) for name, each in exemplars.items()},
        )
        for family, description, kind, values, exemplars in parsed
    ]


class _MergedFamily:
    """The merged samples of one family. Totals are in ``_FRACTION``."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.values: dict[str, float] = {}
        self.exemplars: dict[str, Exemplar] = {}


class Merged:
    """The samples of several processes as those of one."""

    def __init__(self) -> None:
        self._families: dict[tuple[str, MetricType], _MergedFamily] = {}

    def add(self, samples: Samples) -> None:
        """Add samples of a process."""
        family = self._family(samples.family, samples.kind, samples.description)
        values = family.values
        if samples.kind in _TOTALS:
            for name, value in samples.values.items():
                values[name] = values.get(name, 0) + int(value * _FRACTION)
        else:
            merge = GAUGES.get(samples.family, max)  # max for gauges of a newer version
            for name, value in samples.values.items():
                values[name] = merge((values[name], value)) if name in values else value
        _add_exemplars(family.exemplars, samples.exemplars)

    def add_totals(self, process: Iterable[Samples]) -> None:
        """Add those samples that outlive their process: of counters and histograms."""
        for samples in process:
            if samples.kind in _TOTALS:
                self.add(samples)

    def add_merged(self, other: Merged) -> None:
        """Add totals that are merged already."""
        for (name, kind), merged in other._families.items():
            family = self._family(name, kind, merged.description)
            for sample, value in merged.values.items():
                family.values[sample] = family.values.get(sample, 0) + value
            _add_exemplars(family.exemplars, merged.exemplars)

    def _family(self, name: str, kind: MetricType, description: str) -> _MergedFamily:
        return self._families.setdefault((name, kind), _MergedFamily(description))

    def collect(self) -> Iterator[Samples]:
        """The merged samples, in parts."""
        for (name, kind), family in self._families.items():
            divisor = _FRACTION if kind in _TOTALS else 1
            remaining = iter(family.values.items())
            for _ in range(0, len(family.values) or 1, SERIES_PER_PART):
                values = {sample: value / divisor for sample, value in islice(remaining, SERIES_PER_PART)}
                exemplars = {each: family.exemplars[each] for each in values.keys() & family.exemplars.keys()}
                yield Samples(name, family.description, kind, values, exemplars)


def _add_exemplars(known: dict[str, Exemplar], added: dict[str, Exemplar]) -> None:
    """Keep the newest exemplar of each sample."""
    for sample, exemplar in added.items():
        if sample not in known or known[sample].timestamp <= exemplar.timestamp:
            known[sample] = exemplar


class MergedMetrics:
    """The metrics of the supervisor and its workers, as those of one service.

    One thread at a time may call ``update`` and ``remove``, any thread ``exposition``.
    """

    def __init__(self, own: Collector) -> None:
        """``own`` collects the supervisor's metrics."""
        self._own = own
        # The latest metrics of each running worker, and the totals of ended ones. Replaced as a whole: an exposition
        # counts a worker that ends meanwhile exactly once.
        self._workers: tuple[Mapping[int, Sequence[Samples]], Merged] = ({}, Merged())

    def update(self, worker: int, latest: Sequence[Samples]) -> None:
        """Store the latest metrics of the worker with this number."""
        running, ended = self._workers
        self._workers = ({**running, worker: latest}, ended)

    def remove(self, worker: int) -> None:
        """Keep only the totals of the worker with this number, which has ended."""
        running, ended = self._workers
        totals = Merged()
        totals.add_merged(ended)
        totals.add_totals(running.get(worker, ()))
        self._workers = ({number: latest for number, latest in running.items() if number != worker}, totals)

    def exposition(self, *, openmetrics: bool) -> Iterator[str]:
        """All metrics, in pieces that take little time each."""
        running, ended = self._workers
        return self._exposition(running.values(), ended, openmetrics=openmetrics)

    def _exposition(self, running: Iterable[Iterable[Samples]], ended: Merged, *, openmetrics: bool) -> Iterator[str]:
        merged = Merged()
        for process in (self._own.collect(), *running):
            for samples in process:
                merged.add(samples)
                yield ""
        merged.add_merged(ended)
        yield from exposition(merged.collect(), openmetrics=openmetrics)
