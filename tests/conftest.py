"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# No test asserts a time: how long an example takes says more about what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_MAX_ID = 60  # characters; tokens and keys are longer


def pytest_xdist_auto_num_workers() -> int:
    """Two processes for each core: half of the suite's time is spent waiting for other programs."""
    return 2 * (os.cpu_count() or 1)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after a token or a key: it would stand in the output, and differ in each process that tests."""
    return argname if isinstance(val, str | bytes) and len(val) > _MAX_ID else None
