"""No line of a paragraph reads as the item of a list."""

from __future__ import annotations

import re

import pytest

from support.documents import page, pages


@pytest.mark.parametrize("name", pages())
def test_no_line_begins_with_a_number_that_ends_the_sentence_before(name: str) -> None:
    """Markdown would begin a list there, without that number."""
    text = re.sub(r"^ *```.*?^ *```$", "", page(name), flags=re.DOTALL | re.MULTILINE)
    last: dict[int, int] = {}  # the number of the last item, by indentation
    for indent, digits in re.findall(r"^( *)(\d+)\. ", text, re.MULTILINE):
        number = int(digits)
        assert number in {1, last.get(len(indent), 0) + 1}, f"{digits}."
        last[len(indent)] = number
