"""No line of a paragraph reads as the item of a list."""

from __future__ import annotations

import re

import pytest

from support.documents import page, pages, without_code


@pytest.mark.parametrize("name", pages())
def test_no_line_begins_with_a_number_that_ends_the_sentence_before(name: str) -> None:
    """Markdown would begin a list there, without that number."""
    last: dict[int, int] = {}  # the number of the last item, by indentation
    for indent, digits in re.findall(r"^( *)(\d+)\. ", without_code(page(name)), re.MULTILINE):
        number = int(digits)
        assert number in {1, last.get(len(indent), 0) + 1}, f"begin the line that starts with '{digits}. ' elsewhere"
        last[len(indent)] = number
