"""Paths that bypass a stricter rule are found, and no others; and when one rule is as strict as another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.document import rendered
from authz_service.config.model import Issuer, RuleSettings
from authz_service.config.rule_order import (
    OrderedRules,
    bypasses,
    decoded_slashes,
    older_mcp_revisions,
    unreachable,
    verbs_of_items,
)
from authz_service.config.strictness import Strictness
from authz_service.core.attributes import Attributes
from authz_service.core.patterns import covering
from authz_service.rules.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.patterns import PathPattern

ISSUERS = [
    Issuer.read({"issuer": "https://a.example/", "name": "a", "audiences": ["api", "other"]}),
    Issuer.read({"issuer": "https://b.example/", "name": "b", "audiences": ["api"]}),
]
STRICTNESS = Strictness(ISSUERS)
ADMIN = {"require": {"scopes": ["admin"]}}
TENANT = {"require": {"claims": {"tenant": {"equals_path": "t"}}}}


def rule(name: str, *paths: str, **parts: Any) -> RuleSettings:
    match = {
        key: parts.pop(key)
        for key in ("hosts", "methods", "headers", "case_insensitive", "encoded_slash", "mcp")
        if key in parts
    }
    return RuleSettings.read({"name": name, "match": match | ({"paths": list(paths)} if paths else {})} | parts)


def found(*rules: RuleSettings) -> list[str]:
    return [f"{rendered(problem.where)}: {problem.text}" for problem in bypasses(OrderedRules(rules), STRICTNESS)]


def test_a_literal_beside_a_capture_is_reported_with_the_rule_that_decides_its_other_spelling() -> None:
    (case,) = found(rule("admin", "/v1/admin", **ADMIN), rule("item", "/v1/{id}"))
    assert case == (
        "rules[0].match.paths[0]: an upstream that ignores case treats /v1/ADMIN as this path, but rule item "
        "decides it and does not require all that this rule requires: set match.case_insensitive: true for this rule"
    )


def test_a_path_beside_a_prefix_is_reported_for_its_trailing_slash_too() -> None:
    case, slash = found(rule("admin", "/v2/Admin", **ADMIN), rule("rest", "/v2/**"))
    assert "treats /v2/ADMIN as this path" in case
    assert slash == (
        "rules[0].match.paths[0]: an upstream that ignores a trailing slash treats /v2/Admin/ as this path, but rule "
        "rest decides it and does not require all that this rule requires: add /v2/Admin/ to the paths of this rule"
    )


CASE, SLASH = "ignores case", "ignores a trailing slash"


@pytest.mark.parametrize(
    ("rules", "readers"),
    [
        # With the remedies applied.
        ([rule("s", "/v1/admin", case_insensitive=True, **ADMIN), rule("l", "/v1/{id}")], []),
        ([rule("s", "/v1/admin", "/v1/admin/", case_insensitive=True, **ADMIN), rule("l", "/v1/**")], []),
        ([rule("s", "/v1/admin", case_insensitive=True, **ADMIN), rule("l", "/v1/**")], [SLASH]),
        ([rule("s", "/v1/admin", "/v1/admin/", **ADMIN), rule("l", "/v1/**")], [CASE]),
        # Bypassed.
        ([rule("s", "/v1/admin/**", **ADMIN), rule("l", "/v1/**")], [CASE]),
        ([rule("s", "/v1/admin/**", **ADMIN), rule("l", "/**")], [CASE]),
        ([rule("s", "/v1/admin/**", **ADMIN), rule("l")], [CASE]),
        ([rule("s", "/v1/{id}/audit", **ADMIN), rule("l", "/v1/{a}/{b}")], [CASE]),
        ([rule("s", "/v1/{id}", **ADMIN), rule("l", "/v1/{id}/**")], [SLASH]),
        ([rule("s", "/v1/a/", **ADMIN), rule("l", "/v1/{id}")], [SLASH]),
        ([rule("l", "/v1/{id}"), rule("s", "/v1/a/", **ADMIN)], [SLASH]),
        ([rule("s", "/v1/admin", **ADMIN), rule("l", "/v1/{id}", access="optional")], [CASE]),
        ([rule("s", "/v1/admin"), rule("l", "/v1/{id}", access="public")], [CASE]),
        ([rule("s", "/v1/admin", **ADMIN), rule("l", "/v1/{id}", mode="shadow", **ADMIN)], [CASE]),
        ([rule("s", "/v1/admin", **ADMIN), rule("l", "/v1/{id}", headers={"x": "1"})], [CASE]),
        ([rule("s", "/v1/admin", hosts=["a.org"], **ADMIN), rule("l", "/v1/{id}", hosts=["*.org"])], [CASE]),
        ([rule("s", "/v1/admin", hosts=["*.org"], **ADMIN), rule("l", "/v1/{id}", hosts=["a.org"])], [CASE]),
        ([rule("s", "/1/a", **ADMIN), rule("t", "/1/{x}", methods=["GET"], **ADMIN), rule("l", "/**")], [CASE, SLASH]),
        ([rule("s", "/v1/a", **ADMIN), rule("t", "/v1/**", **ADMIN), rule("l", "/**")], [CASE]),  # /V1/a
        ([rule("s", "/v1/a", **ADMIN), rule("l", "/{x}/a")], [CASE]),  # /V1/a as well
        ([rule("s", "/v1/a", **ADMIN), rule("l", "/{x}/a/")], [SLASH]),
        ([rule("s", "/v1/{id}:purge", **ADMIN), rule("l", "/v1/{id}")], [CASE]),
        ([rule("s", "/v1/{id}:purge", **ADMIN), rule("l", "/v1/{id}ge")], [CASE]),
        ([rule("s", "/v1/{t}/admin", **TENANT), rule("l", "/v1/{x}/{t}", **TENANT)], [CASE]),  # the tenant ADMIN
        ([rule("s", "/v1/{id}:purge", **ADMIN), rule("l", "/v1/**")], [CASE, SLASH]),
        ([rule("s", "/v1/{id}:purge", "/v1/{id}:purge/", **ADMIN), rule("l", "/v1/**")], [CASE]),
        ([rule("s", "/v1/a:purge", **ADMIN), rule("l", "/v1/{id}:purge")], [CASE]),  # /v1/A:purge
        ([rule("s", "/v1/a", **ADMIN), rule("l", "/v1/{id}A", case_insensitive=True)], []),
        ([rule("s", "/v1/ba", **ADMIN), rule("l", "/v1/{id}A", case_insensitive=True)], [CASE]),
        # Not bypassed.
        ([rule("s", "/1/{id}:purge", case_insensitive=True, **ADMIN), rule("l", "/1/{id}")], []),
        ([rule("s", "/1/{id}:0", **ADMIN), rule("l", "/1/{id}")], []),
        ([rule("s", "/1/{id}:a", **ADMIN), rule("l", "/1/{id}:A")], []),  # both are written out
        ([rule("s", "/1/{id}:a", **ADMIN), rule("l", "/1/{id}b:A")], []),
        ([rule("s", "/1/{id}:a", **ADMIN), rule("l", "/1/{id}:b")], []),
        ([rule("s", "/v1/admin", **ADMIN)], []),
        ([rule("s", "/v1/admin", **ADMIN), rule("l", "/v1/{id}", **ADMIN)], []),
        ([rule("s", "/v1/{t}/admin", **TENANT), rule("l", "/v1/{t}/{x}", **TENANT)], []),
        ([rule("s", "/healthz", access="public"), rule("l", "/**", **ADMIN)], []),
        ([rule("s", "/v1/admin", mode="shadow", **ADMIN), rule("l", "/**")], []),
        ([rule("s", "/1/admin", **ADMIN), rule("t", "/1/**", **ADMIN), rule("l", "/**")], []),
        ([rule("s", "/1/a", **ADMIN), rule("t", "/1/A", case_insensitive=True, **ADMIN), rule("l", "/1/{x}")], []),
        ([rule("s", "/1/a", **ADMIN), rule("l", "/{x}/a")], []),
        ([rule("s", "/admin", **ADMIN), rule("l", "/v1/{id}")], []),
        ([rule("s", "/v1/42", **ADMIN), rule("l", "/v1/{id}")], []),
        ([rule("s", "/v1/Admin;x", **ADMIN), rule("l", "/v1/**")], []),
        ([rule("s", "/v1/a/", **ADMIN), rule("l", "/v1/a")], []),  # both are written out
        ([rule("s", "/v1/a", **ADMIN), rule("l", "/v1/a/")], []),
        ([rule("l", "/v1/{id}"), rule("s", "/v1/admin", **ADMIN)], []),  # unreachable, which is another warning
        ([rule("s", "/v1/admin", methods=["PUT"], **ADMIN), rule("l", "/v1/{id}", methods=["GET"])], []),
        ([rule("s", "/v1/admin", hosts=["a.org"], **ADMIN), rule("l", "/v1/{id}", hosts=["b.org"])], []),
        (
            [
                rule("s", "/v1/admin", headers={"x": "1"}, **ADMIN),
                rule("l", "/v1/{id}", headers={"x": "2"}),
            ],
            [],
        ),
        ([RuleSettings.read({"name": "s", "policy": "p"} | ADMIN), rule("l", "/**")], []),
        ([rule("s", "/", **ADMIN), rule("l", "/{x}")], []),
    ],
)
def test_a_path_bypasses_a_rule_where_a_laxer_rule_decides_another_spelling(
    rules: list[RuleSettings], readers: list[str]
) -> None:
    strict = next(place for place, each in enumerate(rules) if each.name == "s")
    reported = [text for text in found(*rules) if text.startswith(f"rules[{strict}]")]
    assert len(reported) == len(readers)
    assert all(reader in text and "rule l decides it" in text for reader, text in zip(readers, reported, strict=True))


def test_one_warning_for_each_laxer_rule_names_the_first_path_that_bypasses() -> None:
    paths = [f"/v1/admin-{number}" for number in range(5)]
    assert [text.partition(":")[0] for text in found(rule("s", *paths, **ADMIN), rule("l", "/v1/{id}"))] == [
        "rules[0].match.paths[0]"
    ]


ITEM = "/v1/items/{id}"
VERB = "/v1/items/{id}:purge"


def test_a_verb_that_a_laxer_rule_of_the_item_partly_decides_is_reported() -> None:
    rules = [rule("item", ITEM, methods=["GET", "POST"]), rule("purge", VERB, **ADMIN)]
    (text,) = [
        f"{rendered(problem.where)}: {problem.text}" for problem in verbs_of_items(OrderedRules(rules), STRICTNESS)
    ]
    assert text == (
        "rules[1].match.paths[0]: rule item comes first, decides some of the requests for this path, and does not "
        "require all that this rule requires: move this rule up"
    )


@pytest.mark.parametrize(
    ("rules", "reported"),
    [
        ([rule("i", ITEM, headers={"x": "1"}), rule("v", VERB, **ADMIN)], True),
        ([rule("i", "/v1/**", hosts=["a.org"]), rule("v", VERB, **ADMIN)], True),
        ([rule("i", "/v1/items/7", "/v1/items/{id}ge", methods=["GET"]), rule("v", VERB, **ADMIN)], True),
        ([rule("i", ITEM), rule("v", VERB, **ADMIN)], False),  # hidden, which is another warning
        ([rule("v", VERB, **ADMIN), rule("i", ITEM, methods=["GET"])], False),
        ([rule("i", ITEM, methods=["GET"]), rule("v", VERB, methods=["POST"], **ADMIN)], False),
        ([rule("i", ITEM, methods=["GET"], **ADMIN), rule("v", VERB, **ADMIN)], False),
        ([rule("i", ITEM, methods=["GET"]), rule("v", VERB, access="public")], False),
        ([rule("i", "/v1/items/7:purge"), rule("v", VERB, **ADMIN)], False),  # written out
        ([rule("i", "/v1/items/{id}b:purge"), rule("v", VERB, **ADMIN)], False),
        ([rule("i", "/v1/items/{id}:other"), rule("v", VERB, **ADMIN)], False),
        ([rule("i", ITEM, methods=["GET"]), RuleSettings.read({"name": "v", "policy": "p"})], False),
    ],
)
def test_a_verb_is_reported_if_a_laxer_rule_before_it_takes_any_suffix(
    rules: list[RuleSettings],
    reported: bool,  # noqa: FBT001
) -> None:
    assert bool(list(verbs_of_items(OrderedRules(rules), STRICTNESS))) == reported


def npm(**parts: Any) -> RuleSettings:
    return rule("npm", "/npm/{name}", encoded_slash=True, **parts)


def test_a_stricter_rule_of_a_decoded_path_is_reported() -> None:
    (problem,) = decoded_slashes(OrderedRules([npm(), rule("deep", "/npm/{x}/{y}", **ADMIN)]), STRICTNESS)
    assert f"{rendered(problem.where)}: {problem.text}" == (
        "rules[0].match.encoded_slash: an upstream that decodes %2F treats some of these paths as those of rule deep, "
        "which comes later and requires more: move rule deep before this one, which denies these paths, or require as "
        "much here"
    )


@pytest.mark.parametrize(
    ("rules", "reported"),
    [
        ([npm(), rule("s", "/npm/-/users", **ADMIN)], True),
        ([npm(), rule("s", "/**", **ADMIN)], True),
        ([npm(), rule("s", **ADMIN)], True),
        ([npm(), rule("s", "/npm/{x}/{y}/{z}:purge", **ADMIN)], True),
        ([npm(access="public"), rule("s", "/**")], True),
        ([npm(), rule("l", "/npm/{x}/{y}"), rule("s", "/npm/**", **ADMIN)], True),  # /npm/a/b/c
        ([rule("v", "/{x}:purge", encoded_slash=True), rule("s", "/{x}/{y}:purge", **ADMIN)], True),
        ([rule("v", "/{x}/raw/**", encoded_slash=True), rule("s", "/{x}/{y}/raw/secret", **ADMIN)], True),
        ([npm(methods=["GET"]), rule("s", "/npm/**", **ADMIN)], True),
        ([rule("s", "/npm/-/{x}", **ADMIN), npm()], False),  # denied
        ([npm(**ADMIN), rule("s", "/npm/{x}/{y}", **ADMIN)], False),
        ([npm(**ADMIN), rule("s", "/npm/{x}/{y}")], False),
        ([npm(), rule("l", "/npm/**"), rule("s", "/**", **ADMIN)], False),
        ([rule("t", "/npm/{x}/**", **ADMIN), npm(), rule("s", "/**", **ADMIN)], False),
        ([npm(), rule("s", "/npm/{x}", **ADMIN)], False),
        ([npm(), rule("s", "/npm/{x}/", **ADMIN)], False),
        ([npm(), rule("s", "/other/{x}/{y}", **ADMIN)], False),
        ([npm(methods=["GET"]), rule("s", "/npm/**", methods=["PUT"], **ADMIN)], False),
        ([rule("v", "/{x}:purge", encoded_slash=True), rule("s", "/{x}/{y}:other", **ADMIN)], False),
        ([rule("n", "/npm/{name}"), rule("s", "/npm/{x}/{y}", **ADMIN)], False),
    ],
)
def test_a_rule_with_encoded_slashes_is_reported_if_a_stricter_rule_after_it_has_the_decoded_path(
    rules: list[RuleSettings],
    reported: bool,  # noqa: FBT001
) -> None:
    assert bool(list(decoded_slashes(OrderedRules(rules), STRICTNESS))) == reported


@pytest.mark.parametrize(
    ("rules", "reported"),
    [
        ([rule("first", "/npm/{x}/{y}"), npm()], True),
        ([rule("first", "/npm/{x}/{y}/**"), npm()], True),
        ([rule("first", "/{x}/{y}:purge"), rule("v", "/{x}:purge", encoded_slash=True)], True),
        ([rule("first", "/{x}/{y}/raw/{z}"), rule("v", "/{x}/raw/{y}", encoded_slash=True)], True),
        ([rule("first", "/npm/-/**"), npm()], False),
        ([rule("first", "/npm/{x}/{y}", methods=["PUT"]), npm()], False),
        ([rule("first", "/npm/**"), npm()], False),  # hidden, which is another warning
        ([npm(), rule("first", "/npm/{x}/{y}")], False),
    ],
)
def test_encoded_slashes_that_an_earlier_rule_makes_ambiguous_are_reported(
    rules: list[RuleSettings],
    reported: bool,  # noqa: FBT001
) -> None:
    problems = [
        f"{rendered(problem.where)}: {problem.text}" for problem in decoded_slashes(OrderedRules(rules), STRICTNESS)
    ]
    warning = (
        "rules[1].match.encoded_slash: has no effect for some of these paths, since rule first comes first and matches "
        "them once %2F is decoded, so they are denied: move this rule up"
    )
    assert problems == [warning] * reported


@pytest.mark.parametrize(
    ("ours", "theirs", "as_much"),
    [
        ({}, {}, True),
        ({"access": "public"}, {}, False),
        ({"access": "optional"}, {}, False),
        ({}, {"access": "optional"}, True),
        ({"mode": "shadow"}, {}, False),
        ({}, {"mode": "shadow"} | ADMIN, True),
        ({}, ADMIN, False),
        (ADMIN, {}, True),
        (ADMIN, ADMIN, True),
        ({"require": {"scopes": ["admin", "b"]}}, ADMIN, True),
        ({"require": {"scopes": ["b"]}}, ADMIN, False),
        (ADMIN, {"require": {"scopes": {"any": ["admin", "b"]}}}, True),
        ({"require": {"scopes": {"any": ["b"]}}}, {"require": {"scopes": {"any": ["admin", "b"]}}}, True),
        ({"require": {"scopes": {"any": ["b", "c"]}}}, {"require": {"scopes": {"any": ["admin", "b"]}}}, False),
        ({"require": {"scopes": {"any": ["admin", "b"]}}}, ADMIN, False),
        ({}, {"require": {"scopes": {"none": ["x"]}}}, False),
        ({"require": {"scopes": {"none": ["x", "y"]}}}, {"require": {"scopes": {"none": ["x"]}}}, True),
        ({"require": {"issuers": ["a"]}}, {"require": {"issuers": ["a", "b"]}}, True),
        ({}, {"require": {"issuers": ["a", "b"]}}, True),  # there is no other
        ({}, {"require": {"issuers": ["a"]}}, False),
        ({"require": {"issuers": ["a"]}}, {}, True),
        ({"require": {"audiences": ["api"]}}, {}, True),
        ({"require": {"audiences": ["mine"]}}, {}, False),
        ({}, {"require": {"audiences": ["api"]}}, False),
        ({"require": {"issuers": ["b"]}}, {"require": {"audiences": ["api"]}}, True),
        ({"require": {"clients": ["x"]}}, {"require": {"clients": ["x", "y"]}}, True),
        ({"require": {"clients": ["z"]}}, {"require": {"clients": ["x", "y"]}}, False),
        ({"require": {"claims": {"a": 1, "b": 2}}}, {"require": {"claims": {"a": 1}}}, True),
        ({"require": {"claims": {"a": 2}}}, {"require": {"claims": {"a": 1}}}, False),
        ({"require": {"max_auth_age": "1m"}}, {"require": {"max_auth_age": "5m"}}, True),
        ({"require": {"max_auth_age": "1h"}}, {"require": {"max_auth_age": "5m"}}, False),
        ({}, {"require": {"max_auth_age": "5m"}}, False),
        ({"require": {"proof": "dpop"}}, {"require": {"proof": "any"}}, True),
        ({"require": {"proof": "any"}}, {"require": {"proof": "mtls"}}, False),
        ({}, {"require": {"proof": "any"}}, False),
        ({"require": {"acr_values": ["x"]}}, {"require": {"acr_values": ["x", "y"]}}, True),
        ({"require": {"acr_values": ["x", "z"]}}, {"require": {"acr_values": ["x", "y"]}}, False),
    ],
)
def test_a_rule_requires_as_much_as_another_if_it_admits_no_token_that_the_other_refuses(
    ours: dict[str, Any], theirs: dict[str, Any], *, as_much: bool
) -> None:
    assert STRICTNESS.requires_as_much(rule("ours", **ours), rule("theirs", **theirs)) == as_much


_PATTERNS = st.lists(
    st.sampled_from(["/", "/a", "/a/", "/{x}", "/{x}/", "/a/**", "/{x}/b", "/a/b", "/a/{y}", "/a/{y}/", "/**"]),
    min_size=1, max_size=2, unique=True,
)  # fmt: skip
_RULES = st.builds(
    lambda paths, parts, **match: {"match": {"paths": paths} | match} | parts,
    _PATTERNS,
    st.sampled_from([{}, ADMIN, {"access": "public"}, {"mode": "shadow"}]),
    case_insensitive=st.booleans(),
)
_PATHS = [path for size in (1, 2, 3) for path in itertools.product(["", "a", "A", "b", "B", "z"], repeat=size)]
_PATHS = [path for path in _PATHS if "" not in path[:-1]]


def _read_alike(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The other spellings of a path: one segment in another case, or a slash more or less."""
    cases = [(*path[:at], path[at].swapcase(), *path[at + 1 :]) for at in range(len(path)) if path[at] not in {"", "z"}]
    slash = [path[:-1]] if path[-1] == "" and len(path) > 1 else [(*path, "")] if path[-1] else []
    return cases + slash


_PAIRS = [(path, other) for path in _PATHS for other in _read_alike(path)]


def _is_written_out(path: tuple[str, ...], other: tuple[str, ...], strict: RuleSettings, lax: RuleSettings) -> bool:
    """Whether the laxer rule has the other spelling literally, but for what the stricter one captures as well."""
    return all(
        any(_is_literal_beside(theirs, ours) for theirs in lax.match.path_patterns if theirs.matches(other))
        for ours in strict.match.path_patterns
        if ours.matches(path)
    )


def _is_literal_beside(pattern: PathPattern, other: PathPattern) -> bool:
    captured = [place for place, segment in enumerate(pattern.segments) if segment is None]
    beyond = len(other.segments)
    return not pattern.is_prefix and all(
        other.is_prefix if place >= beyond else other.segments[place] is None for place in captured
    )


@settings(max_examples=300)
@given(st.lists(_RULES, min_size=1, max_size=4))
def test_every_rule_that_a_path_bypasses_is_reported(parts: list[dict[str, Any]]) -> None:
    rules = [RuleSettings.read({"name": f"r{place}"} | part) for place, part in enumerate(parts)]
    policy = Policy(rules, ISSUERS)
    chosen = {path: policy.choose(Attributes("GET", "a", "", {}), path) for path in {*_PATHS, *dict(_PAIRS).values()}}
    bypassed: set[int] = set()
    for path, other in _PAIRS:
        first, second = chosen[path], chosen[other]
        if first is None or second is None:
            continue
        place, strict, lax = int(first.name[1:]), rules[int(first.name[1:])], rules[int(second.name[1:])]
        own = any(pattern.matches(other) for pattern in strict.match.path_patterns)
        if not own and not STRICTNESS.requires_as_much(lax, strict) and not _is_written_out(path, other, strict, lax):
            bypassed.add(place)
    named = {problem.where[1] for problem in bypasses(OrderedRules(rules), STRICTNESS)}
    assert bypassed <= named
    # Of two rules with one pattern each, no third one can decide what would bypass.
    assert len(rules) > 2 or any(len(rule.match.path_patterns) > 1 for rule in rules) or named == bypassed


def test_a_path_is_compared_with_near_paths_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def counted(pattern: PathPattern, others: Sequence[PathPattern]) -> frozenset[int] | None:
        nonlocal compared
        compared += len(others)
        return covering(pattern, others)

    monkeypatch.setattr("authz_service.config.rule_order.covering", counted)
    paths = [f"/part{number}/{{id}}" for number in range(300)]
    assert found(rule("many", *paths, **ADMIN)) == []
    assert compared < 10 * len(paths)


def test_a_hidden_rule_is_not_named_as_one_that_hides_another() -> None:
    rules = [rule("r0", "/a"), rule("r1", "/a/", "/a/{x}/**"), rule("r2", "/a/**"), rule("r3", "/a/**")]
    hidden, also_hidden = unreachable(OrderedRules(rules))
    assert hidden.where == ("rules", 2)
    assert also_hidden.where == ("rules", 3)
    assert "since rules r0 and r1 together decide all" in also_hidden.text


# MCP messages.

CALLS = {"methods": ["tools/call"]}
GETTERS = CALLS | {"names": ["get_*"]}


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        (None, GETTERS, True),
        (GETTERS, None, False),
        (CALLS, GETTERS, True),
        (GETTERS, CALLS, False),
        (GETTERS, GETTERS, True),
        ({"methods": ["*"]}, {"names": ["a"]}, True),
        ({"names": ["*"]}, CALLS, False),
        (CALLS, {"methods": ["tools/*"]}, False),
    ],
)
def test_a_rule_hides_only_the_mcp_messages_that_it_matches(earlier: Any, later: Any, hidden: bool) -> None:  # noqa: FBT001 - a table's column
    rules = [rule("r0", "/mcp", **_mcp(earlier)), rule("r1", "/mcp", **_mcp(later))]
    assert bool(list(unreachable(OrderedRules(rules)))) is hidden


def _mcp(condition: Any) -> dict[str, Any]:
    return {"mcp": condition} if condition else {}


def _lax_for_older(*rules: RuleSettings) -> list[str]:
    return [
        f"{rendered(problem.where)}: {problem.text}" for problem in older_mcp_revisions(OrderedRules(rules), STRICTNESS)
    ]


def test_a_laxer_rule_for_older_mcp_revisions_is_reported() -> None:
    (text,) = _lax_for_older(rule("admin", "/mcp", mcp=CALLS, **ADMIN), rule("other", "/{x}"))
    assert text.startswith("rules[0].match.mcp: rule other decides these messages if MCP-Protocol-Version is missing")


@pytest.mark.parametrize(
    "others",
    [
        [],
        [rule("new", "/mcp", mcp={"methods": ["*"]})],
        [rule("strict", "/mcp", **ADMIN)],
        [rule("strict", "/mcp/**", **ADMIN), rule("lax")],
        [rule("elsewhere", "/api")],
        [rule("elsewhere", "/mcp", hosts=["b.example"])],
    ],
)
def test_no_older_mcp_revision_is_reported_where_no_laxer_rule_decides_it(others: list[RuleSettings]) -> None:
    assert (
        _lax_for_older(
            rule("lax-before", "/mcp", methods=["PUT"]),
            rule("admin", "/mcp", hosts=["a.example"], mcp=CALLS, **ADMIN),
            *others,
        )
        == []
    )
