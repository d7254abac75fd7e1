"""Color, width and progress as people expect them: on a terminal, and never in a pipe unless asked for."""

from __future__ import annotations

import io

import pytest

from authz_service.terminal import Color, clipped, progress, width_of, wrapped

VARIABLES = ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "TERM", "COLUMNS")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "on_a_terminal", "in_a_pipe"),
    [
        ({}, True, False),
        ({"TERM": "xterm-256color"}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"CLICOLOR": "0"}, False, False),
        ({"CLICOLOR": "1"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"CLICOLOR_FORCE": "0"}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_color_is_for_terminals_unless_the_environment_says_otherwise(
    variables: dict[str, str], *, on_a_terminal: bool, in_a_pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Color(Terminal())("bad", "x") == ("\x1b[31mx\x1b[0m" if on_a_terminal else "x")
    assert Color(io.StringIO())("bad", "x") == ("\x1b[31mx\x1b[0m" if in_a_pipe else "x")


@pytest.mark.parametrize(
    ("line", "colored"),
    [
        ("a.yaml:3: rules: is empty", "\x1b[1ma.yaml:3: \x1b[0mrules: is empty"),
        ("a.yaml:3: warning: rules[0]: x", "\x1b[1ma.yaml:3: \x1b[0m\x1b[33mwarning: \x1b[0mrules[0]: x"),
        ("no place", "no place"),
    ],
)
def test_place_and_kind_of_a_problem_are_colored_and_its_text_is_the_same(line: str, colored: str) -> None:
    assert Color(Terminal()).problem(line) == colored
    assert Color(io.StringIO()).problem(line) == line


def test_the_width_is_that_of_the_terminal_and_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    assert width_of(Terminal()) == 42
    assert width_of(io.StringIO()) is None


def test_a_long_line_is_wrapped_between_words_and_indented() -> None:
    text = "  x  this is https://a.example/a-long-address and more"
    assert wrapped(text, 5, 30) == ["  x  this is", "     https://a.example/a-long-address", "     and more"]


@pytest.mark.parametrize("width", [None, 24])
def test_a_line_in_a_pipe_or_a_very_narrow_terminal_is_not_wrapped(width: int | None) -> None:
    assert wrapped("  x  " + "word " * 9 + "end", 5, width) == ["  x  " + "word " * 9 + "end"]


@pytest.mark.parametrize(("width", "text"), [(6, "abcdef"), (5, "abcd…"), (1, "…"), (0, "")])
def test_a_clipped_text_shows_that_something_is_missing(width: int, text: str) -> None:
    assert clipped("abcdef", width) == text


def test_progress_is_shown_while_it_lasts_and_only_on_a_terminal() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    with progress(terminal, "working"), progress(pipe, "working"):
        assert terminal.getvalue() == "working"
    assert terminal.getvalue() == "working\r\x1b[K"
    assert pipe.getvalue() == ""


def test_progress_is_not_shown_on_a_terminal_that_cannot_erase_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with progress(terminal, "working"):
        pass
    assert terminal.getvalue() == ""
