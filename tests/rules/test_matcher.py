"""The tree chooses the rule that a walk over the list would choose."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Match, McpMatch
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.patterns import normalize_host, parse_path_pattern
from authz_service.rules.matcher import NO_RULE, Matcher

if TYPE_CHECKING:
    from collections.abc import Sequence

MALFORMED = -1  # the place of no rule: the request is denied as malformed_request


def choose(
    matches: Sequence[Match], host: str, method: str, segments: Sequence[str], headers: dict[str, str] | None = None
) -> int | None:
    """The place of the rule that the tree chooses."""
    try:
        place = Matcher(matches).choose(Attributes(method, host, "", headers or {}), segments)
    except Rejected as rejected:
        assert rejected.reason == "malformed_request"
        return MALFORMED
    return None if place == NO_RULE else place


def walk(
    matches: Sequence[Match], host: str, method: str, segments: Sequence[str], headers: dict[str, str]
) -> int | None:
    """The plain meaning of a list of rules. An ambiguous header ends the walk at the rule that compares it.

    MALFORMED if only its MCP headers are.
    """
    name = normalize_host(host)
    if method != method.upper() or (not name and any(match.hosts for match in matches)):
        return None
    for place, match in enumerate(matches):
        host_fits = match.hosts is None or any(_host_fits(str(pattern), name) for pattern in match.hosts)
        method_fits = match.methods is None or method in match.methods
        ignoring_case = match.case_insensitive
        path_fits = any(_path_fits(str(pattern), segments, ignoring_case) for pattern in match.paths or ["/**"])
        if not (host_fits and method_fits and path_fits):
            continue
        expected = match.headers or {}
        if any(_is_ambiguous(name, headers) for name in expected):
            return None
        if all(headers.get(name, "").strip(" \t") == value for name, value in expected.items()):
            fits = match.mcp is None or _mcp_fits(match.mcp, headers)
            if fits is None:
                return MALFORMED
            if fits:
                return place
    return None


def _mcp_fits(mcp: McpMatch, headers: dict[str, str]) -> bool | None:
    """None for headers that are missing or repeated."""
    version = headers.get("mcp-protocol-version", "")
    if "," in version:
        return None
    if version not in ("2026-07-28", "2027-01-01"):
        return False
    patterns = [("mcp-method", mcp.methods or ["tools/call", "resources/read", "prompts/get"]), ("mcp-name", mcp.names)]
    for name, expected in patterns:
        value = {"=?base64?Z2V0X2E=?=": "get_a"}.get(headers.get(name, ""), headers.get(name, ""))
        if expected and (value in ("", "=?base64?Z2V0X2E?=") or "," in value):
            return None
        if expected and not any(fnmatchcase(value, pattern) for pattern in expected):
            return False
    return True


def _is_ambiguous(name: str, headers: dict[str, str]) -> bool:
    return "," in headers.get(name, "") or name.replace("-", "_") in headers


def _host_fits(text: str, host: str) -> bool:
    return host.endswith(text.removeprefix("*")) if text.startswith("*.") else host == text


def _path_fits(text: str, segments: Sequence[str], ignoring_case: bool) -> bool:  # noqa: FBT001 - of a test
    rest = text.endswith("/**")
    expected = text.removesuffix("/**").split("/")[1:]
    if len(segments) < len(expected) or (len(segments) > len(expected) and not rest) or (rest and ";" in segments[-1]):
        return False
    return all(
        _capture_fits(segment.partition("}")[2], found, ignoring_case)
        if segment.startswith("{")
        else segment == found or (ignoring_case and segment.lower() == found.lower())
        for segment, found in zip(expected, segments, strict=False)
    )


def _capture_fits(suffix: str, found: str, ignoring_case: bool) -> bool:  # noqa: FBT001 - of a test
    if ignoring_case:
        suffix, found = suffix.lower(), found.lower()
    return found.endswith(suffix) and len(found) > len(suffix) and ";" not in found


_SEGMENTS = st.lists(st.sampled_from(["a", "b", "c", "A", "a:v", "A:V", ":v"]), max_size=3)
_PARTS = st.lists(st.sampled_from(["a", "b", "c", "B", "a:v", "{x}", "{y}", "{z}:v", "{w}:V", "{v}v"]), max_size=3)
_PATTERNS = st.builds("".join, st.tuples(_PARTS.map(lambda parts: "".join(f"/{part}" for part in parts)),
                                         st.sampled_from(["", "/", "/**", "/a;b"])))  # fmt: skip
_MATCHES = st.builds(
    lambda *values: Match.read(
        {
            key: value
            for key, value in zip(
                ("hosts", "methods", "paths", "headers", "case_insensitive", "mcp"), values, strict=True
            )
            if value
        }
    ),
    st.lists(st.sampled_from(["a.org", "b.a.org", "*.a.org", "*.org", "c.com"]), max_size=2),
    st.lists(st.sampled_from(["GET", "POST"]), max_size=2),
    st.lists(_PATTERNS, max_size=3).map(lambda found: [pattern for pattern in found if _is_pattern(pattern)]),
    st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2"]), max_size=2),
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "methods": st.lists(st.sampled_from(["tools/call", "tools/*", "ping", "*"]), min_size=1, max_size=2),
            "names": st.lists(st.sampled_from(["get_*", "get_a", "a"]), min_size=1, max_size=2),
        },
    ),
)
_MCP_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "mcp-protocol-version": st.sampled_from(
            ["2026-07-28", "2027-01-01", "2026-07-27", "2026-7-28", "x", "2026-07-28,"]
        ),
        "mcp-method": st.sampled_from(["tools/call", "tools/list", "ping", "Ping", "ping,ping", ""]),
        "mcp-name": st.sampled_from(["get_a", "get_b", "a", "=?base64?Z2V0X2E=?=", "=?base64?Z2V0X2E?=", "a,a"]),
    },
)


def _is_pattern(text: str) -> bool:
    try:
        parse_path_pattern(text)
    except ValueError:
        return False
    return True


@settings(max_examples=400)
@given(
    st.lists(_MATCHES, max_size=12),
    st.sampled_from(["a.org", "A.org:80", "b.a.org", "x.b.a.org.", "c.com", "", "?", "org", ".a.org"]),
    st.sampled_from(["GET", "POST", "PUT", "", "get", "gET"]),
    _SEGMENTS.flatmap(
        lambda segments: st.sampled_from([segments or [""], *([*segments, last] for last in ("", "a;b", "A;b", "c;"))])
    ),
    st.dictionaries(
        st.sampled_from(["x-a", "x-b", "x_a"]), st.sampled_from(["1", "2", "1,2", " 1", "\t2 ", "1,", ""]), max_size=2
    ),
    _MCP_HEADERS,
)
def test_the_tree_chooses_what_a_walk_over_the_list_chooses(
    matches: list[Match], host: str, method: str, segments: list[str], headers: dict[str, str], mcp: dict[str, str]
) -> None:
    headers |= mcp
    assert choose(matches, host, method, segments, headers) == walk(matches, host, method, segments, headers)


def match(*paths: str, **others: list[str] | dict[str, str] | bool) -> Match:
    return Match.read({"paths": list(paths)} | others)


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
def test_a_prefix_matches_no_segments_too_and_a_capture_exactly_one(path: str, place: int) -> None:
    matches = [match("/v1/files/**"), match("/v1/a"), match("/v1/{id}/"), match("/**")]
    assert choose(matches, "", "GET", path[1:].split("/")) == place


VERBS = ["/v1/items/{id}:purge", "/v1/items/{id}:undelete", "/v1/items/{id}.json", "/v1/items/{id}"]


@pytest.mark.parametrize(
    ("segment", "place"),
    [
        ("7:purge", 0),
        ("7:8:purge", 0),
        ("7:undelete", 1),
        ("a.json", 2),
        ("7:purge.json", 2),
        ("7", 3),
        ("7:8", 3),
        ("7:PURGE", 3),
        (":purge", 3),
        ("7:purge:", 3),
        ("7:purge;x", None),
        ("", None),
    ],
)
def test_a_custom_verb_is_decided_by_its_own_rule_in_file_order(segment: str, place: int | None) -> None:
    assert choose([match(pattern) for pattern in VERBS], "", "POST", ["v1", "items", segment]) == place
    last_first = [match(pattern) for pattern in reversed(VERBS)]
    assert choose(last_first, "", "POST", ["v1", "items", segment]) == (None if place is None else 0)


def test_a_folded_suffix_decides_every_spelling() -> None:
    matches = [match("/items/{id}:Purge", case_insensitive=True), match("/items/{id}")]
    for segment in ("7:purge", "7:PURGE", "7:pUrge"):
        assert choose(matches, "", "POST", ["ITEMS", segment]) == 0
    assert choose(matches, "", "POST", ["items", "7:purger"]) == 1


def test_many_suffixes_take_one_comparison_for_each_length() -> None:
    matcher = Matcher([match(f"/items/{{id}}:verb{number:04}") for number in range(2000)])
    assert matcher.choose(Attributes("GET", "", "", {}), ["items", "7:verb1999"]) == 1999
    inexact = matcher._any_host.literals["items"].inexact
    assert inexact is not None
    assert [len(by_length) for by_length in inexact.suffixes.values()] == [1, 0]
    assert len(list(inexact.matching("7:verb1999"))) == 1


def test_an_earlier_general_rule_precedes_a_later_specific_one() -> None:
    matches = [match("/a/{x}"), match("/a/b", hosts=["a.org"], methods=["GET"])]
    assert choose(matches, "a.org", "GET", ["a", "b"]) == 0


def test_a_wildcard_needs_at_least_one_label() -> None:
    matches = [match("/**", hosts=["*.a.org"])]
    chosen = [choose(matches, host, "GET", [""]) for host in ("a.org", "x.a.org", "x.y.a.org", "xa.org", ".a.org")]
    assert chosen == [None, 0, 0, None, None]


@pytest.mark.parametrize(
    "host",
    [
        *("a.org/evil", "user@a.org", "", "a.org,b.org", "a.org a.org", "\u212a.org", "*.org"),
        *(" a.org", "a.org ", "\ta.org", "a.org\t", "a.org\n", "a.org\u00a0", "a_org:80 "),
    ],
)
def test_an_invalid_host_matches_no_rule_if_any_rule_has_hosts(host: str) -> None:
    """The upstream may read in it the very host that the first rule protects."""
    everywhere = match("/open")
    assert choose([match("/**", hosts=["a.org"]), everywhere], host, "GET", ["open"]) is None
    assert choose([everywhere, match("/**", hosts=["*.org"])], host, "GET", ["open"]) is None
    assert choose([everywhere], host, "GET", ["open"]) == 0


@pytest.mark.parametrize("method", ["get", "Get", "geT", "post"])
def test_a_method_not_in_upper_case_matches_no_rule(method: str) -> None:
    """Many an upstream reads it as upper case: it must not slip from a rule that names methods to one that does not."""
    assert choose([match("/a", methods=["GET", "POST"]), match("/**")], "", method, ["a"]) is None


def test_the_cost_of_choosing_does_not_grow_with_the_number_of_rules() -> None:
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


def test_a_rule_whose_headers_differ_is_skipped() -> None:
    required = {"x-api-version": "2"}
    matches = [
        match("/a", headers=required),
        match("/a", headers=required | {"x-b": "1"}),
        match("/a"),
        match("/a"),
    ]
    sent = [{}, required, required | {"x-b": "1"}, {"x-api-version": "1"}, {"x-b": "1"}]
    assert [choose(matches, "", "GET", ["a"], headers) for headers in sent] == [2, 0, 0, 2, 2]


@pytest.mark.parametrize("value", [" 2", "2 ", "\t2", "2\t", " \t 2\t "])
def test_spaces_and_tabs_around_a_header_value_are_ignored(value: str) -> None:
    """Over HTTP/2 they arrive, and an HTTP/1.1 upstream does not see them."""
    matches = [match("/a", headers={"x-api-version": "2"}), match("/a")]
    assert choose(matches, "", "GET", ["a"], {"x-api-version": value}) == 0


AMBIGUOUS: dict[str, dict[str, str]] = {
    "sent twice": {"x-api-version": "2,2"},
    "sent twice, the first empty": {"x-api-version": ",2"},
    "sent twice, with other values": {"x-api-version": "1,2"},
    "with a comma": {"x-api-version": "1, 2"},
    "under another spelling": {"x_api_version": "2"},
    "under a spelling of two kinds": {"x_api-version": "2"},
    "under a spelling that CGI folds": {"x.api~version": "2"},
    "under another spelling as well": {"x-api-version": "2", "x_api_version": "1"},
    "not UTF-8": {"x-api-version": "2\ufffd"},
    "with a control": {"x-api-version": "2\x0b"},
    "with a NUL": {"x-api-version": "\x002"},
    "with a space that only Unicode strips": {"x-api-version": "\u00a02"},
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_header_matches_neither_the_rule_that_compares_it_nor_a_later_one(
    sent: dict[str, str],
) -> None:
    required = {"x-api-version": "2"}
    comparing = match("/a", "/{x}/b", headers=required)
    assert choose([comparing, match("/a")], "", "GET", ["a"], sent) is None
    assert choose([match("/a", headers={"x-b": "1"} | required), match("/**")], "", "GET", ["a"], sent) is None
    assert choose([comparing, match("/a", headers={"x-b": "1"})], "", "GET", ["a"], sent | {"x-b": "1"}) is None
    assert choose([match("/**", headers=required, hosts=["x.org"]), match("/a")], "x.org", "GET", ["a"], sent) is None
    # An earlier rule, or one that does not match otherwise, does not compare it.
    assert choose([match("/a"), comparing], "", "GET", ["a"], sent) == 0
    assert choose([match("/a", headers={"x-b": "1"}), comparing], "", "GET", ["a"], sent | {"x-b": "1"}) == 0
    assert choose([comparing, match("/c")], "", "GET", ["c"], sent) == 1
    assert choose([match("/a", headers=required, methods=["PUT"]), match("/a")], "", "GET", ["a"], sent) == 1
    assert choose([match("/a", headers=required, hosts=["x.org"]), match("/a")], "y.org", "GET", ["a"], sent) == 1


def test_a_header_that_no_rule_compares_is_not_read() -> None:
    assert choose([match("/a", headers={"x-a": "1"}), match("/a")], "", "GET", ["a"], {"accept": "a, b"}) == 1


@pytest.mark.parametrize("segment", ["admin;x=1", "admin;", ";admin", "a;b"])
def test_only_a_literal_pattern_matches_a_segment_with_parameters(segment: str) -> None:
    lax = [match("/v1/{id}"), match("/v1/**"), match("/**"), Match()]
    assert choose(lax, "", "GET", ["v1", segment]) is None
    assert choose([*lax, match(f"/v1/{segment}")], "", "GET", ["v1", segment]) == 4
    assert choose([match(f"/{{x}}/{segment}")], "", "GET", ["v1", segment]) == 0


@pytest.mark.parametrize("segment", ["admin", "ADMIN", "aDmin"])
def test_a_case_insensitive_rule_decides_every_spelling_of_its_literals(segment: str) -> None:
    matches = [match("/V1/Admin", "/v1/{id}/Admin", case_insensitive=True), match("/v1/{id}"), match("/**")]
    assert choose(matches, "", "GET", ["v1", segment]) == 0
    assert choose(matches, "", "GET", ["V1", segment]) == 0
    assert choose(matches, "", "GET", ["v1", "x", segment]) == 0
    assert choose(matches, "", "GET", ["v1", segment, ""]) == 2
    assert choose(matches, "", "GET", ["v1", "admins"]) == 1


def test_case_is_ignored_beyond_ascii_too() -> None:
    ignoring = [match("/straße/k", case_insensitive=True)]
    assert choose(ignoring, "", "GET", ["STRASSE", "\u212a"]) == 0
    assert choose([match("/straße")], "", "GET", ["STRASSE"]) is None


def test_has_rule_for_ignores_methods_and_headers() -> None:
    matches = [
        None,
        match("/a/{x}", hosts=["x.org"], methods=["PUT"], headers={"x-a": "1"}),
        match("/b", headers={"x-a": "1"}),
        match("/c/d;e", methods=["GET"]),
    ]
    has_rule_for = Matcher(matches).has_rule_for
    assert has_rule_for("x.org", ["a", "1"])
    assert has_rule_for("X.org:443", ["b"])
    assert has_rule_for("x.org", ["c", "d;e"])
    for host, path in (("y.org", ["a", "1"]), ("x.org", ["a"]), ("x.org", ["a", "1;"]), ("?", ["b"]), ("", ["b"])):
        assert not has_rule_for(host, path)


@pytest.mark.parametrize("method", ["*", "None", "\0", "-"])
def test_no_sent_method_means_any_method(method: str) -> None:
    assert choose([match("/a", methods=["GET"])], "", method, ["a"]) is None


def test_a_later_rule_with_headers_does_not_precede_an_earlier_one_without() -> None:
    matches = [match("/a", methods=["GET"]), match("/{x}", headers={"x-a": "1"})]
    assert choose(matches, "", "GET", ["a"], {"x-a": "1"}) == 0
    assert choose(matches, "", "POST", ["a"], {"x-a": "1"}) == 1
    assert choose(matches, "", "POST", ["a"], {}) is None
