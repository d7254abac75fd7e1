"""A target: a module in ``targets/`` that states in its docstring what holds for any input, and tries one in ``run``.

``run(data)`` returns the outcome in a word. ``OUTCOMES`` are those that the corpus must reach: a corpus of refusals
alone proves nothing about what is accepted. ``MAX_BYTES`` limits the inputs that the fuzzer tries.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in (FOLDER / "targets").glob("*.py"))


class Target(Protocol):
    """What such a module defines."""

    OUTCOMES: set[str]
    MAX_BYTES: int

    def run(self, data: bytes) -> str:
        """Try an input; return the outcome."""


def load(name: str) -> Target:
    """Import a target."""
    return cast("Target", importlib.import_module(f"fuzz.targets.{name}"))


def corpus(name: str) -> Path:
    """The folder of a target's seeds and past findings."""
    return FOLDER / "corpus" / name


def dictionary(name: str) -> Path:
    """The file of words that its inputs are made of, in libFuzzer's format."""
    return FOLDER / "dictionaries" / f"{name}.dict"
