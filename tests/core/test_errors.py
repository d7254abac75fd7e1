"""One tree of errors, drawn as it is, and foreign names that cannot deface a log line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import errors


def drawn() -> dict[str, set[str]]:
    """The errors of the drawn tree, each with the packages that raise it."""
    lines = re.findall(r"-- (\w+) .*\((.+)\)$", errors.__doc__ or "", re.MULTILINE)
    return {name: set(packages.split(", ")) for name, packages in lines}


def test_every_error_is_on_the_tree_that_the_docstring_draws() -> None:
    defined = {name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)}
    assert defined == {*drawn(), "AuthzError"}
    assert all(issubclass(getattr(errors, name), errors.AuthzError) for name in drawn())


def test_the_tree_names_the_packages_that_raise_each_error() -> None:
    raised: dict[str, set[str]] = {name: set() for name in drawn()}
    package = Path(errors.__file__).parent.parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in raised:
                raised[node.func.id].add(file.relative_to(package).with_suffix("").parts[0])
    assert raised == drawn()


@given(st.text() | st.lists(st.text()) | st.integers())
def test_a_foreign_name_is_quoted_on_one_printable_line_of_limited_length(name: Any) -> None:
    text = errors.quoted(name)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 123


@pytest.mark.parametrize(
    ("name", "text"), [("a'b", '"a\'b"'), ("\r\n", r"'\r\n'"), ("x" * 200, "'" + "x" * 119 + "...")]
)
def test_a_quoted_name_can_be_recognized(name: str, text: str) -> None:
    assert errors.quoted(name) == text


def test_a_configuration_error_contains_every_problem() -> None:
    error = errors.ConfigError(["a", "b"])
    assert (error.problems, str(error)) == (("a", "b"), "a\nb")


@given(st.text())
def test_printable_text_is_one_line_without_invisible_characters(text: str) -> None:
    shown = errors.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
