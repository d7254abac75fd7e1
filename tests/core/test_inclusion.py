"""Comparing patterns says what trying every path would say."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core import hosts
from authz_service.core.inclusion import covering, host_covers, share_a_path
from authz_service.core.patterns import PathPattern, parse_pattern

_DEPTH = 3  # segments of the longest generated pattern


@pytest.mark.parametrize(
    ("pattern", "others", "covered_by"),
    [
        ("/a", ["/a"], {0}),
        ("/a", ["/b", "/{x}"], {1}),
        ("/{x}", ["/a"], None),
        ("/{x}", ["/{y}"], {0}),
        ("/a/", ["/a"], None),
        ("/a/", ["/a/{x}"], None),
        ("/a/", ["/a/**"], {0}),
        ("/a/**", ["/a/{x}/**"], None),
        ("/a/**", ["/a", "/a/{x}/**"], None),  # /a/ is left
        ("/a/**", ["/a", "/a/", "/a/{x}/**"], {0, 1, 2}),
        ("/a/**", ["/a", "/a/", "/a/{x}", "/a/{x}/", "/a/{x}/{y}/**"], {0, 1, 2, 3, 4}),
        ("/**", ["/", "/{x}/**"], {0, 1}),
        ("/**", ["/{x}/**"], None),
        ("/**", ["/**"], {0}),
        ("/", ["/**"], {0}),
        ("/{x}/b", ["/{x}/c", "/a/b"], None),
        ("/{x}/b/**", ["/a/**", "/{x}/{y}/**"], {1}),
        ("/a", [], None),
        ("/**", [], None),
        ("/a;b", ["/{x}", "/**"], None),
        ("/a;b", ["/{x}", "/a;b"], {1}),
        ("/{x}", ["/**"], {0}),
    ],
)
def test_a_pattern_is_covered_by_those_that_together_match_all_of_it(
    pattern: str, others: list[str], covered_by: set[int] | None
) -> None:
    assert covering(parse_pattern(pattern), [parse_pattern(other) for other in others]) == covered_by


_SEGMENTS = st.lists(st.sampled_from(["a", "1", "{x}", "{y}"]), max_size=_DEPTH, unique_by=lambda text: text)
_PATTERNS = st.builds(
    lambda segments, last, case_insensitive: parse_pattern(
        "".join(f"/{segment}" for segment in segments) + last or "/", case_insensitive=case_insensitive
    ),
    _SEGMENTS,
    st.sampled_from(["", "/", "/**", "/a;b"]),
    st.booleans(),
)
# Every path over the named segments, spelled in more ways than patterns do, and one segment that nobody names; longer
# than any pattern needs.
_PATHS = [
    (*path, *last)
    for length in range(_DEPTH + 3)
    for path in itertools.product(["a", "A", "1", "other"], repeat=length)
    for last in ([()] if length else []) + [("",), ("a;b",), ("A;b",), ("other;",)]
]


@settings(max_examples=300)
@given(_PATTERNS, st.lists(_PATTERNS, max_size=6))
def test_covering_says_what_trying_every_path_says(pattern: PathPattern, others: list[PathPattern]) -> None:
    left = [path for path in _PATHS if pattern.matches(path) and not any(other.matches(path) for other in others)]
    covered_by = covering(pattern, others)
    assert (covered_by is not None) == (not left)
    if covered_by is not None:
        assert covering(pattern, [others[place] for place in covered_by]) is not None


@settings(max_examples=300)
@given(_PATTERNS, _PATTERNS)
def test_sharing_a_path_says_what_trying_every_path_says(one: PathPattern, other: PathPattern) -> None:
    assert share_a_path(one, other) == any(one.matches(path) and other.matches(path) for path in _PATHS)
    assert share_a_path(one, other) == share_a_path(other, one)


_HOSTS = st.none() | st.sampled_from(["a.org", "b.a.org", "*.a.org", "*.b.a.org", "*.org", "c.com"]).map(
    hosts.parse_pattern
)


@given(_HOSTS, _HOSTS)
def test_covering_a_host_says_what_trying_every_host_says(
    one: hosts.HostPattern | None, other: hosts.HostPattern | None
) -> None:
    def fits(pattern: hosts.HostPattern | None, host: str) -> bool:
        if pattern is None:
            return True
        return host.endswith(f".{pattern.name}") if pattern.wildcard else host == pattern.name

    known = ["a.org", "b.a.org", "x.a.org", "x.b.a.org", "y.x.b.a.org", "x.org", "c.com", "x.c.com", "net"]
    assert host_covers(one, other) == all(fits(one, host) for host in known if fits(other, host))
