"""Writes the pages of the reference that are generated from the program: ``make chart``."""

from __future__ import annotations

from pathlib import Path

from docs_tools import chart, configuration

ROOT = Path(__file__).parent.parent


def pages() -> dict[str, str]:
    """The generated pages, by their path in the repository."""
    return {
        "docs/reference/configuration.md": _note("authz_service/config/model.py and docs_tools/introductions.py")
        + configuration.page(),
        "docs/reference/chart.md": _note("the comments in helm/authz-service/values.yaml") + chart.page(),
    }


def _note(source: str) -> str:
    return f"<!-- Written by `make chart` from {source}: edit those, not this page. -->\n\n"


def main() -> None:
    """Write all pages."""
    for path, text in pages().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
