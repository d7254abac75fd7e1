"""The lock files match pyproject.toml, name no package index, and have a hash for every version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
RUNTIME: list[str] = PROJECT["project"]["dependencies"]
BUILD: list[str] = PROJECT["dependency-groups"]["build"]
REMEDY = "run `make lock`"

# The requirements of each lock file.
DEMO = RUNTIME + EXTRAS["demo"]
REQUIREMENTS = {
    "runtime.txt": RUNTIME,
    "build.txt": BUILD,
    "demo.txt": DEMO + BUILD,
    "dev.txt": DEMO + EXTRAS["test"] + EXTRAS["dev"] + BUILD,
}
NPM = sorted((ROOT / "tests" / "end_to_end").glob("*/package-lock.json"))
# A locked version with its marker, its hashes and its origin, as uv writes them.
ENTRY = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; [^\\\n]*)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    r"(?P<via>(?:    # .*\n)+)",
    re.MULTILINE,
)


def entries(name: str) -> list[re.Match[str]]:
    return list(ENTRY.finditer((FOLDER / name).read_text()))


def versions(name: str) -> dict[str, set[str]]:
    """The versions of each package; several if they differ by Python or platform."""
    found: dict[str, set[str]] = {}
    for entry in entries(name):
        found.setdefault(canonicalize_name(entry["name"]), set()).add(entry["version"])
    return found


def requirements_of(name: str) -> dict[str, list[Requirement]]:
    """The requirements by package, without our own extras; several if they differ by Python."""
    found: dict[str, list[Requirement]] = {}
    for each in map(Requirement, REQUIREMENTS[name]):
        if each.name != PROJECT["project"]["name"]:
            found.setdefault(canonicalize_name(each.name), []).append(each)
    return found


def test_there_is_a_lock_file_for_each_purpose_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == REQUIREMENTS.keys()


def test_the_build_requirements_are_locked() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(BUILD)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_lock_file_has_only_exact_versions_with_hashes(name: str) -> None:
    rest = ENTRY.sub("", (FOLDER / name).read_text())
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert "://" not in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_pyproject_allows_every_locked_version(name: str) -> None:
    locked = versions(name)
    for package, requirements in requirements_of(name).items():
        found = locked.get(package, {"none"})
        for version in found:
            allowed = any(requirement.specifier.contains(version) for requirement in requirements)
            assert allowed, f"{package}, locked {version}: {REMEDY}"
        for requirement in requirements:
            assert any(map(requirement.specifier.contains, found)), f"{requirement}, locked {found}: {REMEDY}"


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_removed_requirements_are_not_locked(name: str) -> None:
    direct = {canonicalize_name(each["name"]) for each in entries(name) if "(pyproject.toml" in each["via"]}
    assert direct == requirements_of(name).keys(), REMEDY


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_lock_file_has_the_tested_versions(name: str) -> None:
    tested = versions("dev.txt")
    for package, locked in versions(name).items():
        assert locked <= tested[package], REMEDY


def test_the_installed_packages_are_compatible() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ["Makefile", "docker/install.sh"])
def test_every_installation_requires_hashes(path: str) -> None:
    lines = [line for line in (ROOT / path).read_text().splitlines() if "--requirement" in line]
    assert lines
    assert [line for line in lines if "--require-hashes" not in line] == []


@pytest.mark.parametrize("path", NPM, ids=lambda path: path.parent.name)
def test_every_package_from_npm_is_locked_with_its_digest_and_names_no_registry(path: Path) -> None:
    locked: dict[str, dict[str, Any]] = json.loads(path.read_text())["packages"]
    project = json.loads(path.with_name("package.json").read_text())
    assert locked.pop("")["dependencies"] == project["dependencies"]
    assert [name for name, entry in locked.items() if not entry["integrity"].startswith("sha512-")] == []
    assert [name for name, entry in locked.items() if "resolved" in entry] == []
