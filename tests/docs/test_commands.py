"""Every command in every page exists, and our program prints what the page shows. Every block of JSON is valid."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from authz_service.cli import _parser
from support.block_kinds import kind_of
from support.console import assert_shows, commands, printed
from support.documents import ROOT, Block, blocks, page, pages
from support.signing import Signer

TIMEOUT: Final = 60.0  # seconds, of a program
PROVED: Final = {"yaml", "json", "console", "sh"}
PLAIN: Final = {"http", "text", "promql", "toml", "python", "js"}


def blocks_of(*languages: str) -> list[Any]:
    return [
        pytest.param(name, block, id=f"{name}.md:{block.line}")
        for name in pages()
        for block in blocks(page(name))
        if block.language in languages
    ]


def test_every_block_has_a_known_language() -> None:
    for name in pages():
        fences = [line.strip() for line in page(name).splitlines() if line.strip().startswith("```")]
        unknown = {each.strip("`").partition(" ")[0] for each in fences[::2]} - (PROVED | PLAIN)
        assert unknown == set(), f"{name}: use one of {', '.join(sorted(PROVED | PLAIN))}"
        assert set(fences[1::2]) <= {"```"}, name


def test_a_block_in_a_list_is_indented_by_four_columns() -> None:
    """With three, as on GitHub, the site ends the list before the block, and numbers the next step 1."""
    for name in pages():
        wrong = [line for line in page(name).splitlines() if re.match(r"(?! {4}| {8})\s+```", line)]
        assert wrong == [], name


@pytest.mark.parametrize(("name", "block"), blocks_of("json"))
def test_every_block_of_json_is_valid(name: str, block: Block) -> None:
    assert name
    for document in [block.text] if block.text.startswith("{\n") else block.text.splitlines():
        json.loads(document)


@pytest.mark.parametrize(("name", "block"), blocks_of("sh", "console"))
def test_every_command_is_a_command(name: str, block: Block) -> None:
    """The shell can read it, and our program and make have its options and targets."""
    assert name
    script = "\n".join(commands(block))
    done = subprocess.run(["/bin/sh", "-n"], input=script, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    for arguments in re.findall(
        r"(?:^|[\s(])authz-service +((?:check|serve|test|explain|schema|health|demo|init|compl|version)[^|;&>)\n]*)",
        script,
    ):
        _parser().parse_args(shlex.split(arguments, comments=True))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)) <= set(targets)


def of_our_program(block: Block) -> bool:
    return all(command.startswith("authz-service ") for command in commands(block))


@pytest.mark.parametrize(("name", "block"), [each for each in blocks_of("console") if of_our_program(each.values[1])])
def test_our_program_prints_what_a_page_shows(name: str, block: Block, tmp_path: Path) -> None:
    write_files(name, block, tmp_path)
    session = "".join(f"$ {each}\n{printed(each, tmp_path, may_fail=True)}" for each in commands(block))
    assert_shows(block.text.replace("\\\n", " "), session)


def write_files(name: str, until: Block, folder: Path) -> None:
    """Write what the page has before this block: files by title, and tokens by their claims.

    A block of JSON with the title ``claims of NAME`` is signed into the file NAME, valid now. The keys of issuers come
    from a file, so nothing is fetched.
    """
    signer = Signer("ES256", "2026-11")
    (folder / "jwks.json").write_text(json.dumps({"keys": [signer.jwk()]}))
    for block in blocks(page(name)):
        if block.line >= until.line or not block.title:
            continue
        if claims := re.fullmatch(r"claims of (\S+)", block.title):
            now = int(time.time())
            times = {"iat": now - 60, "nbf": now - 60, "exp": now + 240}
            token = json.loads(block.text)
            kind = "JWT" if "nonce" in token else "at+jwt"
            token |= {key: value for key, value in times.items() if key in token}
            (folder / claims[1]).write_text(signer.sign(token, {"typ": kind}))
        elif block.language == "yaml":
            (folder / block.title).write_text(
                offline(block.text) if kind_of(block.text) == "configuration" else block.text
            )


def offline(text: str) -> str:
    """A configuration whose issuers have their keys in a file."""
    issuers = yaml.safe_load(text)["issuers"]
    lines = text.splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if re.match(r" *- issuer:", line)]
    for number, issuer in reversed(list(zip(places, issuers, strict=True))):
        if "keys" not in issuer:
            lines.insert(number + 1, f"{lines[number].index('issuer') * ' '}keys: {{jwks_file: jwks.json}}\n")
    return "".join(lines)


def test_a_page_with_commands_for_other_programs_has_a_test_of_its_own() -> None:
    """Such as curl and kubectl: they need a provider, Envoy or a cluster."""
    tests = "\n".join(each.read_text() for each in (ROOT / "tests").rglob("*.py") if each != Path(__file__))
    shown = [name for name in pages() for block in blocks(page(name), "console") if not of_our_program(block)]
    without = [name for name in sorted(set(shown)) if f'"{name}"' not in tests]
    assert without == [], "write a test in tests/docs that runs their commands, or show them in ```sh without output"
