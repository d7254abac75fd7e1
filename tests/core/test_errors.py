"""One tree of errors, and foreign names that cannot deface a log line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import errors


def test_every_error_is_on_the_tree_that_the_docstring_draws() -> None:
    drawn = [line.split("-- ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "-- " in line]
    defined = {name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)}
    assert defined == {*drawn, "AuthzError"}
    assert all(issubclass(getattr(errors, name), errors.AuthzError) for name in drawn)


@given(st.text() | st.lists(st.text()) | st.integers())
def test_a_foreign_name_is_quoted_on_one_printable_line_of_limited_length(name: Any) -> None:
    text = errors.quoted(name)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 123


@pytest.mark.parametrize(
    ("name", "text"), [("a'b", '"a\'b"'), ("\r\n", r"'\r\n'"), ("x" * 200, "'" + "x" * 119 + "...")]
)
def test_a_foreign_name_can_be_recognised(name: str, text: str) -> None:
    assert errors.quoted(name) == text


def test_all_problems_of_a_configuration_stand_in_its_error() -> None:
    error = errors.ConfigError(["a", "b"])
    assert (error.problems, str(error)) == (("a", "b"), "a\nb")


@given(st.text())
def test_what_is_shown_to_people_is_one_line_of_what_can_be_seen(text: str) -> None:
    shown = errors.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
