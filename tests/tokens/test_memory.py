"""Caches that clients can fill take no more memory than their bound, for tokens of any shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
MAX_BYTES = 8 << 20
SLACK = 4 << 20  # bytes: what the allocator retains, and what parsing the last token needed
SHAPES = (
    "almost empty",
    "one string",
    "a string with four bytes per character",
    "nested objects",
    "scopes",
    "members",
)


def filled(kind: str, shape: str) -> dict[str, int]:
    """The report of a process in which such a cache was filled several times over."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))}
    program = [sys.executable, "-m", "support.cache_memory", kind, shape, str(MAX_BYTES)]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report: dict[str, int] = json.loads(ended.stdout)
    return report


@pytest.mark.parametrize("kind", ["tokens", "responses"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_process_grows_by_no_more_than_the_bound_for_tokens_of_any_shape(kind: str, shape: str) -> None:
    report = filled(kind, shape)
    assert 0 < report["accounted"] <= MAX_BYTES
    assert report["entries"] < report["tokens"] // 2  # entries were evicted
    assert report["grown"] <= 1.5 * MAX_BYTES + SLACK
    assert report["grown"] >= report["accounted"] // 4  # the accounted bytes are not far too many
