"""Color for people who read on a terminal.

Only there, and not if NO_COLOR (no-color.org) is set: output to a pipe or a file is plain text.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_CODES = {"good": "32", "bad": "31", "dim": "2", "strong": "1"}


class Color:
    """Colors strings for one stream, or returns them unchanged."""

    def __init__(self, stream: TextIO) -> None:
        self._is_on = stream.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, kind: str, text: str) -> str:
        """The text as ``good``, ``bad``, ``dim`` or ``strong``."""
        return f"\x1b[{_CODES[kind]}m{text}\x1b[0m" if self._is_on else text
