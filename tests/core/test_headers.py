"""A header is read in one way or not at all, and combining many costs no more than reading them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.headers import AmbiguousHeaderError, are_plain, cgi_name, combined, value_of


def test_repeated_fields_are_combined_in_order_whatever_their_case() -> None:
    assert combined([("A", "1"), ("b", ""), ("a", "2"), ("B", ""), ("a", "")]) == {"a": "1,2,", "b": ","}


@given(st.lists(st.tuples(st.sampled_from(["a", "A", "b", "c-d"]), st.text(max_size=4))))
def test_every_value_is_in_the_combined_fields(fields: list[tuple[str, str]]) -> None:
    expected: dict[str, str] = {}
    for name, value in fields:
        expected[name.lower()] = f"{expected[name.lower()]},{value}" if name.lower() in expected else value
    assert combined(fields) == expected


class _Counting(str):
    """A string that counts concatenations."""

    __slots__ = ()
    added = 0

    def __add__(self, other: str) -> str:
        type(self).added += 1
        return str(self) + other

    def __format__(self, spec: str) -> str:
        type(self).added += 1
        return str(self)


def test_the_values_of_a_repeated_field_are_joined_once() -> None:
    """Joined for each field, a MiB of small fields of one name would cost as much as copying gigabytes."""
    fields = [("x", _Counting("abcdefgh"))] * 10_000
    assert combined(fields) == {"x": ",".join(["abcdefgh"] * 10_000)}
    assert _Counting.added == 0


@pytest.mark.parametrize("value", ["2", " 2", "2 ", "\t2", "2\t", " \t2 \t"])
def test_spaces_and_tabs_around_a_value_are_not_part_of_it(value: str) -> None:
    assert value_of({"x-a": value}, "x-a") == "2"


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ({}, None),
        ({"x-b": "1"}, None),
        ({"x-a": ""}, ""),
        ({"x-a": " \t"}, ""),
        ({"x-a": "a b\tc"}, "a b\tc"),
        ({"x-a": "S\u00e3o"}, "S\u00e3o"),
        ({"x-a": '"2";q=1'}, '"2";q=1'),
        ({"x-a": "1", "x-ab": "2", "x a": "3", "xa": "4", "y-a": "5", "x-b": "6,7"}, "1"),
    ],
)
def test_a_header_that_was_sent_once_has_its_value(sent: dict[str, str], value: str | None) -> None:
    assert value_of(sent, "x-a") == value


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"x-a": "1,1"}, "more than once"),
        ({"x-a": ","}, "more than once"),
        ({"x-a": " ,"}, "more than once"),
        ({"x_a": "1"}, "another spelling"),
        ({"x_a": ""}, "another spelling"),
        ({"x-a": "1", "x.a": "1"}, "another spelling"),
        ({"x-a": "\ufffd"}, "drop"),
        ({"x-a": "1\x00"}, "drop"),
        ({"x-a": "1\r\n"}, "drop"),
        ({"x-a": "1\x0b2"}, "drop"),
        ({"x-a": "1\x7f"}, "drop"),
        ({"x-a": "1\x85"}, "drop"),
        ({"x-a": "\u00a01"}, "drop"),
        ({"x-a": "1\u3000"}, "drop"),
    ],
)
def test_a_header_that_two_parties_may_read_differently_has_no_value(sent: dict[str, str], why: str) -> None:
    with pytest.raises(AmbiguousHeaderError, match=why):
        value_of(sent, "x-a")


@pytest.mark.parametrize("character", "!#$%&'*+._`|~^")
def test_a_name_is_recognized_under_every_spelling_with_the_same_cgi_name(character: str) -> None:
    spelled = f"x{character}api-version"
    assert cgi_name(spelled) == "x-api-version"
    with pytest.raises(AmbiguousHeaderError):
        value_of({spelled: "2"}, "x-api-version")
    with pytest.raises(AmbiguousHeaderError):
        value_of({"x-api-version": "2"}, spelled)


@given(st.dictionaries(st.text("xy-_.a", max_size=3), st.text(max_size=5)), st.sampled_from(["x-a", "y", "x_a"]))
def test_a_value_comes_from_the_one_field_of_its_name(sent: dict[str, str], name: str) -> None:
    alike = [other for other in sent if cgi_name(other) == cgi_name(name)]
    try:
        value = value_of(sent, name)
    except AmbiguousHeaderError:
        assert alike
        return
    assert alike == ([] if value is None else [name])
    if value is not None:
        assert sent[name].strip(" \t") == value == value.strip()
        assert "," not in value


@given(st.lists(st.text("xyX-_.a:0é~", max_size=3), unique=True))
def test_plain_names_are_spelled_in_one_way(names: list[str]) -> None:
    if are_plain(names):
        assert [cgi_name(name.lower()) for name in names] == names
    else:
        assert any(name.lower() != name or cgi_name(name) != name or not name.isascii() for name in names)
