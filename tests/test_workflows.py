"""The workflows are well formed, and the files and commands in them exist; only CI can run them.

actionlint checks keys, expressions, needs and outputs. zizmor checks for security problems, and validates Dependabot's
file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.go import ACTIONLINT, built

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
PROGRAMS = Path(sys.executable).parent
PRE_COMMIT = ".pre-commit-config.yaml"
TIMEOUT = 60.0  # of a program

# Without shellcheck and pyflakes, which actionlint runs only where they are installed.
ACTIONLINT_OPTIONS = ("-no-color", "-shellcheck=", "-pyflakes=")
ZIZMOR_OPTIONS = ("--offline", "--quiet", "--no-progress", "--color=never", "--strict-collection", "--persona=pedantic")


def run(*command: str, cwd: Path = ROOT) -> tuple[int, str]:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def actionlint() -> list[str]:
    return [built(ACTIONLINT, "that actionlint finds nothing in the workflows"), *ACTIONLINT_OPTIONS]


@pytest.fixture(scope="module")
def zizmor() -> list[str]:
    return [str(PROGRAMS / "zizmor"), *ZIZMOR_OPTIONS]


def test_actionlint_finds_nothing(actionlint: list[str]) -> None:
    assert run(*actionlint, *map(str, FILES)) == (0, "")


def test_zizmor_finds_nothing(zizmor: list[str]) -> None:
    status, output = run(*zizmor, ".github", PRE_COMMIT)
    assert status == 0, output


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        ("timeout-minutes: 15", "timeout-minutez: 15"),
        ("needs: check", "needs: chec"),
        ("matrix.python }}", "matrix.pyton }}"),
        ("github.event_name", "github.even_name"),
    ],
)
def test_actionlint_finds_a_mistake(actionlint: list[str], tmp_path: Path, original: str, replacement: str) -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert original in workflow
    (tmp_path / "ci.yml").write_text(workflow.replace(original, replacement))
    assert run(*actionlint, str(tmp_path / "ci.yml"))[0] != 0


@pytest.mark.parametrize(
    ("file", "original", "replacement"),
    [
        ("workflows/ci.yml", r"@[0-9a-f]{40} # v", "@v"),
        ("workflows/ci.yml", "persist-credentials: false", "fetch-depth: 0"),
        ("workflows/ci.yml", r"permissions: \{\}", "permissions: write-all"),
        ("workflows/ci.yml", r'"\$GITHUB_SHA"', "${{ github.head_ref }}"),
        ("dependabot.yml", "weekly", "sometimes"),
        ("dependabot.yml", r"cooldown:\n *default-days: 7.*", ""),
    ],
)
def test_zizmor_finds_a_mistake(zizmor: list[str], tmp_path: Path, file: str, original: str, replacement: str) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    path = tmp_path / ".github" / file
    changed, count = re.subn(original, replacement, path.read_text())
    assert count
    path.write_text(changed)
    assert run(*zizmor, str(tmp_path))[0] != 0


def test_each_supported_python_is_tested_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
    assert WORKFLOWS["ci"]["jobs"]["oldest"]["steps"][1]["with"]["python-version"] == named[0]
    assert WORKFLOWS["ci"]["jobs"]["newest"]["steps"][1]["with"]["python-version"] == named[-1]


def test_each_action_is_pinned_to_one_commit_with_its_version() -> None:
    used = [re.search(r"uses: ([\w/-]+)@(\S+)(.*)", line) for path in FILES for line in path.read_text().splitlines()]
    pins: dict[str, set[str]] = {}
    for found in filter(None, used):
        assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", found[2] + found[3]), found[0]
        pins.setdefault(found[1], set()).add(found[2])
    assert "actions/checkout" in pins
    assert [action for action, commits in pins.items() if len(commits) > 1] == []


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job, definition in workflow["jobs"].items():
            yield f"{name}.{job}", definition


def test_workflows_have_no_permissions_and_jobs_declare_theirs() -> None:
    assert [name for name, workflow in WORKFLOWS.items() if workflow["permissions"] != {}] == []
    assert [name for name, job in jobs() if "permissions" not in job] == []


def test_jobs_with_write_access_run_nothing_from_the_repository() -> None:
    writers = {name: job for name, job in jobs() if job["permissions"].get("contents") == "write"}
    assert writers.keys() == {"release.publish"}
    uses = [step["uses"] for job in writers.values() for step in job["steps"] if "uses" in step]
    assert [action.partition("@")[0] for action in uses] == ["actions/download-artifact"]


def test_nothing_is_published_before_all_checks_have_passed() -> None:
    release = WORKFLOWS["release"]["jobs"]

    def before(job: str) -> set[str]:
        needs = release[job].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    checks = {"ci", "cluster", "notes"}
    publishing = {name for name, job in release.items() if "write" in job["permissions"].values()}
    assert {"image", "chart", "publish"} <= publishing
    assert {name: checks - before(name) for name in publishing} == {name: set() for name in publishing}


def test_workflows_use_no_secrets() -> None:
    assert not re.findall(r"secrets\.\w+", "".join(path.read_text() for path in FILES))


def test_the_required_status_waits_for_every_job() -> None:
    ci = WORKFLOWS["ci"]["jobs"]
    required = {name for name, job in ci.items() if "if" not in job}
    assert set(ci["passed"]["needs"]) == required


def commands() -> Iterator[tuple[str, str]]:
    """The commands in workflows, hooks and documents."""
    for name, job in jobs():
        for step in job.get("steps", []):
            yield name, step.get("run", "")
    for hook in hooks():
        yield hook["id"], hook["entry"]
    for document in ("CONTRIBUTING.md", "README.md", "SECURITY.md", ".github/pull_request_template.md"):
        text = (ROOT / document).read_text()
        for fenced, inline in re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
            yield document, fenced or inline


def hooks() -> list[dict[str, Any]]:
    (local,) = yaml.safe_load((ROOT / PRE_COMMIT).read_text())["repos"]
    assert local["repo"] == "local"
    found: list[dict[str, Any]] = local["hooks"]
    return found


def test_every_make_target_in_use_exists() -> None:
    rules = re.findall(r"^([\w$()./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {rule.replace("$(VENV)", ".venv") for rule in rules}
    made = {(place, target) for place, text in commands() for target in re.findall(r"\bmake ([\w./-]+)", text)}
    assert ("ci.check", "check") in made
    assert ("CONTRIBUTING.md", "lint") in made
    assert {(place, target) for place, target in made if target not in targets} == set()


def test_every_path_in_the_makefile_exists() -> None:
    paths = re.findall(r"tests/[\w./-]+", subprocess.check_output(["make", "--dry-run", "check"], cwd=ROOT, text=True))  # noqa: S607
    assert "tests/core" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_file_in_a_command_exists() -> None:
    named = {
        (place, file)
        for place, text in commands()
        for file in re.findall(r"(?<![\w/.$-])(?:\.ci|requirements|tests|helm)/[\w./-]*\w", text)
    }
    assert ("ci.test", ".ci/run") in named
    assert {(place, file) for place, file in named if not (ROOT / file).exists()} == set()


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_hooks_run_installed_tools_only(hook: dict[str, Any]) -> None:
    assert hook["language"] == "system"
    program = hook["entry"].split()[0]
    assert program == "make" or (PROGRAMS / program.removeprefix(".venv/bin/")).exists()


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_have_unique_labeled_fields(form: str) -> None:
    read = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert read.keys() == {"name", "description", "labels", "body"}
    fields = [each for each in read["body"] if each["type"] != "markdown"]
    assert all(each["type"] in {"input", "textarea"} and each["attributes"]["label"] for each in fields)
    assert len({each["id"] for each in fields}) == len(fields)
    assert fields[0]["validations"] == {"required": True}


CHANGELOG = """\
# Changelog

## [Unreleased]

- not yet

## [1.2.3] - 2027-01-31

### Added

- this

## [1.2.2] - 2027-01-01

- that

## [1.2.0] - 2026-12-01
"""


@pytest.mark.parametrize(
    ("tag", "version", "status", "output"),
    [
        ("v1.2.3", "1.2.3", 0, "\n### Added\n\n- this\n"),
        ("v1.2.2", "1.2.2", 0, "\n- that\n"),
        ("v1.2.3", "1.2.4", 1, "the tag is v1.2.3, but the program's version is 1.2.4"),
        ("1.2.3", "1.2.3", 1, "the tag is 1.2.3, but the program's version is 1.2.3: tag v1.2.3"),
        ("v1.2.1", "1.2.1", 1, "CHANGELOG.md has no section ## [1.2.1]"),
        ("v1.2.0", "1.2.0", 1, "CHANGELOG.md has no section ## [1.2.0], or an empty one"),
        ("v1.2", "1.2", 1, "CHANGELOG.md has no section ## [1.2]"),
    ],
)
def test_release_notes_are_a_section_of_the_changelog(
    tmp_path: Path, tag: str, version: str, status: int, output: str
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release-notes", tmp_path / ".ci")
    (tmp_path / "authz_service").mkdir()
    (tmp_path / "authz_service" / "__init__.py").write_text(f'"""x"""\n\n__version__ = "{version}"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    bash = shutil.which("bash") or "bash"
    exit_status, printed = run(bash, ".ci/release-notes", tag, cwd=tmp_path)
    assert exit_status == status
    assert printed.startswith(output)
    assert status or "- not yet" not in printed
