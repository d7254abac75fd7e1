"""The metrics of process and interpreter are those that every Python program with Prometheus' library has."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from authz_service.telemetry.instruments import Registry
from authz_service.telemetry.process_metrics import ProcessMetrics
from support.samples import collected, families

if TYPE_CHECKING:
    from pathlib import Path

STAT = (
    "4711 (a (program) 1 2) S " + " ".join(str(number) for number in range(4, 14)) + " 250 50 16 17 18 19 20 21 "
    "3000 4096000 25 25\n"
)
LIMITS = "Limit Soft Limit Hard Limit Units\nMax processes 7 8 processes\nMax open files {} 4096 files\n"


def value_of(metrics: ProcessMetrics) -> dict[str, float]:
    return {
        name: value
        for samples in metrics.collect()
        if samples.family.startswith("process_")
        for name, value in samples.values.items()
    }


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A system of its own: where the size of the folder of descriptors is not their number."""
    (tmp_path / "self/fd").mkdir(parents=True)
    (tmp_path / "self/stat").write_text(STAT)
    (tmp_path / "self/limits").write_text(LIMITS.format(1024))
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1700000000\nprocesses 4\n")
    return tmp_path


def test_every_metric_and_its_value_is_that_of_prometheus_client() -> None:
    ours, theirs = Registry(), CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=theirs)
    ours.add(ProcessMetrics())
    expected = {each.name: each for each in families(generate_latest(theirs).decode())}
    found = {each.name: each for each in collected(ours)}
    assert found.keys() == expected.keys()
    for name, family in found.items():
        assert (family.type, family.documentation) == (expected[name].type, expected[name].documentation)
        for ours_sample, theirs_sample in zip(family.samples, expected[name].samples, strict=True):
            assert (ours_sample.name, ours_sample.labels) == (theirs_sample.name, theirs_sample.labels)
            # Both are read one after the other: memory and collections go on in between.
            assert ours_sample.value == pytest.approx(theirs_sample.value, rel=0.2, abs=1000)


def test_the_name_of_the_program_may_contain_anything(proc: Path) -> None:
    values = value_of(ProcessMetrics(str(proc)))
    assert values["process_cpu_seconds_total"] == 300 / os.sysconf("SC_CLK_TCK")
    assert values["process_virtual_memory_bytes"] == 4096000
    assert values["process_start_time_seconds"] == 1_700_000_000 + 3000 / os.sysconf("SC_CLK_TCK")
    assert values["process_max_fds"] == 1024


def test_descriptors_may_be_unlimited(proc: Path) -> None:
    (proc / "self/limits").write_text(LIMITS.format("unlimited"))
    assert value_of(ProcessMetrics(str(proc)))["process_max_fds"] == math.inf


def test_without_proc_the_metrics_of_the_process_are_absent(tmp_path: Path) -> None:
    metrics = ProcessMetrics(str(tmp_path))
    assert {samples.family.partition("_")[0] for samples in metrics.collect()} == {"python"}


@pytest.mark.parametrize("file", ["self/stat", "self/limits", "stat"])
def test_what_cannot_be_read_is_absent_and_the_others_are_there(proc: Path, file: str) -> None:
    (proc / file).unlink()
    values = value_of(ProcessMetrics(str(proc)))
    assert ("process_cpu_seconds_total" in values, "process_open_fds" in values) == (
        file == "self/limits",
        file != "self/limits",
    )
