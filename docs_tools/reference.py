"""Writes the pages of the reference that are generated from the program: ``make schema``."""

from __future__ import annotations

from pathlib import Path

from docs_tools import chart, configuration

ROOT = Path(__file__).parent.parent


def pages() -> dict[str, str]:
    """The generated pages, by their path in the repository."""
    return {
        "docs/reference/configuration.md": configuration.page(),
        "docs/reference/chart.md": chart.page(),
    }


def main() -> None:
    """Write all pages."""
    for path, text in pages().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
