"""Runs targets under libFuzzer, each in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fuzz import target

# What the fuzzer finds, kept between runs. Git ignores it.
FOUND = target.FOLDER / ".found"

_INPUT_TIMEOUT = 60  # seconds; an input takes about a millisecond, so this one would never end
_MAX_MEMORY = 2048  # MiB
_MEMORY = Path("/dev/shm")  # noqa: S108 - for a folder of our own in it: files that are in memory alone
_FAILURE = re.compile(r"^ === .*: ===|^==\d+== ", re.MULTILINE)
_STATE = re.compile(r"^#(\d+)\s+DONE\s+(cov: \d+).*? (corp: \d+)", re.MULTILINE)
_TESTS = target.FOLDER.parent


@dataclass(frozen=True)
class Run:
    """How a run ended: ``failure`` is empty, or libFuzzer's report with the traceback and the input."""

    name: str
    failure: str
    summary: str


def run(
    name: str, seconds: int, *, found: Path = FOUND, seed: int = 0, module: str = "", max_bytes: int | None = None
) -> Run:
    """Fuzz a target until the time is over or an input fails. With ``seed`` 0, libFuzzer chooses one and prints it.

    ``module`` replaces the module of a target, and ``max_bytes`` its limit.
    """
    corpus = found / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": max_bytes or target.load(name).MAX_BYTES,
        "seed": seed,
        "timeout": _INPUT_TIMEOUT,
        "rss_limit_mb": _MAX_MEMORY,
        "artifact_prefix": found / f"{name}-",
    }
    if target.dictionary(name).is_file():
        options["dict"] = target.dictionary(name)
    arguments = [*(f"-{option}={value}" for option, value in options.items()), str(corpus)]
    if target.corpus(name).is_dir():
        arguments.append(str(target.corpus(name)))
    with tempfile.TemporaryDirectory(prefix="authz-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "fuzz.guided", module or f"fuzz.targets.{name}", *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(folder),
        )
    if done.returncode == 0:
        state = _STATE.search(done.stdout)
        return Run(name, "", "{} runs, {}, {}".format(*state.groups()) if state else "")
    place = _FAILURE.search(done.stdout)
    return Run(name, done.stdout[place.start() if place else -4000 :].strip() or f"status {done.returncode}", "")


def _environment(folder: str) -> dict[str, str]:
    """This process's, with ``folder`` for files, and without coverage.py, which would take most of the time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return kept | {"PYTHONPATH": str(_TESTS), "TMPDIR": folder}
