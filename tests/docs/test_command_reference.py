"""The page on commands: each one with its options, as the program has them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from authz_service.cli import _parsers, main
from authz_service.exit_status import INTERRUPTED, PIPE_CLOSED
from support.documents import blocks, page, section, table, tables

PAGE = page("reference/commands")
COMMANDS = _parsers()[1]
TABLE = {re.sub(r"\[`(.*)`\]\(#\1\)", r"\1", name): summary for name, summary in table(PAGE, "command")}


def imperative(text: str) -> str:
    """The words of the help, which has verbs in their plain form and no code."""
    return re.sub(r"(?:(ie)|)s\b", lambda match: "y" if match[1] else "", text.lower().replace("`", ""))


def actions(command: str) -> list[argparse.Action]:
    every = COMMANDS[command]._actions
    return [each for each in every if each.help != argparse.SUPPRESS and each.dest != "help"]


def written(action: argparse.Action) -> str:
    """``--config FILE``, as argparse writes it."""
    value = action.metavar or ("" if action.nargs == 0 else "{" + ",".join(map(str, action.choices or ())) + "}")
    return " ".join([*action.option_strings[-1:], *([str(value)] if value else [])])


def rows(command: str, heading: str) -> dict[str, str]:
    """The rows of the command's table with this heading."""
    found = tables(section(PAGE, f"## {command}"))
    return {row[0]: row[1] for each in found if each.head[0] == heading for row in each.rows}


def test_the_page_has_exactly_the_commands_of_the_program_in_the_same_order() -> None:
    assert list(TABLE) == list(COMMANDS)
    headings = re.findall(r"^## ([a-z-]+)$", PAGE, re.MULTILINE)
    assert headings == list(COMMANDS)
    assert "has ten commands" in PAGE
    assert len(COMMANDS) == 10


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_and_the_help_describe_a_command_in_the_same_words(command: str) -> None:
    summary = (COMMANDS[command].description or "").removesuffix(".")
    assert imperative(TABLE[command]) == imperative(summary)
    start = " ".join(section(PAGE, f"## {command}").split())
    assert imperative(start).startswith(imperative(summary))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_exactly_the_options_of_a_command(command: str) -> None:
    options = rows(command, "option")
    assert sorted(options) == sorted(f"`{written(action)}`" for action in actions(command))
    for action in actions(command):
        documented, helped = options[f"`{written(action)}`"].replace("`", ""), action.help or ""
        assert helped in documented, (command, documented)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_synopsis_is_that_of_the_help(command: str) -> None:
    synopsis = blocks(section(PAGE, f"## {command}"), "text")[0]
    usage = COMMANDS[command].format_usage().removeprefix("usage: ").replace("[-h] ", "").replace(" [-h]", "")

    def parts(text: str) -> list[str]:
        return sorted(re.findall(r"\[[^\]]*\]|[^\s\[\]]+", text))

    assert parts(synopsis.text) == parts(usage)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_exit_statuses(command: str) -> None:
    statuses = [int(status) for status in rows(command, "exit status")]
    assert statuses == sorted(statuses)
    assert statuses[0] == 0


def test_the_statuses_of_interrupted_commands_are_those_of_the_program() -> None:
    assert f"status {INTERRUPTED} on `SIGINT`" in PAGE
    assert f"status {PIPE_CLOSED}." in PAGE


def test_the_problem_on_the_page_is_that_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(blocks(PAGE, title="config.yaml")[0].text.replace("{scopes:", "{scope:"))
    assert main(["check-config", "config.yaml"]) == 1
    _, problem = blocks(section(PAGE, "## check-config"), "text")
    assert capsys.readouterr().out == problem.text
