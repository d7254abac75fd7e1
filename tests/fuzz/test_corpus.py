"""Replays the corpus without the fuzzer: its seeds, and every input that ever failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuzz import target

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [(name, file) for name in target.NAMES for file in sorted(target.corpus(name).iterdir())]


@pytest.mark.parametrize(("name", "file"), CORPUS, ids=[f"{name}/{file.name}" for name, file in CORPUS])
def test_no_input_of_the_corpus_breaks_an_invariant(name: str, file: Path) -> None:
    assert target.load(name).run(file.read_bytes())


@pytest.mark.parametrize("name", target.NAMES)
def test_the_corpus_reaches_every_outcome(name: str) -> None:
    each = target.load(name)
    reached = {each.run(file.read_bytes()) for _, file in CORPUS if file.parent == target.corpus(name)}
    assert reached >= each.OUTCOMES


@pytest.mark.parametrize("name", target.NAMES)
def test_no_seed_exceeds_the_fuzzers_maximum_length(name: str) -> None:
    longest = max(file.stat().st_size for file in target.corpus(name).iterdir())
    assert longest <= target.load(name).MAX_BYTES


def test_every_dictionary_belongs_to_a_target() -> None:
    assert {file.stem for file in (target.FOLDER / "dictionaries").iterdir()} <= set(target.NAMES)
