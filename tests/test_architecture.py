"""ARCHITECTURE.md describes this code: its layers are those that lint-imports enforces, and what it names exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
PACKAGE = ROOT / "authz_service"
OTHER_NAMES = {"now", "test"}  # in docstrings of packages, without being modules
WITHOUT_AN_INTRODUCTION = ("", "_pb", "core", "demo")  # the layers; generated; one value or function each; not served
FILES = sorted(set(re.findall(r"`([a-z0-9_./-]+(?:\.py|\.md|\.toml|\.yaml|/))`", ARCHITECTURE)))


def test_the_layers_of_architecture_are_those_that_lint_imports_enforces() -> None:
    layers = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    enforced = [re.findall(r"authz_service\.([\w.]+)", layer) for layer in layers]
    table = ARCHITECTURE.partition("| layer | what it is for |")[2].partition("\n\n")[0]
    described = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert described == enforced


def test_every_module_is_in_a_layer() -> None:
    layers = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    enforced = {name.partition(".")[0] for layer in layers for name in re.findall(r"authz_service\.([\w.]+)", layer)}
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert modules - {"__init__", "_pb"} == enforced


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_architecture_names_exists(name: str) -> None:
    assert (ROOT / name).exists() or (PACKAGE / name).exists()


@pytest.mark.parametrize("package", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: str(path.parent.name))
def test_every_docstring_of_a_package_names_only_modules_that_exist(package: Path) -> None:
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | {path.parent.name for path in PACKAGE.rglob("*.py")}
    docstring = package.read_text().partition('"""')[2].partition('"""')[0]
    named = set(re.findall(r"``([a-z0-9_]+)``", docstring))
    assert named - OTHER_NAMES <= modules


@pytest.mark.parametrize(
    "package",
    sorted(
        {path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE / name for name in WITHOUT_AN_INTRODUCTION}
    ),
    ids=lambda path: path.name,
)
def test_the_docstring_of_a_package_introduces_its_modules(package: Path) -> None:
    docstring = (package / "__init__.py").read_text().partition('"""')[2].partition('"""')[0]
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert modules - {"__init__"} <= set(re.findall(r"\w+", docstring))
