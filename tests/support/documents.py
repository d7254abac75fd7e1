"""The pages of the site, and the blocks of code in them."""

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


class Block(NamedTuple):
    """A block of code: ```` ```yaml title="config.yaml" ````."""

    language: str
    title: str  # "" without one
    text: str
    line: int  # of its fence


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
    """What is below a heading, given with its #s, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    below = f"\n{text}".partition(f"\n{heading}\n")[2]
    return re.split(rf"^#{{1,{len(level)}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]
