"""Caches that clients fill take no more memory than they may, however their tokens are shaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
MAX_BYTES = 8 << 20
SLACK = 4 << 20  # bytes: what the allocator keeps, and what the last token needed while it was read
SHAPES_OF_NOTE = (
    "nearly nothing",
    "one text",
    "a text that is four times as wide",
    "nested objects",
    "scopes",
    "members",
)


def filled(kind: str, shape: str) -> dict[str, int]:
    """What a process says in which such a cache was filled several times over."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))}
    program = [sys.executable, "-m", "support.filling", kind, shape, str(MAX_BYTES)]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said: dict[str, int] = json.loads(ended.stdout)
    return said


@pytest.mark.parametrize("kind", ["tokens", "answers"])
@pytest.mark.parametrize("shape", SHAPES_OF_NOTE)
def test_the_process_grows_by_no_more_than_the_bound_for_tokens_of_any_shape(kind: str, shape: str) -> None:
    said = filled(kind, shape)
    assert 0 < said["accounted"] <= MAX_BYTES
    assert said["entries"] < said["tokens"] // 2  # it was full
    assert said["grown"] <= 1.5 * MAX_BYTES + SLACK
    assert said["grown"] >= said["accounted"] // 4  # or the accounts would be wrong the other way
