"""The pages of the reference that are generated: what they contain, and that they are current."""

from __future__ import annotations

import pytest

from docs_tools.reference import pages
from support.documents import ROOT

PAGES = pages()


@pytest.mark.parametrize("path", PAGES)
def test_the_committed_page_is_what_make_schema_writes(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path], "run make schema"
