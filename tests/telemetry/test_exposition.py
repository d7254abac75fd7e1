"""What is exposed is what Prometheus reads, in both formats and whatever labels and values are."""

from __future__ import annotations

import math
from email.message import Message
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client import Counter as LibraryCounter
from prometheus_client import Gauge as LibraryGauge
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from authz_service.telemetry.exposition import exposition, format_of
from authz_service.telemetry.instruments import SERIES_PER_PART, Exemplar, Registry, Samples
from support.samples import families, text_of, with_every_series

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCEPTED_BY_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

# Anything that UTF-8 has, and often what the formats or their parsers treat as special.
LABELS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=50),
    st.text(alphabet='\\"\n\r\t {}=,#n\x00\x85\u2028', max_size=20),
    st.builds(lambda text, times: text * times, st.sampled_from(["x", "\\", '"', "\n", "é"]), st.integers(100, 2000)),
)
VALUES = st.one_of(
    st.floats(allow_nan=False),
    st.sampled_from([math.inf, -math.inf, 0.0, -0.0, 5e-324, 2.0**53 + 2, 1e22, 123456789.0]),
)
COUNTS = st.integers(0, 2**70)


def text(registry: Registry, *, openmetrics: bool) -> str:
    return "".join(exposition(registry.collect(), openmetrics=openmetrics))


def samples_of(parsed: Iterable[Metric]) -> dict[tuple[Any, ...], tuple[float, Any]]:
    """Value and exemplar of each sample by its name and labels."""
    return {
        (family.type, each.name, *sorted(each.labels.items())): (each.value, each.exemplar)
        for family in parsed
        for each in family.samples
    }


@pytest.mark.parametrize("openmetrics", [False, True])
@given(
    labels=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=4, unique=True),
    value=VALUES,
    count=COUNTS,
    observed=st.lists(st.floats(0, 1e9), max_size=10),
)
def test_everything_is_read_as_from_the_exposition_of_the_library(
    *, openmetrics: bool, labels: list[tuple[str, str]], value: float, count: int, observed: list[float]
) -> None:
    ours, theirs = Registry(), CollectorRegistry()
    names, bounds = ("a", "b"), (1e-05, 0.5, 1.0, 250.0)
    counter, gauge = ours.counter("c_total", "Counts.", names), ours.gauge("g", "Measures.", names)
    histogram = ours.histogram("h_seconds", "Observes.", names, bounds=bounds)
    their_counter = LibraryCounter("c_total", "Counts.", names, registry=theirs)
    their_gauge = LibraryGauge("g", "Measures.", names, registry=theirs)
    their_histogram = LibraryHistogram("h_seconds", "Observes.", names, buckets=bounds, registry=theirs)
    for pair in labels:
        counter.labels(*pair).add(count)
        their_counter.labels(*pair).inc(count)
        gauge.labels(*pair).set(value)
        their_gauge.labels(*pair).set(value)
        for each in observed:
            histogram.labels(*pair).observe(each)
            their_histogram.labels(*pair).observe(each)
    generate = generate_openmetrics if openmetrics else generate_latest
    expected = samples_of(families(generate(theirs).decode(), openmetrics=openmetrics))
    found = samples_of(families(text(ours, openmetrics=openmetrics), openmetrics=openmetrics))
    created = {key for key in expected if key[1].endswith("_created")}
    assert found == {key: each for key, each in expected.items() if key not in created}


@given(label=LABELS)
def test_one_sample_takes_one_line_whatever_its_labels_contain(label: str) -> None:
    registry = Registry()
    registry.gauge("g", "Measures.", ("a",)).labels(label).set(1)
    lines = text(registry, openmetrics=False).split("\n")
    assert lines[:2] == ["# HELP g Measures.", "# TYPE g gauge"]
    assert len(lines) == 4
    assert lines[3] == ""


@pytest.mark.parametrize("openmetrics", [False, True])
def test_not_a_number_is_written_as_the_formats_require(*, openmetrics: bool) -> None:
    registry = Registry()
    registry.gauge("g", "Measures.").only.set(math.nan)
    (family,) = families(text(registry, openmetrics=openmetrics), openmetrics=openmetrics)
    assert math.isnan(family.samples[0].value)
    assert "g NaN\n" in text(registry, openmetrics=openmetrics)


@pytest.mark.parametrize("openmetrics", [False, True])
@given(description=st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from('\\"\n ')), max_size=50))
def test_a_description_may_contain_anything(*, openmetrics: bool, description: str) -> None:
    registry = Registry()
    registry.gauge("g", description).only.set(1)
    generate = generate_openmetrics if openmetrics else generate_latest
    theirs = CollectorRegistry()
    LibraryGauge("g", description, registry=theirs).set(1)
    assert text(registry, openmetrics=openmetrics) == generate(theirs).decode()


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("count", [0, 1, SERIES_PER_PART, SERIES_PER_PART + 1, 3 * SERIES_PER_PART])
def test_a_family_in_several_parts_is_one_family(count: int, *, openmetrics: bool) -> None:
    registry = Registry()
    family = registry.counter("c_total", "Counts.", ("a",))
    for number in range(count):
        family.labels(str(number)).add(number)
    registry.gauge("g", "Measures.")
    assert max(len(each.values) for each in registry.collect()) <= SERIES_PER_PART
    read = families(text(registry, openmetrics=openmetrics), openmetrics=openmetrics)
    assert [each.name for each in read] == ["c", "g"]
    assert {each.labels["a"]: each.value for each in read[0].samples} == {str(each): each for each in range(count)}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_each_piece_of_an_exposition_is_small(*, openmetrics: bool) -> None:
    metrics = with_every_series()
    for number in range(100):
        metrics.issuer(f"issuer-{number}")
    pieces = [*metrics.exposition(openmetrics=openmetrics)]
    assert "".join(pieces).count("\n") > 2000
    # An issuer's histogram has thirteen lines.
    assert max(piece.count("\n") for piece in pieces) <= 13 * SERIES_PER_PART


@given(
    trace_id=st.text(alphabet="0123456789abcdef", min_size=32, max_size=32),
    value=st.floats(0, 1),
    timestamp=st.floats(1, 4e9),
)
def test_exemplars_are_in_openmetrics_only(trace_id: str, value: float, timestamp: float) -> None:
    exemplar = Exemplar(trace_id, value, timestamp)
    values: dict[str, float] = {'h_bucket{le="1.0"}': 1, 'h_bucket{le="+Inf"}': 2, "h_count": 2, "h_sum": 3.5}
    samples = [Samples("h", "Observes.", "histogram", values, {'h_bucket{le="1.0"}': exemplar})]
    (family,) = families("".join(exposition(samples, openmetrics=True)), openmetrics=True)
    (found,) = [each for each in family.samples if each.exemplar is not None]
    assert found.labels == {"le": "1.0"}
    assert found.exemplar is not None
    assert (found.exemplar.labels, found.exemplar.value) == ({"trace_id": trace_id}, value)
    assert float(found.exemplar.timestamp or 0) == pytest.approx(timestamp, abs=1e-6)
    assert "#" not in "".join(exposition(samples, openmetrics=False)).replace("# HELP", "").replace("# TYPE", "")


# The choice of the format.


def kind_of(content_type: str) -> tuple[str, str, str]:
    """The media type, version and charset of a format."""
    header = Message()
    header["Content-Type"] = content_type
    return header.get_content_type(), str(header.get_param("version")), str(header.get_param("charset"))


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain",
        "text/plain;version=0.0.4",
        "application/json",
        "application/openmetrics-text;version=0.0.1",
    ],
)
def test_without_a_request_for_openmetrics_the_format_is_prometheus_text(accept: str) -> None:
    chosen = format_of(accept)
    assert kind_of(chosen.content_type) == ("text/plain", "0.0.4", "utf-8")
    assert not chosen.openmetrics
    assert "# EOF" not in text_of(with_every_series())


@pytest.mark.parametrize(
    "accept", [ACCEPTED_BY_PROMETHEUS, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2"]
)
def test_openmetrics_is_available_on_request(accept: str) -> None:
    chosen = format_of(accept)
    assert kind_of(chosen.content_type) == ("application/openmetrics-text", "1.0.0", "utf-8")
    assert chosen.openmetrics
    assert text_of(with_every_series(), openmetrics=True).endswith("# EOF\n")


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ["x", "1.x", "2.\udcff", "9.9.9", '"1.0.0"', "1.0.0\t", "", "=", "1" * 5000])
def test_an_unknown_version_is_neither_promised_nor_an_error(kind: str, version: str) -> None:
    versions = {"text/plain": ("0.0.4", "1.0.0"), "application/openmetrics-text": ("1.0.0",)}
    promised_kind, promised, _ = kind_of(format_of(f"{kind};version={version};q=1").content_type)
    assert promised in versions[promised_kind]


def test_a_format_that_is_not_known_leaves_the_others_in_the_header_acceptable() -> None:
    accept = "application/openmetrics-text;version=2.0.0, application/openmetrics-text;version=1.0.0"
    assert format_of(accept).openmetrics


_ACCEPTED = st.builds(
    ";".join,
    st.tuples(
        st.sampled_from(["application/openmetrics-text", "text/plain", " text/plain ", "*/*", "", "x"]),
        st.sampled_from(
            ["version=1.0.0", " version=1.0.0 ", "version=0.0.4", "version=0.0.1", "q=0.5", "=", "version="]
        ),
        st.sampled_from(["escaping=allow-utf-8", "escaping=underscores", "escaping=x", "q=0.5", "", "version=1.0.0"]),
    ),
)


@given(accept=st.lists(_ACCEPTED, max_size=4).map(",".join))
def test_the_format_is_the_one_that_the_library_chooses(accept: str) -> None:
    assert format_of(accept).content_type == choose_encoder(accept)[1]
