"""What holds for every test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# No test asserts a time: how long an example takes says more about what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Undoes what a test has configured of the log, lest another one's records go elsewhere, or come twice."""
    kept = [
        (known, known.handlers[:], known.level, known.propagate) for known in map(logging.getLogger, ("authz", None))
    ]
    yield
    for known, handlers, level, propagate in kept:
        known.handlers[:], known.propagate = handlers, propagate
        known.setLevel(level)
