"""A few seconds of fuzzing for each target; ``make fuzz`` runs for longer."""

from __future__ import annotations

import base64
import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fuzz import campaign, planted, target
from support import missing

SECONDS = 4  # for each target
SEED = 1  # of libFuzzer: the suite repeats itself, and only `make fuzz` explores
PLANTED_SECONDS = 120  # to find the planted fault, which takes one or two
_EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_FUZZER = [each for each in map(Requirement, _EXTRAS["test"]) if each.name == "atheris"]


@pytest.fixture
def fuzzer() -> None:
    if importlib.util.find_spec("atheris") is None:
        missing.not_proved("that no input near the corpus breaks an invariant", missing="atheris")


def test_the_fuzzer_supports_some_python() -> None:
    assert _FUZZER


if any(each.marker is None or each.marker.evaluate() for each in _FUZZER):  # it has no wheels for other systems

    @pytest.mark.usefixtures("fuzzer")
    @pytest.mark.parametrize("name", target.NAMES)
    def test_no_input_near_the_corpus_breaks_an_invariant(name: str, tmp_path: Path) -> None:
        run = campaign.run(name, SECONDS, found=tmp_path, seed=SEED)
        if run.failure:
            pytest.fail(f"{name}, with libFuzzer's seed {SEED}:\n{run.failure}", pytrace=False)
        assert run.summary

    @pytest.mark.usefixtures("fuzzer")
    def test_the_fuzzer_finds_a_fault_that_random_input_does_not(tmp_path: Path) -> None:
        run = campaign.run("planted", PLANTED_SECONDS, found=tmp_path, seed=SEED, module="fuzz.planted", max_bytes=16)
        assert planted.Planted.__name__ in run.failure
        (octets,) = (file.read_bytes() for file in tmp_path.glob("planted-crash-*"))
        assert octets.startswith(planted.MESSAGE)
        assert base64.b64encode(octets).decode() in run.failure
