"""Counters, gauges and histograms: numbers with labels that the program changes and an exposition reads.

Nothing here takes a lock: the event loop's thread alone changes and reads a service's instruments, and the supervisor
changes its own under a lock. Any thread may create series.

Invariants:

* Collecting many series takes long, so they are collected in parts that take little time each.
* A part is consistent in itself: the count of a histogram is that of its last bucket.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MetricType = Literal["counter", "gauge", "histogram"]
SERIES_PER_PART: Final = 16
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Exemplar(NamedTuple):
    """A value that was observed, with the trace that it belongs to."""

    trace_id: str
    value: float
    timestamp: float  # seconds since the epoch


class Samples(NamedTuple):
    """Some or all samples of a family, by their name with labels: ``name{label="value"}``."""

    family: str
    description: str
    kind: MetricType
    values: dict[str, float]
    exemplars: dict[str, Exemplar]


class Collector(Protocol):
    """Any source of samples."""

    def collect(self) -> Iterable[Samples]:
        """The current samples of one family after the other."""


class Registry:
    """The families of a process, in the order in which they are exposed.

    A counter whose name without ``_total`` is also a gauge's comes after that gauge.
    """

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def add(self, collector: Collector) -> None:
        """Expose what this collects."""
        self._collectors.append(collector)

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Family[Counter]:
        """A new family of counters."""
        return self._added(Family(name, description, "counter", labels, Counter))

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Family[Gauge]:
        """A new family of gauges."""
        return self._added(Family(name, description, "gauge", labels, Gauge))

    def histogram(
        self, name: str, description: str, labels: Sequence[str] = (), *, bounds: tuple[float, ...]
    ) -> Family[Histogram]:
        """A new family of histograms."""
        return self._added(Family(name, description, "histogram", labels, lambda: Histogram(bounds)))

    def _added(self, family: Family[Instrument]) -> Family[Instrument]:
        self.add(family)
        return family

    def collect(self) -> Iterator[Samples]:
        """The current samples, in parts."""
        for collector in self._collectors:
            yield from collector.collect()


def labels_text(names: Sequence[str], values: Sequence[str]) -> str:
    """The labels of a series as both formats write them, without braces."""
    return ",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))


def escaped(value: str) -> str:
    """A label's value as both formats write it between quotes."""
    return value.translate(_ESCAPES)


def sample_name(name: str, labels: str) -> str:
    """The name of a sample with its labels."""
    return f"{name}{{{labels}}}" if labels else name


class Counter:
    """A number that only increases. Frequent callers add to ``value`` directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def increase(self) -> None:
        """Count one."""
        self.value += 1

    def add(self, amount: float) -> None:
        """Count this many."""
        self.value += amount

    def read(self, name: str, labels: str, samples: Samples) -> None:
        """Add the current value to these samples."""
        samples.values[sample_name(name, labels)] = self.value


class Gauge:
    """A number that may also decrease, or a function that returns it."""

    __slots__ = ("_function", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._function: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Report this value."""
        self._value = value

    def watch(self, function: Callable[[], float]) -> None:
        """Report the value that this function returns each time the metrics are read."""
        self._function = function

    def read(self, name: str, labels: str, samples: Samples) -> None:
        """Add the current value to these samples."""
        value = self._value if self._function is None else self._function()
        samples.values[sample_name(name, labels)] = float(value)


class Histogram:
    """Observed values, counted by buckets. Frequent callers change the attributes directly."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """``bounds`` are the largest values of each bucket but the last one, in order."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # by bucket, not cumulative
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # the last one of each bucket

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: str) -> None:
        """Store the trace that an observed value belongs to."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(trace_id, value, time.time())

    def read(self, name: str, labels: str, samples: Samples) -> None:
        """Add the current values to these samples."""
        count = 0
        before = f"{labels}," if labels else ""
        for bucket, bound in enumerate((*map(repr, self.bounds), "+Inf")):
            count += self.counts[bucket]
            sample = f'{name}_bucket{{{before}le="{bound}"}}'
            samples.values[sample] = count
            if bucket in self.exemplars:
                samples.exemplars[sample] = self.exemplars[bucket]
        samples.values[sample_name(f"{name}_count", labels)] = count
        samples.values[sample_name(f"{name}_sum", labels)] = self.sum


class _Instrument(Protocol):
    def read(self, name: str, labels: str, samples: Samples) -> None: ...


Instrument = TypeVar("Instrument", bound=_Instrument)


class Family(Generic[Instrument]):
    """All series of one name. Without labels, there is one."""

    def __init__(
        self, name: str, description: str, kind: MetricType, labels: Sequence[str], new: Callable[[], Instrument]
    ) -> None:
        self._name = name
        self._description = description
        self._kind = kind
        self._labels = labels
        self._new = new
        self._series: dict[str, Instrument] = {} if labels else {"": new()}

    @property
    def only(self) -> Instrument:
        """The series of a family without labels."""
        return self.labels()

    def labels(self, *values: str) -> Instrument:
        """The series with these values of the labels, which exists from now on."""
        return self._series.setdefault(labels_text(self._labels, values), self._new())

    def remove(self, *values: str) -> None:
        """Remove all series with these values of the first labels."""
        removed = labels_text(self._labels[: len(values)], values)
        for labels in list(self._series):
            if labels == removed or labels.startswith(f"{removed},"):
                del self._series[labels]

    def collect(self) -> Iterator[Samples]:
        """The current samples, in parts; one without samples if there are no series."""
        series = list(self._series)  # at once, unlike a list of the items: another thread may create series
        for first in range(0, len(series) or 1, SERIES_PER_PART):
            samples = Samples(self._name, self._description, self._kind, {}, {})
            for labels in series[first : first + SERIES_PER_PART]:
                if labels in self._series:  # else it was removed after the previous part
                    self._series[labels].read(self._name, labels, samples)
            yield samples
