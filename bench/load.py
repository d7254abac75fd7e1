"""Load on a server, and the resources that the server uses for it. Linux only: it reads /proc."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

SERVER_CORE, CLIENT_CORE = "0", "1"
_START_TIMEOUT = 30
_MICRO = 1e6


class Load(NamedTuple):
    """The result of one run of h2load."""

    rate: float  # requests per second
    p50: float  # microseconds
    p99: float
    cpu: float  # microseconds of the servers' CPU per request
    switches: float  # context switches of the servers per request


class Usage(NamedTuple):
    """The resources that processes have used so far."""

    cpu: float  # seconds
    switches: int


def on_core(core: str, *command: str) -> list[str]:
    """The command, pinned to a core if there are several."""
    return ["taskset", "-c", core, *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else [*command]


def usage(pids: Sequence[int]) -> Usage:
    """The usage of all threads of these processes."""
    cpu, switches = 0.0, 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return Usage(cpu, switches)


def memory(pid: int) -> float:
    """The resident memory in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def h2load(pids: Sequence[int], url: str, calls: int, in_flight: int, folder: Path, *more: str) -> Load:
    """Send this number of requests on one connection; all must succeed."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = on_core(
        CLIENT_CORE, "h2load", "-n", str(calls), "-c", "1", "-m", str(in_flight), f"--log-file={log}", *more, url
    )
    before, started = usage(pids), time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, after = time.perf_counter() - started, usage(pids)
    if f"status codes: {calls} 2xx" not in printed:
        raise AssertionError(printed)
    times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return Load(
        calls / seconds,
        times[len(times) // 2],
        times[len(times) * 99 // 100],
        (after.cpu - before.cpu) / calls * _MICRO,
        (after.switches - before.switches) / calls,
    )


def started(
    command: list[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], float]:
    """Start a process; returns it with the seconds until it was ready."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    while not ready():
        if process.poll() is not None or time.perf_counter() - begun > _START_TIMEOUT:
            raise AssertionError(f"{command} did not become ready")
        time.sleep(0.002)
    return process, time.perf_counter() - begun


def alternating(measures: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure each in turn, for this number of rounds, so that other load on the machine affects all of them."""
    runs: dict[str, list[T]] = {name: [] for name in measures}
    for turn in range(rounds):
        for name in [*measures] if turn % 2 == 0 else reversed([*measures]):
            runs[name].append(measures[name]())
    return runs


def median(loads: list[Load]) -> Load:
    """The median of each column."""
    return Load(*(statistics.median(column) for column in zip(*loads, strict=True)))
