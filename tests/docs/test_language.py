"""The language of the documentation and of the sources: plain, American, and one word for one idea.

vale checks phrases and sentences of documents by the rules in .vale/authz. codespell checks the spelling of everything,
with our words in .vale/words.txt beside its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from support.documents import ROOT
from support.go import VALE, built

TIMEOUT: Final = 60.0  # of a program
RULES: Final = ROOT / ".vale" / "authz"
WORDS: Final = ROOT / ".vale" / "words.txt"
# Not the changelog and ARCHITECTURE.md, which are for contributors.
DOCUMENTS: Final = (
    *("docs", "README.md", "CONTRIBUTING.md", "SECURITY.md", "UPGRADING.md"),
    *("helm/README.md", "helm/authz-service/README.md", "examples/README.md"),
)
SPELLED: Final = (
    *DOCUMENTS,
    *("ARCHITECTURE.md", "CHANGELOG.md", "Dockerfile", "Makefile", "pyproject.toml", "zensical.toml"),
    *("authz_service", "bench", "docker", "docs_tools", "examples", "helm", "proto", "tests", ".ci", ".github"),
)


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def vale() -> list[str]:
    return [built(VALE, "that the documents are plain English"), "--no-global", "--no-wrap", "--output=line"]


@pytest.fixture(scope="module")
def codespell() -> list[str]:
    program = str(Path(sys.executable).parent / "codespell")
    return [program, "--toml", "pyproject.toml", "--dictionary", "-", "--dictionary", str(WORDS)]


def test_vale_finds_nothing(vale: list[str]) -> None:
    status, output = run(*vale, *DOCUMENTS)
    assert (status, output) == (0, "")


MISTAKES: Final = [
    ("Terms", "Write it into the config file."),
    ("Terms", "The token is sent via Envoy."),
    ("Terms", "A token can not be read."),
    ("Terms", "Use an asymmetric algorithm, e.g. the default."),
    ("Spelling", "The keycloak server signs it."),
    ("Spelling", "Send an id token."),
    ("Translated", "The list is of theirs."),
    ("Translated", "This allows to read the token."),
    ("Translated", "The provider is away."),
    ("Persons", "The provider asks for a proof."),
    ("Persons", "A server is believed."),
    ("Future", "The request will be denied."),
    ("Condescending", "This is easy."),
    ("Condescending", "Please read the log."),
    ("FirstPerson", "We measured it."),
    ("Reader", "The user should restart it."),
    ("Exclamation", "It works!"),
    ("Length", f"The request is {'slow and ' * 16}slow again."),
    ("Repetition", "It denies the the request."),
    ("Headings", "## How A Request Is Decided"),
]


def test_vale_finds_each_mistake(vale: list[str], tmp_path: Path) -> None:
    """In a page with one mistake in each paragraph."""
    page = tmp_path / "page.md"
    page.write_text("\n\n".join(text for _, text in MISTAKES))
    status, output = run(*vale, "--config", str(ROOT / ".vale.ini"), str(page))
    assert status != 0
    found = {(line.split(":")[3], MISTAKES[int(line.split(":")[1]) // 2][1]) for line in output.splitlines()}
    assert found == {(f"authz.{rule}", text) for rule, text in MISTAKES}


def test_every_rule_that_gates_finds_a_mistake() -> None:
    levels = {path.stem: yaml.safe_load(path.read_text())["level"] for path in RULES.glob("*.yml")}
    assert {name for name, level in levels.items() if level == "error"} == {rule for rule, _ in MISTAKES}


RIGHT: Final = """\
# Protect gRPC services of Microsoft Entra ID

Set `config` in the file `config.yaml`, and see [the page](https://github.com/envoyproxy/envoy/issues/1).

Select *Capability config* there. The log says why, and the answer is 401. It allows you to read the log.

The server refuses connections.

1. Copy jwks.json, and run it: python3.11 reads it.

## The API sees no `x-auth-subject`

### 401 unknown_issuer

### AuthzKeysStale

```sh
echo "This will be simply just easy, via config!"
```
"""


def test_vale_finds_no_mistake_where_there_is_none(vale: list[str], tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(RIGHT)
    assert run(*vale, "--config", str(ROOT / ".vale.ini"), str(tmp_path / "page.md")) == (0, "")


@pytest.mark.locked  # a newer dictionary finds more
def test_codespell_finds_nothing(codespell: list[str]) -> None:
    assert run(*codespell, *SPELLED) == (0, "")


# Misspelled, British, and not one of ours. In parts, so that this file has none.
@pytest.mark.parametrize("word", ["rec" + "ieve", "behavi" + "our", "who" + "ever"])
def test_codespell_finds_a_mistake(codespell: list[str], tmp_path: Path, word: str) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{word}\n")
    status, output = run(*codespell, str(tmp_path))
    assert status != 0
    assert f"{word} ==>" in output


def test_every_word_of_ours_is_written_once() -> None:
    lines = [line.partition("->") for line in WORDS.read_text().splitlines()]
    words = [word for word, _, _ in lines]
    assert words == sorted(set(words))
    assert all(replacement for _, _, replacement in lines)
