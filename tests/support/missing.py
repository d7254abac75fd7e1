"""What this machine lacks, and what stays unproved because of it.

The one way for a test not to run. On a person's machine it is skipped and says loudly what it would have proved; under
CI, which must have everything, it fails: a gate that skips proves nothing and stays green.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def not_proved(promise: str, missing: str) -> NoReturn:
    """End this test, or the fixture that it needs, since ``missing`` is not here to prove ``promise`` with."""
    reason = f"NOT PROVED, since this machine lacks {missing}: {promise}."
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(f"{reason} Under CI nothing is skipped.", pytrace=False)


def program(name: str, promise: str) -> str:
    """The path of a program, without which ``promise`` is not proved."""
    found = shutil.which(name)
    if found is None:
        not_proved(promise, missing=name)
    return found
