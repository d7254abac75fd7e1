"""The image, without building it: its Dockerfile, its build context, and its install step."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCKERFILES = ["Dockerfile", *map(str, sorted((ROOT / "tests" / "cluster" / "images").glob("*.Dockerfile")))]
# The instructions with their continuation lines, and those of the last stage, which is the image.
INSTRUCTIONS = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
LAST = INSTRUCTIONS[max(at for at, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


async def run(*command: str, cwd: Path = ROOT, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_hadolint_finds_nothing() -> None:
    assert await run(str(Path(sys.executable).parent / "hadolint"), "--no-color", *DOCKERFILES) == (0, "")


def last(name: str) -> str:
    arguments: list[str] = [argument for each, argument in LAST if each == name]
    return arguments[-1]


def test_the_image_has_a_numeric_user_that_is_not_root() -> None:
    user, _, group = last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_nothing_in_the_image_needs_a_shell() -> None:
    assert not [text for name, text in LAST if name == "RUN"]
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last(name)), list)
    assert isinstance(json.loads(last("HEALTHCHECK").partition("CMD ")[2]), list)


def test_the_labels_are_those_of_the_open_container_initiative() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', last("LABEL")))
    assert labels.keys() == {"title", "description", "version", "revision", "licenses"}


def test_every_stage_uses_the_base_to_pin() -> None:
    assert {text.split()[0] for name, text in INSTRUCTIONS if name == "FROM"} == {"${BASE}"}
    assert "@sha256:DIGEST" in DOCKERFILE


def context(folder: Path) -> Path:
    """The build context: the sources that .dockerignore includes."""
    included = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in included:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(source, folder / name)
    return folder


def test_the_build_context_has_exactly_what_is_copied(tmp_path: Path) -> None:
    copied = {
        each for name, text in INSTRUCTIONS if name == "COPY" and "--from" not in text for each in text.split()[:-1]
    }
    assert copied == {path.name for path in context(tmp_path).iterdir()}


async def test_the_install_step_needs_only_the_context_and_leaves_no_build_tools(tmp_path: Path) -> None:
    sources, folder = context(tmp_path), tmp_path / "opt"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # a python3 that has pip, as the base image's has
    status, output = await run(
        "sh", "docker/install.sh", str(folder), cwd=sources, PATH=path, SOURCE_DATE_EPOCH="1000000000"
    )
    assert status == 0, output
    assert output.splitlines()[-1].startswith("authz-service ")
    assert named(folder, "pip") == []
    assert times(folder) == {1000000000.0}
    there, here = (str(each / "authz-service") for each in (folder / "bin", Path(sys.executable).parent))
    assert await run(there, "schema", cwd=folder) == await run(here, "schema")


def named(folder: Path, package: str) -> list[Path]:
    return list(folder.glob(f"lib/*/site-packages/{package}*"))


def times(folder: Path) -> set[float]:
    return {each.lstat().st_mtime for each in folder.rglob("*")}
