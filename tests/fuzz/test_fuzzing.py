"""A few seconds of fuzzing for each target; ``make fuzz`` runs for longer."""

from __future__ import annotations

import base64
import importlib.util
import random
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fuzz import campaign, planted, target
from support import missing

SECONDS = 8  # for each target
PLANTED_SECONDS = 120  # to find the planted fault, which takes one or two
_EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_FUZZER = [each for each in map(Requirement, _EXTRAS["test"]) if each.name == "atheris"]


@pytest.fixture
def seed() -> int:
    """libFuzzer's seed, derived from the one that pytest-randomly prints."""
    if importlib.util.find_spec("atheris") is None:
        missing.not_proved("that no input near the corpus breaks a promise", missing="atheris")
    return random.randrange(1, 1 << 31)  # noqa: S311 - not for secrets


def test_there_is_a_fuzzer_for_some_python() -> None:
    assert _FUZZER


if any(each.marker is None or each.marker.evaluate() for each in _FUZZER):  # it has no wheels for other systems

    @pytest.mark.parametrize("name", target.NAMES)
    def test_no_input_near_the_corpus_breaks_a_promise(name: str, seed: int, tmp_path: Path) -> None:
        run = campaign.run(name, SECONDS, found=tmp_path, seed=seed)
        if run.failure:
            pytest.fail(f"{name}, with libFuzzer's seed {seed}:\n{run.failure}", pytrace=False)
        assert run.summary

    def test_the_fuzzer_finds_a_fault_that_chance_does_not(seed: int, tmp_path: Path) -> None:
        run = campaign.run("planted", PLANTED_SECONDS, found=tmp_path, seed=seed, module="fuzz.planted", max_bytes=16)
        assert planted.Planted.__name__ in run.failure
        (octets,) = (file.read_bytes() for file in tmp_path.glob("planted-crash-*"))
        assert octets.startswith(planted.MESSAGE)
        assert base64.b64encode(octets).decode() in run.failure
