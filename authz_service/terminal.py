"""What people see on a terminal: color, the width of lines, and what is going on.

Output to a pipe or a file is plain: no color, no line is wrapped or cut, and nothing is overwritten. The environment
decides as in other programs: NO_COLOR (no-color.org) turns color off; CLICOLOR_FORCE and FORCE_COLOR turn it on even in
a pipe; CLICOLOR=0 and TERM=dumb turn it off on a terminal. COLUMNS overrides a terminal's width.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_CODES = {"good": "32", "bad": "31", "caution": "33", "dim": "2", "strong": "1"}
_MIN_WIDTH = 20  # columns; narrower text is harder to read than text that the terminal itself wraps
_PROBLEM = re.compile(r"(.*?:[0-9]+: )(warning: )?")


class Color:
    """Colors strings for one stream, or returns them unchanged."""

    def __init__(self, stream: TextIO) -> None:
        self._is_on = _has_color(stream)

    def __call__(self, kind: str, text: str) -> str:
        """The text as ``good``, ``bad``, ``caution``, ``dim`` or ``strong``."""
        return f"\x1b[{_CODES[kind]}m{text}\x1b[0m" if self._is_on else text

    def problem(self, line: str) -> str:
        """A problem or warning of the configuration, ``FILE:LINE: path.to.key: text``."""
        match = _PROBLEM.match(line)
        if match is None or not self._is_on:
            return line
        warning = self("caution", match[2]) if match[2] else ""
        return f"{self('strong', match[1])}{warning}{line[match.end() :]}"


def _has_color(stream: TextIO) -> bool:
    environment = os.environ
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(name, "0") not in {"", "0"} for name in ("CLICOLOR_FORCE", "FORCE_COLOR")):
        return True
    return _is_terminal(stream) and environment.get("CLICOLOR") != "0"


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int | None:
    """The number of columns of a terminal; None for a pipe or a file, whose lines have any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wrapped(text: str, indent: int, width: int | None) -> list[str]:
    """A line in pieces that fit into ``width``, if there is one; all but the first are indented."""
    if width is None or width - indent < _MIN_WIDTH:
        return [text]
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [text]


def clipped(text: str, width: int) -> str:
    """A string of at most this many columns, which ends in … if something is missing."""
    return text if len(text) <= width else f"{text[: width - 1]}…" if width > 0 else ""


@contextlib.contextmanager
def progress(stream: TextIO, text: str) -> Iterator[None]:
    """Show what is going on while it does, on a terminal only."""
    shown = _is_terminal(stream)
    if shown:
        stream.write(text)
        stream.flush()
    try:
        yield
    finally:
        if shown:
            stream.write("\r\x1b[K")
            stream.flush()
