"""The metrics of the process and the interpreter. Those of the process exist where the system has ``/proc``."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_service.telemetry.instruments import Kind, Samples, labels_text, sample_name

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON_VERSION: Final = sys.version.split(maxsplit=1)[0]  # as platform.python_version()
_PROC: Final = Path("/proc")


class ProcessMetrics:
    """Reads the metrics of the current process."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc

    def collect(self) -> Iterator[Samples]:
        """The current samples."""
        with contextlib.suppress(OSError):
            yield from self._usage()
        with contextlib.suppress(OSError):
            yield from self._descriptors()
        yield from _interpreter()

    def _usage(self) -> Iterator[Samples]:
        # See proc_pid_stat(5); the name of the program, in parentheses, may contain anything.
        fields = (self._proc / "self/stat").read_bytes().rpartition(b")")[2].split()
        user, system, start, virtual, resident = (int(fields[number - 3]) for number in (14, 15, 22, 23, 24))
        ticks = os.sysconf("SC_CLK_TCK")
        started = _boot_time(self._proc) + start / ticks
        yield _one("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual)
        yield _one(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            resident * os.sysconf("SC_PAGE_SIZE"),
        )
        yield _one(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            started,
        )
        yield _one(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            (user + system) / ticks,
            "counter",
        )

    def _descriptors(self) -> Iterator[Samples]:
        import resource  # noqa: PLC0415 - not on every system; those without it have no /proc/self/fd either

        descriptors = self._proc / "self/fd"
        opened = descriptors.stat().st_size or len(os.listdir(descriptors))  # noqa: PTH208 # the size: since Linux 6.2
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield _one("process_open_fds", "Number of open file descriptors.", opened)
        unlimited = limit == resource.RLIM_INFINITY
        yield _one("process_max_fds", "Maximum number of open file descriptors.", float("inf") if unlimited else limit)


@cache
def _boot_time(proc: Path) -> int:
    """Seconds since the epoch."""
    with (proc / "stat").open("rb") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(b"btime "))


def _interpreter() -> Iterator[Samples]:
    major, minor, patch_level = PYTHON_VERSION.split(".")
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


def _one(name: str, description: str, value: float, kind: Kind = "gauge", labels: str = "") -> Samples:
    return Samples(name, description, kind, {sample_name(name, labels): value}, {})
