"""What a page shows of a program's output."""

from __future__ import annotations

import re


def assert_shows(shown: str, printed: str) -> None:
    """A line ``...`` is any lines, and ``…`` anything in a line."""
    pattern = "".join(
        "(?:.*\n)*?" if line == "..." else f"{'.*'.join(map(re.escape, line.split('…')))}\n"
        for line in shown.splitlines()
    )
    assert re.fullmatch(pattern, printed.removesuffix("\n") + "\n"), printed
