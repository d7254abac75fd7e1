"""Part four: what one more pod costs: the time of a start and of each command that a pod runs, and memory.

Times are ratios to an interpreter that imports what every network service needs, measured in alternating order.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.load import alternating
from bench.servers import responds, running
from bench.subject import Subject, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[1]
ROUNDS = 9
COLD_ROUNDS = 3
BASE = ("-c", "import asyncio, ssl, json")
GRPC_PORT, ADMIN_PORT = 19221, 19222
WORKERS = 2
MANY_RULES = 200
_SETTLED = 1.5  # seconds after readiness; what a start needed has been released
_KIB = 1024
Program = tuple[str, ...]  # the interpreter and its options, and what runs it: ("python", "-m", "authz_service")


class Memory(NamedTuple):
    """The memory of one process, in mebibytes."""

    name: str
    resident: float
    anonymous: float  # of it: its own, which no other process can share

    def __str__(self) -> str:
        return f"  {self.name:52s} {self.resident:5.1f} MiB resident, {self.anonymous:5.1f} MiB of it anonymous"

    def markdown(self) -> str:
        """A row of the table."""
        return f"| {self.name} | {self.resident:.1f} | {self.anonymous:.1f} |"


class Time(NamedTuple):
    """The duration of a start or a command."""

    name: str
    milliseconds: float
    ratio: float  # to the base

    def __str__(self) -> str:
        return f"  {self.name:52s} {self.milliseconds:6.0f} ms   {self.ratio:5.2f} times the base"

    def markdown(self) -> str:
        """A row of the table."""
        return f"| {self.name} | {self.milliseconds:.0f} | {self.ratio:.2f} |"


def configuration(count: int, workers: int = 1) -> str:
    """A sidecar with one issuer, whose keys are in a file."""
    return f"""
server:
  grpc_address: "127.0.0.1:{GRPC_PORT}"
  admin_address: "127.0.0.1:{ADMIN_PORT}"
  workers: {workers}
issuers:
  - issuer: https://issuer.bench/
    audiences: [https://api.bench/]
    keys: {{jwks_file: jwks.json}}
rules:
""" + rules(count)


def write_configurations(folder: Path) -> dict[str, Path]:
    """The configuration files of this part."""
    contents = {"one": configuration(1), "many": configuration(MANY_RULES), "workers": configuration(1, WORKERS)}
    files = {name: folder / f"{name}.yaml" for name in contents}
    for name, file in files.items():
        file.write_text(contents[name])
    return files


def compile_package(python: str, tree: Path) -> None:
    """Write the package's byte code, which an installation has, whatever ``PYTHONDONTWRITEBYTECODE`` says."""
    subprocess.run([python, "-m", "compileall", "-q", str(tree / "authz_service")], check=True)


def measures(program: Program, files: Mapping[str, Path]) -> dict[str, Callable[[], float]]:
    """What is measured of a program: seconds by name."""
    return {
        "version": partial(_command, (*program, "version")),
        "schema": partial(_command, (*program, "schema")),
        "healthcheck": partial(_healthcheck, program, files["one"]),
        "serve, 1 rule, until ready": partial(_start, program, files["one"]),
        f"serve, {MANY_RULES} rules, until ready": partial(_start, program, files["many"]),
        f"serve, {WORKERS} workers, until ready": partial(_start, program, files["workers"]),
    }


def footprint(subject: Subject) -> tuple[list[Time], list[Memory]]:
    """Print and return times and memory of this version."""
    program = (sys.executable, "-m", "authz_service")
    compile_package(program[0], ROOT)
    files = write_configurations(subject.folder)
    print(f"Start and commands (median of {ROUNDS} alternating runs)")
    base = partial(_command, (program[0], *BASE))
    times = _ratios({f"`python -c '{BASE[1]}'`": base} | measures(program, files), ROUNDS)
    cold = {
        "the same without byte code": partial(_cold, base),
        "serve, 1 rule, without byte code, until ready": partial(_cold, partial(_start, program, files["one"])),
    }
    times += _ratios(cold, COLD_ROUNDS)
    used = memories(program, files)
    print(*times, *used, sep="\n")
    return times, used


def _ratios(measures: Mapping[str, Callable[[], float]], rounds: int) -> list[Time]:
    """The medians of alternating runs, beside the first of them."""
    medians = {name: statistics.median(each) for name, each in alternating(measures, rounds).items()}
    base = next(iter(medians.values()))
    return [Time(name, seconds * 1000, seconds / base) for name, seconds in medians.items()]


def _command(command: Program, environment: Mapping[str, str] | None = None) -> float:
    """Seconds for a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


def _healthcheck(program: Program, file: Path) -> float:
    """Seconds for querying a running sidecar."""
    with running(_serve(program, file), _is_ready):
        return _command((*program, "healthcheck", "--config", str(file)))


def _serve(program: Program, file: Path) -> list[str]:
    return [*program, "serve", "--config", str(file)]


def _start(program: Program, file: Path, environment: Mapping[str, str] | None = None) -> float:
    """Seconds until a sidecar is ready."""
    with running(_serve(program, file), _is_ready, environment) as (_, seconds):
        return seconds


def _cold(measure: Callable[..., float]) -> float:
    """Measure with an empty cache of byte code."""
    with tempfile.TemporaryDirectory() as empty:
        return measure(environment=os.environ | {"PYTHONPYCACHEPREFIX": empty, "PYTHONDONTWRITEBYTECODE": "1"})


def _is_ready() -> bool:
    return responds(ADMIN_PORT)


def memories(program: Program, files: Mapping[str, Path]) -> list[Memory]:
    """The memory of each process: of a single sidecar when ready and after a scrape, and with workers."""
    with running(_serve(program, files["one"]), _is_ready) as (process, _):
        time.sleep(_SETTLED)
        ready = _memory("serve, when ready", process.pid)
        _scrape()
        scraped = _memory("serve, after a scrape", process.pid)
    with running(_serve(program, files["workers"]), _is_ready) as (process, _):
        time.sleep(_SETTLED)
        _scrape()
        supervisor = _memory(f"serve, {WORKERS} workers, supervisor", process.pid)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [_memory(f"serve, {WORKERS} workers, each worker", int(child)) for child in children]
    return [ready, scraped, supervisor, max(workers, key=lambda each: each.resident)]


def _scrape() -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/metrics", timeout=10) as response:
        response.read()


def _memory(name: str, pid: int) -> Memory:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    resident, anonymous = (
        int(found[1]) / _KIB
        for found in (re.search(rf"^{field}: +(\d+)", rollup, re.MULTILINE) for field in ("Rss", "Anonymous"))
        if found
    )
    return Memory(name, resident, anonymous)
