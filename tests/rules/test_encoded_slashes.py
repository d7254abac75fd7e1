"""Paths with encoded slashes: only rules with ``encoded_slash`` decide them, and no other reading bypasses a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.paths import SlashedPath, split
from authz_service.rules import mismatch
from authz_service.rules.policy import Policy, no_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

ISSUERS = [Issuer.read({"issuer": "https://a.example/", "name": "a", "audiences": ["api"]})]


def rule(name: str, *paths: str, slashes: bool = False, policy: str = "", **match: Any) -> RuleSettings:
    if policy:
        return RuleSettings.read({"name": name, "policy": policy})
    match |= {"paths": list(paths)} if paths else {}
    return RuleSettings.read({"name": name, "match": match | ({"encoded_slash": True} if slashes else {})})


def chosen(rules: Sequence[RuleSettings], target: str, policy: str = "", **headers: str) -> str:
    """The name of the rule that decides, or the reason why none does."""
    found = Policy(rules, ISSUERS)
    attributes = Attributes("GET", "a.org", target, headers, policy)
    try:
        path = found.split(target)
    except Rejected as rejected:
        return rejected.reason
    choice = found.choose(attributes, path)
    return no_rule(path).reason if choice is None else choice.name


NPM = rule("npm", "/npm/{name}", slashes=True)
GITLAB = rule("gitlab", "/projects/{id}", "/projects/{id}/repository/files/{file}/**", slashes=True)


@pytest.mark.parametrize(
    ("rules", "target", "expected"),
    [
        ([NPM], "/npm/@scope%2fname", "npm"),
        ([NPM], "/npm/@scope%2Fname?x=%2f", "npm"),
        ([NPM], "/npm/%40scope%2Fname", "npm"),
        ([NPM], "/npm/a%2Fb%2Fc", "npm"),
        ([NPM], "/npm/name", "npm"),
        ([NPM], "/npm/@scope/name", "no_rule"),
        ([NPM], "/npm%2fname", "ambiguous_path"),
        ([NPM], "/npm/a%2fb/", "ambiguous_path"),
        ([NPM], "/npm/a%2fb;x", "ambiguous_path"),
        ([NPM], "/other/a%2fb", "ambiguous_path"),
        ([GITLAB], "/projects/group%2Fname", "gitlab"),
        ([GITLAB], "/projects/group%2Fsub%2Fname/repository/files/lib%2Fa.rb/raw", "gitlab"),
        ([GITLAB], "/projects/a%2Fb/repository%2Ffiles/x", "ambiguous_path"),
        ([GITLAB], "/projects/1/repository/files/x/raw%2Fy", "ambiguous_path"),  # not in a {name}
        ([rule("verb", "/v1/{id}:purge", slashes=True)], "/v1/a%2Fb:purge", "verb"),
        ([rule("verb", "/v1/{id}:purge", slashes=True)], "/v1/a%2F:purge", "ambiguous_path"),
        ([rule("verb", "/v1/{id}:purge", slashes=True)], "/v1/a%2F..:purge", "ambiguous_path"),
        ([rule("verb", "/v1/{id}:purge", "/v1/{id}", slashes=True)], "/v1/%2E%2E%2Fa:purge", "ambiguous_path"),
        ([rule("verb", "/v1/{id}:purge", slashes=True)], "/v1/..%2Fa:purge", "ambiguous_path"),
        ([rule("tree", "/t/{x}/**", slashes=True)], "/t/a%2Fb/c/d", "tree"),
        ([rule("tree", "/t/{x}/**", slashes=True)], "/t/a/b%2Fc", "ambiguous_path"),
        # Rules without encoded_slash take no part, but are not skipped.
        ([rule("plain", "/npm/{x}")], "/npm/a%2Fb", "ambiguous_path"),
        ([rule("plain", "/npm/{x}"), NPM], "/npm/a%2Fb", "ambiguous_path"),
        ([rule("plain", "/**"), NPM], "/npm/a%2Fb", "ambiguous_path"),
        ([rule("plain", "/npm/{x}/{y}"), NPM], "/npm/a%2Fb", "ambiguous_path"),
        ([rule("plain", "/npm/-/**"), NPM], "/npm/-%2Fusers", "ambiguous_path"),
        ([rule("plain", "/npm/-/**"), NPM], "/npm/-a%2Fusers", "npm"),
        ([rule("plain", "/npm/-/**"), NPM], "/npm/-%2Fusers%2Fa", "ambiguous_path"),
        ([rule("plain", "/npm/{x}/{y}", methods=["PUT"]), NPM], "/npm/a%2Fb", "npm"),
        ([rule("plain", "/npm/{x}/{y}", hosts=["b.org"]), NPM], "/npm/a%2Fb", "npm"),
        ([rule("plain", "/npm/{x}/{y}", headers={"x-a": "1"}), NPM], "/npm/a%2Fb", "npm"),
        ([NPM, rule("plain", "/npm/{x}/{y}")], "/npm/a%2Fb", "npm"),
        ([NPM, rule("plain", "/**")], "/npm/a%2Fb", "npm"),
        ([NPM, rule("plain", "/**")], "/v1/a%2Fb", "ambiguous_path"),
        ([rule("deep", "/npm/{x}/{y}", slashes=True), NPM], "/npm/a%2Fb", "ambiguous_path"),
        ([rule("both", "/npm/{x}/{y}", "/npm/{x}", slashes=True)], "/npm/a%2Fb", "both"),
        # A rule that the route names.
        ([NPM, rule("named", policy="p")], "/npm/a%2Fb", "npm"),
        ([rule("named", policy="q"), NPM], "/npm/a%2Fb", "npm"),
    ],
)
def test_a_path_with_encoded_slashes_is_decided_by_the_first_rule_of_both_readings(
    rules: list[RuleSettings], target: str, expected: str
) -> None:
    assert chosen(rules, target) == expected


TENANT = {"claims": {"tenant": {"equals_path": "tenant"}}}


@pytest.mark.parametrize(
    ("require", "paths", "target", "expected"),
    [
        (TENANT, ["/{group}/{tenant}", "/{group}/{tenant}/{x}"], "/a%2Fb/c", "ambiguous_path"),  # tenant c, or b
        ({"any_of": [{"scopes": ["r:{tenant}"]}]}, ["/{x}/{tenant}", "/{y}/{tenant}/**"], "/a%2Fb/c", "ambiguous_path"),
        (TENANT, ["/{group}/{tenant}", "/{group}/{tenant}/{x}"], "/b%2Fc/c", "r"),
        (TENANT, ["/{group}/{tenant}", "/{group}/{tenant}/{x}"], "/b/c", "r"),
        (TENANT, ["/{group}/{tenant}"], "/a%2Fb/c", "r"),
        (TENANT, ["/{tenant}/{x}", "/{tenant}/{x}/{y}"], "/a/b%2Fc", "r"),
        (TENANT, ["/{tenant}/**"], "/a%2Fb/c", "r"),  # the slash is in the text that the claim must equal
        ({}, ["/{group}/{tenant}", "/{group}/{tenant}/{x}"], "/a%2Fb/c", "r"),
    ],
)
def test_a_text_that_conditions_use_is_the_same_in_both_readings(
    require: dict[str, Any], paths: list[str], target: str, expected: str
) -> None:
    parts = {"name": "r", "match": {"paths": paths, "encoded_slash": True}, "require": require}
    settings_ = RuleSettings.read(parts)
    assert chosen([settings_], target) == expected
    attributes, path = Attributes("GET", "a.org", target, {}), Policy([settings_], ISSUERS).split(target)
    assert (mismatch.of(settings_, attributes, path) is None) == (expected == "r")
    assert mismatch.ends_search(settings_, attributes, path) == (expected != "r")


def test_a_rule_that_the_route_names_decides_no_path_with_encoded_slashes() -> None:
    named = rule("named", policy="p")
    assert chosen([named, NPM], "/npm/a%2Fb", policy="p") == "ambiguous_path"
    assert chosen([NPM, named], "/npm/a%2Fb", policy="p") == "npm"
    assert chosen([NPM, named], "/other/a%2Fb", policy="p") == "ambiguous_path"
    assert chosen([NPM, named], "/other/ab", policy="p") == "named"


def test_an_ambiguous_header_of_an_earlier_rule_ends_the_search_in_both_readings() -> None:
    for pattern in ("/npm/{x}", "/npm/{x}/{y}"):
        first = rule("first", pattern, headers={"x-a": "1"})
        assert chosen([first, NPM], "/npm/a%2Fb", **{"x-a": "2"}) == "npm"
        assert chosen([first, NPM], "/npm/a%2Fb", **{"x-a": "1,2"}) == "ambiguous_path"
        assert chosen([NPM, first], "/npm/a%2Fb", **{"x-a": "1,2"}) == "npm"


def test_without_encoded_slash_in_any_rule_the_strict_reading_of_paths_is_used() -> None:
    assert Policy([rule("a", "/a/{x}")], ISSUERS).split is split


def test_a_preflight_needs_a_rule_that_may_decide_the_path() -> None:
    def allows(rules: list[RuleSettings], target: str, policy: str = "") -> bool:
        found = Policy(rules, ISSUERS)
        return found.has_rule_for(Attributes("OPTIONS", "a.org", target, {}, policy), found.split(target))

    put = rule("npm", "/npm/{name}", slashes=True, methods=["PUT"])
    assert allows([put], "/npm/a%2Fb")
    assert allows([put], "/npm/a")
    assert not allows([put], "/other/a%2Fb")
    assert not allows([rule("plain", "/npm/{x}/{y}", methods=["GET"]), put], "/npm/a%2Fb")
    assert not allows([put, rule("named", policy="p")], "/npm/a%2Fb", policy="p")
    assert allows([put, rule("named", policy="p")], "/npm/ab", policy="p")


def test_a_capture_holds_the_decoded_text() -> None:
    gitlab = RuleSettings.read(
        {
            "name": "gitlab",
            "match": {"paths": ["/projects/{id}:{}".replace("{}", "archive")], "encoded_slash": True},
            "require": {"claims": {"project": {"equals_path": "id"}}},
        }
    )
    policy = Policy([gitlab], ISSUERS)
    path = policy.split("/projects/group%2Fn%61me:archive")
    assert path == ("projects", "group/name:archive")
    assert policy.rules[0].parts_of({}, path).captures == {"id": "group/name"}


def test_why_a_rule_does_not_decide_is_explained() -> None:
    attributes = Attributes("GET", "a.org", "/npm/a%2Fb", {}, "p")
    path = SlashedPath(["npm", "a/b"])
    for each, why in (
        (rule("r", "/npm/{x}"), "the path has an encoded slash, and the rule does not have encoded_slash"),
        (rule("r", "/{x}/**", slashes=True), "the path has an encoded slash outside of a {name}"),
        (rule("r", "/npm/{x}/{y}"), "the path is not /npm/{x}/{y}"),
        (rule("r", policy="p"), "the path has an encoded slash"),
    ):
        assert mismatch.of(each, attributes, path) == why
        assert mismatch.ends_search(each, attributes, path)
    for each in (NPM, rule("r", "/npm/{x}/{y}/{z}"), rule("r", policy="q")):
        assert not mismatch.ends_search(each, attributes, path)


_RULES = st.fixed_dictionaries(
    {},
    optional={
        "hosts": st.just(["a.org"]),
        "methods": st.sampled_from([["GET"], ["PUT"]]),
        "paths": st.lists(
            st.sampled_from(["/a", "/{x}", "/a/{x}", "/a/**", "/{x}/b", "/{x}/{y}", "/**", "/a/{x}/", "/a/{x}:v"]),
            min_size=1,
            max_size=3,
        ),
        "headers": st.just({"x-a": "1"}),
        "case_insensitive": st.booleans(),
    },
)
_PATHS = st.lists(
    st.sampled_from(["a", "A", "b", "a%2fb", "A%2Fb", "b%2fc%2fd", "b%2fc:v", "a:v"]), min_size=1, max_size=3
)


@settings(max_examples=500)
@given(
    st.lists(st.tuples(_RULES, st.booleans(), st.sampled_from(["", "", "", "p", "q"])), max_size=5),
    _PATHS,
    st.sampled_from(["", "/"]),
    st.sampled_from(["", "p"]),
    st.sampled_from([{}, {"x-a": "1"}, {"x-a": "2"}, {"x-a": "1,1"}]),
)
def test_no_rule_is_skipped_in_either_reading_and_the_reasons_agree(
    parts: list[tuple[dict[str, Any], bool, str]], segments: list[str], end: str, policy: str, headers: dict[str, str]
) -> None:
    rules = [
        rule(f"r{place}", policy=name, slashes=slashes, **match) for place, (match, slashes, name) in enumerate(parts)
    ]
    names = [each.policy for each in rules if each.policy]
    if len(set(names)) < len(names):
        return
    target = "/" + "/".join(segments) + end
    attributes = Attributes("GET", "a.org", target, headers, policy)
    compiled = Policy(rules, ISSUERS)
    if "%" in target and compiled.split is split:
        return
    path = compiled.split(target)
    choice = compiled.choose(attributes, path)

    ending = [place for place, each in enumerate(rules) if mismatch.ends_search(each, attributes, path)]
    considered = rules[: ending[0] + 1] if ending else rules
    matching = [each.name for each in considered if mismatch.of(each, attributes, path) is None]
    explained = None if mismatch.of_every_rule(rules, attributes) or not matching else matching[0]
    assert (choice.name if choice else None) == explained

    if choice is None or not isinstance(path, SlashedPath):
        return
    # A receiver that decodes first finds the same rule, or one that is later or does not exist.
    plain = Policy(
        [each.with_values(match=each.match.with_values(encoded_slash=False)) for each in rules],
        ISSUERS,
    )
    decoded = plain.choose(attributes, path.decoded)
    place = [each.name for each in rules].index(choice.name)
    assert decoded is None or [each.name for each in rules].index(decoded.name) >= place
    assert rules[place].match.encoded_slash
