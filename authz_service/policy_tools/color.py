"""Color for people who read on a terminal.

Law: only there, and not where NO_COLOR (no-color.org) asks for none; what is piped or kept in a file is plain text.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_CODES = {"good": "32", "bad": "31", "dim": "2", "strong": "1"}


class Color:
    """Paints texts, or leaves them as they are."""

    def __init__(self, stream: TextIO) -> None:
        self._on = stream.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, kind: str, text: str) -> str:
        """The text as ``good``, ``bad``, ``dim`` or ``strong``."""
        return f"\x1b[{_CODES[kind]}m{text}\x1b[0m" if self._on else text
