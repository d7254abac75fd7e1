"""What holds for every test."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# No test asserts a time: how long an example takes says more about what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)  # for `make check`
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))

_MAX_ID = 60  # characters; tokens and keys are longer


def pytest_xdist_auto_num_workers() -> int:
    """Two processes for each core: half of the suite's time is spent waiting for other programs."""
    return 2 * (os.cpu_count() or 1)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after a token or a key: it would stand in the output, and differ in each process that tests."""
    return argname if isinstance(val, str | bytes) and len(val) > _MAX_ID else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test log whatever it likes: a report with half a surrogate pair cannot be sent between processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Undo what a test, or a command that it runs, configures of logging."""
    kept = [
        (known, known.handlers[:], known.level, known.propagate) for known in map(logging.getLogger, ("authz", None))
    ]
    yield
    for known, handlers, level, propagate in kept:
        known.handlers[:], known.level, known.propagate = handlers, level, propagate
        known.setLevel(level)  # forgets what the loggers below remember of it
