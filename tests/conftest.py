"""Configuration and fixtures for all tests."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# No deadline for examples: their duration depends on the load of the machine.
settings.register_profile("no-deadline", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)  # for `make check`
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "no-deadline"))

# `python -m cluster` runs these, in a cluster that it starts.
collect_ignore = [] if "CLUSTER_TESTS" in os.environ else ["cluster"]

_MAX_ID = 60  # characters; tokens and keys are longer


def pytest_xdist_auto_num_workers() -> int:
    """Two processes for each core, because tests wait for other programs half of the time."""
    return 2 * (os.cpu_count() or 1)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Use no token or key as the id of a test: it would be printed, and differ between test processes."""
    return argname if isinstance(val, str | bytes) and len(val) > _MAX_ID else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured logs, because a report with one cannot be sent between processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    """Restore the logging configuration that a test or its command changes."""
    saved = [
        (logger, logger.handlers[:], logger.level, logger.propagate)
        for logger in map(logging.getLogger, ("authz", None))
    ]
    yield
    for logger, handlers, level, propagate in saved:
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
        logger.setLevel(level)  # also clears the cached levels of child loggers
