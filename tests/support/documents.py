"""The pages of the site: their sections, tables and blocks of code. Tests read Markdown with these functions only."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>\S[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)

_BAR: Final = re.compile(r"(?<!\\)\|")  # between cells; in a cell, a bar is escaped


class Block(NamedTuple):
    """A block of code: ```` ```yaml title="config.yaml" ````."""

    language: str
    title: str  # "" without one
    text: str
    line: int  # of its fence


class Table(NamedTuple):
    """A table: the cells of its head, and of each row."""

    head: list[str]
    rows: list[list[str]]


def page(name: str) -> str:
    """The text of a page: ``start/envoy``."""
    return (DOCS / f"{name}.md").read_text()


def pages() -> list[str]:
    """The names of all pages."""
    return sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md"))


def blocks(text: str, language: str = "", title: str | None = None) -> list[Block]:
    """The blocks of code in a text, those of one language or with one title."""
    found = []
    for match in _FENCE.finditer(text):
        language_of, _, options = match["info"].partition(" ")
        titles = re.findall(r'title="([^"]*)"', options)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language_of, titles[0] if titles else "", dedent(match["text"]), line))
    return [block for block in found if language in {"", block.language} and (title is None or title == block.title)]


def yaml_blocks(name: str) -> list[str]:
    """The blocks of YAML in a page."""
    return [block.text for block in blocks(page(name), "yaml")]


def section(text: str, heading: str) -> str:
    """What is below a heading, given with its #s, up to the next one of its level or above.

    Raises:
        AssertionError: when there is no such heading.
    """
    level = heading.partition(" ")[0]
    _, found, below = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"the page lacks the heading {heading!r}: write it, or rename it in this test too"
    return re.split(rf"^#{{1,{len(level)}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[Table]:
    """All tables of a text."""
    found = []
    for lines in re.findall(r"(?:^ *\|.*\|\n)+", f"{text}\n", re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in _BAR.split(line.strip())[1:-1]] for line in lines.splitlines())
        found.append(Table(head, rows))
    return found


def table(text: str, *head: str) -> list[list[str]]:
    """The rows of the first table whose head begins with these cells.

    Raises:
        AssertionError: when there is no such table.
    """
    found = next((each.rows for each in tables(text) if tuple(each.head[: len(head)]) == head), None)
    assert found, f"the page lacks a table with the head {head}: write it, or change it in this test too"
    return found


def code(cell: str) -> list[str]:
    """What a cell, or another text, has in backticks."""
    return re.findall("`([^`]+)`", cell)


def without_code(text: str) -> str:
    """A text without its blocks of code."""
    return _FENCE.sub("", text)
