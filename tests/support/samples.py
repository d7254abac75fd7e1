"""The metrics as Prometheus reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from authz_service.telemetry.exposition import exposition
from authz_service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from authz_service.telemetry.instruments import Collector


class Collecting(Protocol):
    """Metrics with a registry."""

    @property
    def registry(self) -> Collector: ...


class Exposed(Protocol):
    """Metrics with an exposition."""

    def exposition(self, *, openmetrics: bool) -> Iterator[str]: ...


def text_of(metrics: Exposed, *, openmetrics: bool = False) -> str:
    """The whole exposition."""
    return "".join(metrics.exposition(openmetrics=openmetrics))


def families(text: str, *, openmetrics: bool = False) -> list[Metric]:
    """The families in an exposition."""
    return list((parse_openmetrics if openmetrics else parse_text)(text))


def collected(*registries: Collector) -> list[Metric]:
    """The families of these registries."""
    return [each for one in registries for each in families("".join(exposition(one.collect(), openmetrics=False)))]


def sample_value(metrics: Collecting, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    """The value of the sample with this name and exactly these labels; None if there is none."""
    return value_in(collected(metrics.registry), name, labels or {})


def value_in(parsed: Iterable[Metric], name: str, labels: Mapping[str, str]) -> float | None:
    """The value of the sample with this name and exactly these labels; None if there is none."""
    found = [each.value for one in parsed for each in one.samples if each.name == name and each.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


def with_every_series() -> Metrics:
    """Metrics of which every family has series."""
    metrics = Metrics(transport="asyncio")
    metrics.transport()
    metrics.issuer("main")
    metrics.introspection("main")
    metrics.security_events("main")
    metrics.watch_revocations("file", lambda: 0)
    metrics.declare_upstream_headers(["x-auth-subject"])
    return metrics
