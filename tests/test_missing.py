"""A test without its requirements is skipped with a report, and fails in CI."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support import missing

TESTS = Path(__file__).parent
WAYS_TO_SKIP = {"skip", "skipif", "importorskip", "skipTest", "xfail"}
MESSAGE = r"^NOT PROVED, because this machine lacks a-missing-program: that it runs\."


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [
        (None, pytest.skip.Exception),
        ("", pytest.skip.Exception),
        ("false", pytest.skip.Exception),
        ("0", pytest.skip.Exception),
        ("true", pytest.fail.Exception),
        ("1", pytest.fail.Exception),
    ],
)
def test_a_missing_program_skips_a_test_loudly_and_fails_it_in_ci(
    ci: str | None, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    if ci is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=MESSAGE):
        missing.program("a-missing-program", "that it runs")


def test_an_installed_program_is_found() -> None:
    assert Path(missing.program("sh", "that it runs")).name == "sh"


def test_no_test_can_be_skipped_in_another_way() -> None:
    exempt = {Path(missing.__file__), Path(__file__)}
    files = {path for path in TESTS.rglob("*.py") if "node_modules" not in path.parts} - exempt
    assert len(files) > 100
    found = [f"{path.relative_to(TESTS)}: {name}" for path in sorted(files) for name in names(path) & WAYS_TO_SKIP]
    assert found == []


def names(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}
