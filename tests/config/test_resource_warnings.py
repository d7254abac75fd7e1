"""Warnings about protected resources and MCP servers, each with a configuration that it does not concern."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.document import rendered
from authz_service.config.model import Settings
from authz_service.config.resource_warnings import resource_warnings
from authz_service.config.resources import ResourceLocation
from authz_service.config.rule_order import OrderedRules, deciding
from authz_service.core.attributes import Attributes
from authz_service.core.patterns import parse_host_pattern
from authz_service.rules.policy import Policy
from authz_service.rules.resources import Resources

MCP = "https://api.example/mcp"
FOR_MCP = {"audiences": [MCP]}
MAIN: dict[str, Any] = {"issuer": "https://a.example/", "name": "main", "audiences": ["api"]}
OTHER: dict[str, Any] = {"issuer": "https://b.example/", "name": "other", "audiences": [MCP]}
TEMPLATE: dict[str, Any] = {
    "issuer": "https://login/{t}/v2",
    "name": "tenants",
    "tenants": ["t"],
    "audiences": [MCP],
    "keys": {"jwks_uri": "https://login/keys"},
}


def rule(*paths: str, require: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A rule for these paths, which accepts only tokens for the resource."""
    match = {"paths": list(paths), **more.pop("match", {})}
    needed = {} if more.get("access") == "public" else {"require": FOR_MCP if require is None else require}
    return {"match": match, **needed, **more}


def warned(
    *rules: dict[str, Any],
    resources: list[dict[str, Any]] | None = None,
    issuers: list[dict[str, Any]] | None = None,
    **more: Any,
) -> list[str]:
    named = [{"name": f"r{place}"} | each for place, each in enumerate(rules)]
    written = {"issuers": issuers or [MAIN], "rules": named, "resources": resources or [{"resource": MCP}]}
    configured = Settings.read(written | more)
    found = resource_warnings(configured, OrderedRules(configured.rules))
    return [f"{rendered(problem.where)}: {problem.text}" for problem in found]


def foreign(key: str, others: str, name: str = "audiences", resource: str = MCP) -> str:
    return (
        f"{key}: accepts tokens for {others} at the resource {resource}, where any service that receives such a token "
        f"can use it: write {name}: [{resource}], in a rule for this resource"
    )


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        (FOR_MCP, []),
        ({}, [foreign("rules[0]", "api", "require.audiences")]),
        ({"audiences": ["x", MCP, "y"]}, [foreign("rules[0].require.audiences", "x and y")]),
        ({"audiences": [f"{MCP}/"]}, [foreign("rules[0].require.audiences", f"{MCP}/")]),
        ({"issuers": ["other"]}, []),
        ({"issuers": ["main"]}, [foreign("rules[0]", "api", "require.audiences")]),
        ({"any_of": [FOR_MCP, {"issuers": ["other"]}]}, []),
        ({"any_of": [FOR_MCP, {"clients": ["c"]}]}, [foreign("rules[0].require.any_of[1]", "api")]),
        ({"any_of": [{"audiences": ["x"]}]}, [foreign("rules[0].require.any_of[0].audiences", "x")]),
        ({"audiences": ["x", MCP], "any_of": [FOR_MCP]}, []),
        (
            {"audiences": ["x"], "any_of": [{"scopes": ["a"]}, {"scopes": ["b"]}]},
            [foreign("rules[0].require.audiences", "x")],
        ),
    ],
)
def test_a_rule_that_accepts_another_audience_than_the_resource_is_reported(
    require: dict[str, Any], expected: list[str]
) -> None:
    found = warned(rule("/mcp/**", require=require), issuers=[MAIN, OTHER])
    assert [each for each in found if "accepts tokens for" in each] == expected
    assert warned(rule("/mcp/**"), rule("/v1/**", require=require)) == []


@pytest.mark.parametrize(
    "rules",
    [
        [rule("/mcp/**"), rule("/**", require={})],
        [rule("/mcp"), rule("/mcp/{x}/**"), rule("/mcp/"), rule("/**", require={})],
        [rule("/mcp/**"), rule("/mcp/**", require={}, match={"hosts": ["other.example"]})],
        [rule("/mcp/**", match={"hosts": ["*.example"]}), rule("/{any}/**", require={})],
        [rule("/mcp/**", match={"methods": ["GET"]}), rule("/mcp/**"), rule("/**", require={})],
        [rule("/mcp/**"), {"policy": "p"}],
        [rule("/healthz", access="public"), rule("/mcp/healthz", access="public"), rule("/mcp/**")],
    ],
    ids=str,
)
def test_a_rule_that_decides_no_request_to_the_resource_is_not_reported(rules: list[dict[str, Any]]) -> None:
    assert warned(*rules) == []


@pytest.mark.parametrize(
    "rules",
    [
        [rule("/mcp/**", match={"methods": ["GET"]}), rule("/**", require={})],
        [rule("/mcp/**", match={"headers": {"x": "1"}}), rule("/**", require={})],
        [rule("/mcp/**", match={"mcp": {"methods": ["tools/call"]}}), rule("/**", require={})],
        [rule("/mcp"), rule("/mcp/{x}"), rule("/**", require={})],
        [rule("/mcp/**", match={"hosts": ["other.example"]}), rule("/**", require={})],
        [rule("/MCP/**"), rule("/mcp", require={}, match={"case_insensitive": True}), rule("/mcp/**")],
    ],
    ids=str,
)
def test_a_rule_that_decides_some_requests_after_others_is_reported(rules: list[dict[str, Any]]) -> None:
    assert len([each for each in warned(*rules) if "accepts tokens for api" in each]) == 1


def test_the_rules_of_a_resource_under_another_one_are_not_those_of_the_other() -> None:
    outer, inner = {"resource": "https://api.example/"}, {"resource": MCP}
    rules = [rule("/mcp/**"), rule("/**", require={"audiences": ["https://api.example/"]})]
    assert warned(*rules, resources=[outer, inner]) == []
    assert warned(*rules, resources=[inner, outer]) == []
    (found,) = warned(*rules, resources=[outer])
    assert found == foreign("rules[0].require.audiences", MCP, resource="https://api.example/")


def test_a_rule_for_two_resources_accepts_the_tokens_of_each_at_the_other() -> None:
    resources = [{"resource": "https://a.example"}, {"resource": "https://b.example"}]
    both = rule("/**", require={"audiences": ["https://a.example", "https://b.example"]})
    assert [each.partition(" at ")[0] for each in warned(both, resources=resources)] == [
        "rules[0].require.audiences: accepts tokens for https://b.example",
        "rules[0].require.audiences: accepts tokens for https://a.example",
    ]


def test_a_resource_that_no_rule_serves_is_reported() -> None:
    denied = "so all of them are denied: add a rule, or correct this identifier"
    elsewhere = rule("/mcp/**", match={"hosts": ["other.example"]})
    assert warned(elsewhere) == [f"resources[0].resource: no rule decides requests for the host api.example, {denied}"]
    assert warned(rule("/v1/**")) == [
        f"resources[0].resource: no rule decides requests at or under this path, {denied}"
    ]
    assert warned(rule("/mcp/x")) == []
    assert warned(rule("/mcp", access="public")) == []
    assert warned(rule("/v1/**"), {"policy": "p"}) == []


def test_issuers_that_only_rules_or_only_the_metadata_accept_are_reported() -> None:
    resource = [{"resource": MCP, "issuers": ["other"]}]
    own = {"require": {"issuers": ["other"]}}
    issuers = [MAIN, OTHER, TEMPLATE]
    assert warned(rule("/mcp/**"), resources=resource, issuers=issuers) == [
        (
            f"rules[0]: accepts tokens of main, which the metadata of {MCP} does not list, so clients do not find out: "
            "list the rule's issuers in require.issuers, or add to the resource's"
        )
    ]
    assert warned(rule("/mcp/**") | own, resources=resource, issuers=issuers) == []
    assert warned(rule("/mcp/**"), issuers=issuers) == []  # a template cannot be listed
    assert warned(rule("/mcp/**") | own, issuers=issuers) == [
        (
            "resources[0].resource: the metadata lists main, whose tokens no rule for this resource accepts, so "
            "clients log in there in vain: write issuers: [other]"
        )
    ]
    assert warned(rule("/mcp/**") | own, {"policy": "p"}, issuers=issuers) == []


def test_scopes_of_rules_that_routes_select_must_be_listed_by_hand() -> None:
    named = {"policy": "p", "require": {"scopes": ["a"]}}
    assert warned(rule("/mcp/**"), named) == [
        (
            "resources[0].resource: the metadata cannot list the scopes of r1, since routes select a rule with "
            "policy: write scopes, with theirs if they are for this resource"
        )
    ]
    assert warned(rule("/mcp/**"), named, resources=[{"resource": MCP, "scopes": []}]) == []
    assert warned(rule("/mcp/**", require=FOR_MCP | {"scopes": ["a"]}), named) == []
    assert warned(rule("/mcp/**"), {"policy": "p", "require": {"scopes": ["a:{t}"]}}) == []


SERVER: list[dict[str, Any]] = [{"resource": MCP, "mcp": True}]
SEPARATE: dict[str, Any] = {"upstream": {"forward_authorization": False}}


def test_an_mcp_server_gets_no_token_that_it_could_pass_through() -> None:
    (found,) = warned(rule("/mcp/**"), resources=SERVER)
    assert found.startswith(f"upstream.forward_authorization: passes the token on to {MCP}, and an MCP server must not")
    assert found.endswith(": write forward_authorization: false")
    assert warned(rule("/mcp/**"), resources=SERVER, **SEPARATE) == []
    assert warned(rule("/mcp/**")) == []


@pytest.mark.parametrize(
    ("resource", "require", "key"),
    [
        ({"scopes": ["a", "offline_access"]}, {}, "resources[0].scopes"),
        ({}, {"scopes": ["offline_access"]}, "rules[0].require.scopes"),
        (
            {"scopes": ["a"]},
            {"any_of": [{"scopes": ["a"]}, {"scopes": {"any": ["offline_access", "b"]}}]},
            "rules[0].require.any_of[1].scopes",
        ),
        ({"scopes": ["a"]}, {"scopes": {"none": ["offline_access"]}}, ""),
        ({}, {"scopes": ["a"]}, ""),
    ],
)
def test_offline_access_is_no_scope_of_an_mcp_server(
    resource: dict[str, Any], require: dict[str, Any], key: str
) -> None:
    rules = [rule("/mcp/**", require=FOR_MCP | require), rule("/v1", require={"scopes": ["offline_access"]})]
    found = warned(*rules, resources=[SERVER[0] | resource], **SEPARATE)
    assert [each.partition(":")[0] for each in found] == ([key] if key else [])
    assert warned(*rules, resources=[{"resource": MCP} | resource]) == []


@pytest.mark.parametrize(
    ("rules", "keys"),
    [
        ([rule("/mcp/**", access="optional")], ["rules[0].access"]),
        ([rule("/mcp", access="public"), rule("/mcp/**")], ["rules[0].access"]),
        ([rule("/{any}", access="public", match={"methods": ["GET"]}), rule("/mcp/**")], ["rules[0].access"]),
        ([rule("/mcp", access="public", match={"methods": ["OPTIONS"]}), rule("/mcp/**")], []),
        ([rule("/mcp/healthz", access="public"), rule("/mcp/**")], []),
        ([rule("/mcp/**"), rule("/**", access="public")], []),
        ([rule("/mcp/**"), rule("/mcp", access="public", match={"hosts": ["b.example"]})], []),
    ],
    ids=str,
)
def test_an_mcp_server_challenges_every_request_without_a_token(rules: list[dict[str, Any]], keys: list[str]) -> None:
    found = warned(*rules, resources=SERVER, **SEPARATE)
    assert [each.partition(":")[0] for each in found] == keys
    root = [{"resource": "https://api.example/", "mcp": True}]
    public = [rule("/", access="public"), rule("/**", require={"audiences": ["https://api.example/"]})]
    assert [each.partition(":")[0] for each in warned(*public, resources=root, **SEPARATE)] == ["rules[0].access"]
    assert warned(rule("/x", access="public"), public[1], resources=root, **SEPARATE) == []


_MATCHES = st.fixed_dictionaries(
    {
        "paths": st.lists(
            st.sampled_from(["/", "/a", "/{x}", "/a/**", "/{x}/b", "/**", "/a/c/{x}"]), min_size=1, max_size=2
        )
    },
    optional={
        "case_insensitive": st.booleans(),
        "hosts": st.lists(st.sampled_from(["x.org", "y.org", "*.org"]), min_size=1, max_size=2),
        "methods": st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), min_size=1, max_size=1),
    },
)


@given(st.lists(_MATCHES, min_size=1, max_size=5))
def test_no_rule_that_decides_a_request_to_a_resource_is_overlooked(matches: list[dict[str, Any]]) -> None:
    resources = [{"resource": each} for each in ("https://x.org", "https://x.org/a", "https://y.org/a/c")]
    rules = [{"name": f"r{place}", "match": each} for place, each in enumerate(matches)]
    settings = Settings.read({"issuers": [MAIN], "rules": rules, "resources": resources})
    locations = [ResourceLocation.of(each.resource) for each in settings.resources]
    known = {
        location.metadata_url: {
            number
            for number, _ in deciding(
                parse_host_pattern(location.host),
                location.everything,
                [other.everything for other in locations if location.is_above(other)],
                OrderedRules(settings.rules),
            )
        }
        for location in locations
    }
    policy, compiled = Policy(settings.rules, settings.issuers), Resources(settings)
    for path in (["a"], ["a", ""], ["a", "b"], ["a", "c"], ["a", "c", "d"], [""], ["A"], ["b", "b"]):
        for host in ("x.org", "y.org", "z.org"):
            url = compiled.metadata_url(host, path)
            for method in ("GET", "PUT", "DELETE"):
                for headers in ({}, {"x": "1"}, {"y": "2"}):
                    chosen = policy.choose(Attributes(method, host, "/" + "/".join(path), headers), path)
                    assert url is None or chosen is None or int(chosen.name[1:]) in known[url]


def test_a_rule_by_headers_of_mcp_needs_a_server_that_compares_them_with_the_message() -> None:
    by_tool = rule("/mcp", match={"mcp": {"methods": ["tools/call"]}})
    elsewhere = rule("/mcp", match={"mcp": {"methods": ["tools/call"]}, "hosts": ["other.example"]})
    server: dict[str, Any] = {
        "resources": [{"resource": MCP, "mcp": True}],
        "upstream": {"forward_authorization": False},
    }
    assert warned(by_tool, **server) == []
    for warnings, place in ((warned(by_tool), 0), (warned(by_tool, elsewhere, **server), 1)):
        (trusted,) = [each for each in warnings if "trusts headers" in each]
        assert trusted.startswith(f"rules[{place}].match.mcp: ")
