"""The tree chooses the rule that a walk over the list would choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Match
from authz_service.core import hosts, patterns
from authz_service.core.attributes import Attributes
from authz_service.rules.matcher import NOWHERE, Matcher

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose(
    matches: Sequence[Match], host: str, method: str, segments: Sequence[str], headers: dict[str, str] | None = None
) -> int | None:
    """The place of the rule that the tree chooses."""
    place = Matcher(matches).choose(Attributes(method, host, "", headers or {}), segments)
    return None if place == NOWHERE else place


def walk(
    matches: Sequence[Match], host: str, method: str, segments: Sequence[str], headers: dict[str, str]
) -> int | None:
    """The plain meaning of a list of rules."""
    name = hosts.normalised(host)
    if method != method.upper() or (not name and any(match.hosts for match in matches)):
        return None
    for place, match in enumerate(matches):
        host_fits = match.hosts is None or any(_host_fits(pattern, name) for pattern in match.hosts)
        method_fits = match.methods is None or method in match.methods
        path_fits = match.paths is None or any(_path_fits(pattern, segments) for pattern in match.paths)
        headers_fit = (match.headers or {}).items() <= headers.items()
        if host_fits and method_fits and path_fits and headers_fit:
            return place
    return None


def _host_fits(text: str, host: str) -> bool:
    pattern = hosts.parse_pattern(text)
    return host.endswith(f".{pattern.name}") if pattern.wildcard else host == pattern.name


def _path_fits(text: str, segments: Sequence[str]) -> bool:
    pattern = patterns.parse_pattern(text)
    long_enough = len(segments) >= len(pattern.segments) if pattern.rest else len(segments) == len(pattern.segments)
    pairs = zip(pattern.segments, segments, strict=False)
    return long_enough and all(wanted == found if wanted is not None else found != "" for wanted, found in pairs)


_SEGMENTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)
_PARTS = st.lists(st.sampled_from(["a", "b", "c", "{x}", "{y}"]), max_size=3)
_PATTERNS = st.builds("".join, st.tuples(_PARTS.map(lambda parts: "".join(f"/{part}" for part in parts)),
                                         st.sampled_from(["", "/", "/**"])))  # fmt: skip
_MATCHES = st.builds(
    lambda hosts_, methods, paths, headers: Match.model_validate(
        {
            key: value
            for key, value in (("hosts", hosts_), ("methods", methods), ("paths", paths), ("headers", headers))
            if value
        }
    ),
    st.lists(st.sampled_from(["a.org", "b.a.org", "*.a.org", "*.org", "c.com"]), max_size=2),
    st.lists(st.sampled_from(["GET", "POST"]), max_size=2),
    st.lists(_PATTERNS, max_size=3).map(lambda found: [pattern for pattern in found if _is_pattern(pattern)]),
    st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2"]), max_size=2),
)


def _is_pattern(text: str) -> bool:
    try:
        patterns.parse_pattern(text)
    except ValueError:
        return False
    return True


@settings(max_examples=400)
@given(
    st.lists(_MATCHES, max_size=12),
    st.sampled_from(["a.org", "A.org:80", "b.a.org", "x.b.a.org.", "c.com", "", "?", "org", ".a.org"]),
    st.sampled_from(["GET", "POST", "PUT", "", "get", "gET"]),
    _SEGMENTS.flatmap(lambda segments: st.sampled_from([segments or [""], [*segments, ""]])),
    st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2", "1,2"]), max_size=2),
)
def test_the_tree_chooses_what_a_walk_over_the_list_chooses(
    matches: list[Match], host: str, method: str, segments: list[str], headers: dict[str, str]
) -> None:
    assert choose(matches, host, method, segments, headers) == walk(matches, host, method, segments, headers)


def match(*paths: str, **others: list[str] | dict[str, str]) -> Match:
    return Match.model_validate({"paths": list(paths)} | others)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/files", 0),
        ("/v1/files/", 0),
        ("/v1/files/a/b", 0),
        ("/v1/filesystem", 3),
        ("/v1/a", 1),
        ("/v1/a/", 2),
        ("/v1/", 3),
        ("/v1", 3),
        ("/", 3),
    ],
)
def test_a_rest_is_also_none_and_a_capture_is_exactly_one(path: str, place: int) -> None:
    matches = [match("/v1/files/**"), match("/v1/a"), match("/v1/{id}/"), match("/**")]
    assert choose(matches, "", "GET", path[1:].split("/")) == place


def test_an_earlier_general_rule_goes_before_a_later_special_one() -> None:
    matches = [match("/a/{x}"), match("/a/b", hosts=["a.org"], methods=["GET"])]
    assert choose(matches, "a.org", "GET", ["a", "b"]) == 0


def test_a_wildcard_needs_at_least_one_label() -> None:
    matches = [match("/**", hosts=["*.a.org"])]
    chosen = [choose(matches, host, "GET", [""]) for host in ("a.org", "x.a.org", "x.y.a.org", "xa.org", ".a.org")]
    assert chosen == [None, 0, 0, None, None]


@pytest.mark.parametrize("host", ["a.org/evil", "user@a.org", "", "a.org,b.org", "a.org a.org", "\u212a.org", "*.org"])
def test_a_host_that_is_none_finds_no_rule_where_any_rule_asks_for_the_host(host: str) -> None:
    """The upstream may read in it the very host that the first rule protects."""
    everywhere = match("/open")
    assert choose([match("/**", hosts=["a.org"]), everywhere], host, "GET", ["open"]) is None
    assert choose([everywhere, match("/**", hosts=["*.org"])], host, "GET", ["open"]) is None
    assert choose([everywhere], host, "GET", ["open"]) == 0


@pytest.mark.parametrize("method", ["get", "Get", "geT", "post"])
def test_a_method_in_another_case_finds_no_rule_at_all(method: str) -> None:
    """Many an upstream reads it as upper case: it must not slip from a rule that names methods to one that does not."""
    assert choose([match("/a", methods=["GET", "POST"]), match("/**")], "", method, ["a"]) is None


def test_choosing_among_many_rules_looks_at_few_places() -> None:
    """The number of nodes entered is what choosing costs; it must not grow with the number of rules."""
    entered = []
    for rules in (10, 1000):
        matcher = Matcher([match(f"/v1/things-{number}/{{id}}") for number in range(rules)])
        root = matcher._any_host
        count, pending = 0, [(root, 0)]
        segments = ["v1", f"things-{rules - 1}", "7"]
        while pending:
            node, depth = pending.pop()
            count += 1
            if depth < len(segments):
                below = (node.literals.get(segments[depth]), node.capture)
                pending += [(child, depth + 1) for child in below if child is not None]
        entered.append(count)
        assert matcher.choose(Attributes("GET", "", "", {}), segments) == rules - 1
    assert entered[0] == entered[1] == 4


def test_a_rule_that_wants_headers_makes_way_for_the_next_where_they_are_not_sent_so() -> None:
    wants = {"x-api-version": "2"}
    matches = [match("/a", headers=wants), match("/a", headers=wants | {"x-b": "1"}), match("/a"), match("/a")]
    sent = [{}, wants, wants | {"x-b": "1"}, {"x-api-version": "2,2"}, {"x-api-version": "1"}, {"x-b": "1"}]
    assert [choose(matches, "", "GET", ["a"], headers) for headers in sent] == [2, 0, 0, 2, 2, 2]


def test_a_later_rule_that_wants_headers_does_not_go_before_an_earlier_one_that_does_not() -> None:
    matches = [match("/a", methods=["GET"]), match("/{x}", headers={"x-a": "1"})]
    assert choose(matches, "", "GET", ["a"], {"x-a": "1"}) == 0
    assert choose(matches, "", "POST", ["a"], {"x-a": "1"}) == 1
    assert choose(matches, "", "POST", ["a"], {}) is None
