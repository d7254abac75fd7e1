"""The reason why a rule does not match, and that it agrees with the tree that decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.rules import mismatch
from authz_service.rules.policy import Policy

ISSUERS = [Issuer.read({"issuer": "https://a.example/", "name": "a", "audiences": ["api"]})]


def rule(name: str = "r", **settings_: Any) -> RuleSettings:
    return RuleSettings.read({"name": name} | settings_)


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ({}, None),
        ({"hosts": ["api.example", "*.example.org"]}, None),
        ({"hosts": ["example"]}, "the host is not example"),
        ({"hosts": ["a.example", "*.api.example"]}, "the host is not one of a.example, *.api.example"),
        ({"methods": ["POST", "PUT"]}, "the method is not one of POST, PUT"),
        ({"paths": ["/v1/b", "/v1/a/{id}"]}, "the path is not one of /v1/b, /v1/a/{id}"),
        ({"paths": ["/v1/**"]}, None),
        ({"headers": {"X-A": "1"}}, None),
        ({"headers": {"x-a": "2"}}, "the header x-a is not '2'"),
        ({"headers": {"x-b": "2"}}, "the header x-b cannot be compared: sent more than once, or with a comma"),
        (
            {"headers": {"x-c": "2"}},
            "the header x-c cannot be compared: sent under another spelling, which some servers read as this header",
        ),
        ({"paths": ["/V1/A"]}, "the path is not /V1/A"),
        ({"paths": ["/V1/A"], "case_insensitive": True}, None),
        ({"hosts": ["b"], "methods": ["PUT"], "paths": ["/b"]}, "the host is not b"),
    ],
)
def test_the_first_part_that_does_not_match_is_reported(match: dict[str, Any], why: str | None) -> None:
    attributes = Attributes("GET", "API.example:443", "/v1/a", {"x-a": " 1", "x-b": "2,2", "x_c": "2"})
    assert mismatch.of(rule(match=match), attributes, ["v1", "a"]) == why


def test_a_rule_with_a_policy_matches_if_envoy_sent_it() -> None:
    assert mismatch.of(rule(policy="p"), Attributes("GET", "", "/", {}, "p"), [""]) is None
    assert mismatch.of(rule(policy="p"), Attributes("GET", "", "/", {}, "q"), [""]) == "Envoy did not send policy p"
    with_parameters = mismatch.of(rule(policy="p"), Attributes("GET", "", "/a;b", {}, "p"), ["a;b"])
    assert with_parameters == "the path's last segment has parameters"


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        (Attributes("get", "a.example", "/", {}), "the method 'get' is not in upper case, so no rule matches"),
        (Attributes("GET", "a b", "/", {}), "the host 'a b' is not plainly a host, and some rules match hosts"),
        (Attributes("GET", "a.example", "/", {}, "q"), "no rule has the policy 'q' that Envoy sent"),
        (Attributes("GET", "a.example", "/", {}, "p"), None),
    ],
)
def test_the_reason_why_no_rule_can_match_is_reported(attributes: Attributes, why: str | None) -> None:
    assert mismatch.of_every_rule([rule("a", match={"hosts": ["a.example"]}), rule("b", policy="p")], attributes) == why


_MCP = st.sampled_from(
    [
        {},
        {"mcp": {"methods": ["tools/call"]}},
        {"mcp": {"names": ["get_*"]}},
        {"mcp": {"methods": ["*"], "names": ["a"]}},
    ]
)
_MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "hosts": st.lists(st.sampled_from(["a.org", "b.a.org", "*.a.org", "*.org"]), min_size=1, max_size=2),
        "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=2),
        "paths": st.lists(
            st.sampled_from(["/", "/a", "/{x}", "/a/**", "/{x}/b", "/**", "/a/", "/a;b", "/{x}:v", "/{x}:V"]),
            min_size=1,
            max_size=3,
        ),
        "case_insensitive": st.booleans(),
        "headers": st.dictionaries(st.sampled_from(["x-a"]), st.sampled_from(["1", "2"]), min_size=1),
    },
)
_CONDITIONS = st.one_of(
    st.builds(lambda match, mcp: {"match": match | mcp}, _MATCHES, _MCP),
    st.sampled_from(["p", "q"]).map(lambda policy: {"policy": policy}),
)


@settings(max_examples=400)
@given(
    st.lists(_CONDITIONS, max_size=8),
    st.sampled_from(["a.org", "A.org:80", "b.a.org", "?", "", "org"]),
    st.sampled_from(["GET", "POST", "PUT", "get"]),
    st.sampled_from(
        [[""], ["a"], ["a", ""], ["a", "b"], ["c"], ["A"], ["a:v"], ["a:V"], ["a;b"], ["A;B"], ["a", "b;"]]
    ),
    st.dictionaries(st.sampled_from(["x-a", "x_a"]), st.sampled_from(["1", "2", " 1", "1,1", "2\x1f"])),
    st.sampled_from(["", "p", "q", "unknown"]),
    st.fixed_dictionaries(
        {},
        optional={
            "mcp-protocol-version": st.sampled_from(["2026-07-28", "2025-11-25", "2026-07-28,2026-07-28"]),
            "mcp-method": st.sampled_from(["tools/call", "ping", "a,b"]),
            "mcp-name": st.sampled_from(["get_a", "a", "a,b", "=?base64?YQ==?="]),
        },
    ),
)
def test_the_reasons_agree_with_the_tree(
    conditions: list[dict[str, Any]],
    host: str,
    method: str,
    path: list[str],
    headers: dict[str, str],
    policy: str,
    mcp: dict[str, str],
) -> None:
    headers |= mcp
    rules = [rule(f"r{place}", **condition) for place, condition in enumerate(conditions)]
    attributes = Attributes(method, host, "", headers, policy)
    ending = [place for place, each in enumerate(rules) if mismatch.ends_search(each, attributes, path)]
    considered = rules[: ending[0] + 1] if ending else rules
    applying = [each.name for each in considered if mismatch.of(each, attributes, path) is None]
    expected = None if mismatch.of_every_rule(rules, attributes) or not applying else applying[0]
    # Of two rules with one policy, the later one is in the table; the loader refuses such a configuration.
    named = [each.policy for each in rules if each.policy]
    assume(len(set(named)) == len(named))
    try:
        chosen = Policy(rules, ISSUERS).choose(attributes, path)
    except Rejected as rejected:
        assert rejected.reason == "malformed_request"
        assert "malformed_request" in str(mismatch.of(considered[-1], attributes, path))
        chosen = None
    assert (chosen.name if chosen else None) == expected
