"""The metrics of the process and the interpreter. Those of the process exist where the system has ``/proc``."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

from authz_service.telemetry.instruments import Samples, labels_text, sample_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.telemetry.instruments import MetricType

PYTHON_VERSION: Final = sys.version.split(maxsplit=1)[0]  # as platform.python_version()


class ProcessMetrics:
    """Reads the metrics of the current process."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def collect(self) -> Iterator[Samples]:
        """The current samples."""
        with contextlib.suppress(OSError):
            yield from self._usage()
        with contextlib.suppress(OSError):
            yield from self._descriptors()
        yield from _interpreter()

    def _usage(self) -> Iterator[Samples]:
        # See proc_pid_stat(5). The name of the program, in parentheses, may contain anything.
        fields = _read(f"{self._proc}/self/stat").rpartition(b")")[2].split()
        user, system, start, virtual, resident = (int(fields[number - 3]) for number in (14, 15, 22, 23, 24))
        ticks = os.sysconf("SC_CLK_TCK")
        started = _boot_time(self._proc) + start / ticks
        memory = resident * os.sysconf("SC_PAGE_SIZE")
        cpu = (user + system) / ticks
        yield _one("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual)
        yield _one("process_resident_memory_bytes", "Resident memory size in bytes.", memory)
        yield _one("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started)
        yield _one("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpu, "counter")

    def _descriptors(self) -> Iterator[Samples]:
        folder = f"{self._proc}/self/fd"
        # Since Linux 6.2 the size is the number; to list them takes milliseconds if there are ten thousand.
        opened = os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 - as _read
        limits = _read(f"{self._proc}/self/limits").splitlines()
        maximum = next(line.split()[3] for line in limits if line.startswith(b"Max open files"))
        yield _one("process_open_fds", "Number of open file descriptors.", opened)
        yield _one(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            float("inf") if maximum == b"unlimited" else int(maximum),
        )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - the supervisor imports no pathlib
        return file.read()


@cache
def _boot_time(proc: str) -> int:
    """Seconds since the epoch."""
    return next(int(line.split()[1]) for line in _read(f"{proc}/stat").splitlines() if line.startswith(b"btime "))


def _interpreter() -> Iterator[Samples]:
    major, minor, patch_level = PYTHON_VERSION.split(".", 2)
    implementation = {"cpython": "CPython"}.get(sys.implementation.name, sys.implementation.name)
    labels = labels_text(
        ("implementation", "major", "minor", "patchlevel", "version"),
        (implementation, major, minor, patch_level, PYTHON_VERSION),
    )
    yield _one("python_info", "Python platform information", 1, labels=labels)
    generations = gc.get_stats()
    for key, description in (
        ("objects_collected", "Objects collected during gc"),
        ("objects_uncollectable", "Uncollectable objects found during GC"),
        ("collections", "Number of times this generation was collected"),
    ):
        name = f"python_gc_{key}_total"
        values: dict[str, float] = {
            f'{name}{{generation="{number}"}}': counts[key.removeprefix("objects_")]
            for number, counts in enumerate(generations)
        }
        yield Samples(name, description, "counter", values, {})


def _one(name: str, description: str, value: float, kind: MetricType = "gauge", labels: str = "") -> Samples:
    return Samples(name, description, kind, {sample_name(name, labels): value}, {})
