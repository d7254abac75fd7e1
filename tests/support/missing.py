"""Tests whose requirements this machine lacks. This is the only way to skip a test.

Locally the test is skipped, and reports what is not proved. In CI, which must have everything, it fails, because a
skipped test would prove nothing and stay green.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def not_proved(promise: str, missing: str) -> NoReturn:
    """Skip this test, or in CI fail it, because ``missing`` is not installed."""
    reason = f"NOT PROVED, because this machine lacks {missing}: {promise}."
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(f"{reason} In CI, no test is skipped.", pytrace=False)


def program(name: str, promise: str) -> str:
    """The path of a program. Without it, ``promise`` is not proved."""
    found = shutil.which(name)
    if found is None:
        not_proved(promise, missing=name)
    return found
