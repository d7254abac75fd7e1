"""Requests find the metadata of protected resources, and denials name its address (RFC 9728)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz_service.authorizer import Pending
from authz_service.config.model import DpopSettings, MtlsSettings
from authz_service.config.resources import ResourceLocation
from authz_service.core.attributes import Attributes
from authz_service.core.decision import Allow, Answer, Decision, Deny
from support.trust import ISSUER, NOW, OTHER, LocalAuthorizer, good

RULES: list[dict[str, Any]] = [
    {
        "name": "orders",
        "match": {"hosts": ["api.example"], "paths": ["/mcp/orders/**"]},
        "require": {"scopes": ["orders.read"], "any_of": [{"scopes": {"any": ["b", "orders.write"]}}]},
    },
    {"name": "tenant", "match": {"paths": ["/mcp/{tenant}"]}, "require": {"scopes": ["read:{tenant}", "a"]}},
    {"name": "health", "match": {"paths": ["/healthz", "/mcp/healthz"]}, "access": "public"},
    {"name": "other", "match": {"hosts": ["other.example"], "paths": ["/**"]}, "require": {"scopes": ["other"]}},
    {"name": "beside", "match": {"hosts": ["api.example"], "paths": ["/v1/**"]}, "require": {"scopes": ["v1"]}},
]
MCP = "https://api.example/mcp"


def service(
    *resources: dict[str, Any] | str, rules: list[dict[str, Any]] | None = None, **more: Any
) -> LocalAuthorizer:
    listed = [{"resource": each} if isinstance(each, str) else each for each in resources]
    return LocalAuthorizer(rules or RULES, {}, resources=listed, **more)


def send(
    to: LocalAuthorizer, path: str, *, method: str = "GET", host: str = "api.example", token: str = ""
) -> Decision:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    decision = to.authorizer.begin(Attributes(method, host, path, headers), NOW)
    assert not isinstance(decision, Pending)
    return decision


def metadata(to: LocalAuthorizer, path: str, **request: Any) -> dict[str, Any]:
    answer = send(to, path, **request)
    assert isinstance(answer, Answer)
    document = json.loads(answer.body)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("resource", "url"),
    [
        ("https://api.example", "https://api.example/.well-known/oauth-protected-resource"),
        ("https://api.example/", "https://api.example/.well-known/oauth-protected-resource"),
        (MCP, "https://api.example/.well-known/oauth-protected-resource/mcp"),
        ("https://API.example:8443/a/b", "https://API.example:8443/.well-known/oauth-protected-resource/a/b"),
        ("https://api.example/mcp/", "https://api.example/.well-known/oauth-protected-resource/mcp/"),
    ],
)
def test_the_metadata_is_at_the_well_known_path_followed_by_the_resources(resource: str, url: str) -> None:
    assert ResourceLocation.of(resource).metadata_url == url
    path = "/" + url.split("/", 3)[3]
    assert metadata(service(resource), path)["resource"] == resource


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("host", ["api.example", "API.Example:443", "api.example."])
def test_it_is_answered_without_a_token_and_to_any_website(method: str, host: str) -> None:
    path = "/.well-known/oauth-protected-resource/mcp?x=1"
    answer = send(service(MCP), path, method=method, host=host)
    assert isinstance(answer, Answer)
    assert answer.reason == "resource_metadata"
    headers = dict(answer.headers)
    assert headers["content-type"] == "application/json"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "max-age=3600"


@pytest.mark.parametrize(
    ("method", "host", "path"),
    [
        ("POST", "api.example", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "evil.example", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "api.example@evil", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "api.example", "/.well-known/oauth-protected-resource"),
        ("GET", "api.example", "/.well-known/oauth-protected-resource/mcp/"),
        ("GET", "api.example", "/.well-known/oauth-protected-resource/mcp/orders"),
        ("GET", "api.example", "/.well-known/openid-configuration/mcp"),
    ],
)
def test_any_other_request_is_left_to_the_rules(method: str, host: str, path: str) -> None:
    assert send(service(MCP), path, method=method, host=host).reason == "no_rule"


def test_an_ambiguous_spelling_of_the_path_is_refused_before() -> None:
    assert send(service(MCP), "/.well-known/oauth-protected-resource%2Fmcp").reason == "ambiguous_path"
    assert send(service(MCP), "/.well-known/./oauth-protected-resource/mcp").reason == "ambiguous_path"


def test_the_document_says_what_is_configured() -> None:
    assert metadata(service(MCP), "/.well-known/oauth-protected-resource/mcp") == {
        "resource": MCP,
        "authorization_servers": [ISSUER, OTHER],
        "scopes_supported": ["orders.read", "b", "orders.write", "a"],
        "bearer_methods_supported": ["header"],
    }
    written = {
        "resource": MCP,
        "name": "Orders",
        "issuers": ["other"],
        "scopes": ["orders.read"],
        "documentation": "https://docs.example/",
    }
    assert metadata(service(written), "/.well-known/oauth-protected-resource/mcp") == {
        "resource": MCP,
        "authorization_servers": [OTHER],
        "scopes_supported": ["orders.read"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Orders",
        "resource_documentation": "https://docs.example/",
    }
    none = metadata(service({"resource": MCP, "scopes": []}), "/.well-known/oauth-protected-resource/mcp")
    assert "scopes_supported" not in none


def test_what_is_under_another_resource_is_not_in_the_document() -> None:
    rules: list[dict[str, Any]] = [
        {"name": "admin", "match": {"paths": ["/mcp/admin/**", "/{x}/admin"]}, "require": {"scopes": ["admin"]}},
        {"name": "read", "match": {"paths": ["/mcp/**"]}, "require": {"scopes": ["read"], "proof": "dpop"}},
    ]
    path = "/.well-known/oauth-protected-resource/mcp"
    apart = service(MCP, f"{MCP}/admin", rules=rules)
    assert metadata(apart, path)["scopes_supported"] == ["read"]
    assert metadata(apart, path)["dpop_bound_access_tokens_required"] is True
    assert metadata(apart, f"{path}/admin")["scopes_supported"] == ["admin", "read"]
    assert metadata(service(MCP, rules=rules), path)["scopes_supported"] == ["admin", "read"]


def test_the_document_says_which_tokens_must_or_may_be_bound() -> None:
    path = "/.well-known/oauth-protected-resource/mcp"
    algorithms = "dpop_signing_alg_values_supported"
    required, by_certificate = "dpop_bound_access_tokens_required", "tls_client_certificate_bound_access_tokens"
    plain = metadata(service(MCP), path)
    assert {algorithms, required, by_certificate}.isdisjoint(plain)
    offered = metadata(service(MCP, dpop=DpopSettings(algorithms=("ES256",))), path)
    assert (offered[algorithms], offered.get(required)) == (["ES256"], None)
    rule = {"name": "r", "match": {"paths": ["/mcp/**"]}}
    always = metadata(service(MCP, rules=[rule | {"require": {"proof": "dpop"}}]), path)
    assert always[required] is True
    sometimes = [{"proof": "dpop"}, {"scopes": ["a"]}]
    assert required not in metadata(service(MCP, rules=[rule | {"require": {"any_of": sometimes}}]), path)
    bound = rule | {"require": {"proof": "dpop"}}
    assert required not in metadata(service(MCP, rules=[bound, {"name": "p", "policy": "p"}]), path)
    assert metadata(service(MCP, rules=[bound, bound | {"name": "p", "policy": "p", "match": {}}]), path)[required]
    assert metadata(service(MCP, mtls=MtlsSettings()), path)[by_certificate] is True


def _challenge(decision: Decision) -> str:
    assert isinstance(decision, Deny)
    return decision.challenges[0] if decision.challenges else ""


@pytest.mark.parametrize(
    ("path", "token", "reason", "named"),
    [
        ("/mcp/orders", "", "missing_token", True),
        ("/mcp/orders/7", "not-a-token", "malformed_token", True),
        ("/mcp/orders", good(), "insufficient_scope", True),
        ("/mcp/orders", "a b", "malformed_request", False),
        ("/v1/x", "", "missing_token", False),
        ("/mcpx", "", "no_rule", False),
    ],
)
def test_a_denial_of_the_resource_names_its_metadata(path: str, token: str, reason: str, named: bool) -> None:  # noqa: FBT001
    denied = send(service(MCP), path, token=token)
    assert denied.reason == reason
    url = "https://api.example/.well-known/oauth-protected-resource/mcp"
    assert (f'resource_metadata="{url}"' in _challenge(denied)) == named


def test_a_request_belongs_to_the_resource_with_the_longest_path() -> None:
    to = service("https://api.example", MCP, "https://api.example/mcp/orders", "https://other.example/mcp")
    ends = {"/mcp/orders/7": "/mcp/orders", "/mcp/x": "/mcp", "/v1/x": ""}
    for path, end in ends.items():
        url = f'resource_metadata="https://api.example/.well-known/oauth-protected-resource{end}"'
        assert _challenge(send(to, path)).endswith(url)
    assert '"https://other.example/.well-known/' in _challenge(send(to, "/mcp/x", host="other.example"))


def test_both_challenges_name_the_metadata() -> None:
    denied = send(service(MCP, dpop=DpopSettings()), "/mcp/orders")
    assert isinstance(denied, Deny)
    assert ["resource_metadata=" in each for each in denied.challenges] == [True, True]


def test_without_resources_the_metadata_paths_are_like_any_other() -> None:
    assert send(service(), "/.well-known/oauth-protected-resource/mcp").reason == "no_rule"
    allowed = send(service(MCP), "/mcp/orders", token=good(scope="orders.read b"))
    assert isinstance(allowed, Allow)


@pytest.mark.parametrize(
    ("token", "reason"),
    [("a.b.c", "malformed_token"), (good(aud="other"), "wrong_audience"), (good(exp=NOW - 100), "expired")],
)
def test_any_invalid_token_of_a_resource_gets_the_scopes_to_request(token: str, reason: str) -> None:
    scope = 'scope="orders.read b orders.write"'
    beside = {"name": "r", "match": {"paths": ["/mcp/orders"]}, "require": {"scopes": ["orders.read"]}}
    for to, named in ((service(MCP), True), (service(rules=[beside]), False)):
        denied = send(to, "/mcp/orders", token=token)
        assert denied.reason == reason
        assert (scope in _challenge(denied)) == named


def test_a_path_with_an_encoded_slash_belongs_to_the_resource_that_its_decoded_path_is_under() -> None:
    to = service(
        MCP, f"{MCP}/orders", rules=[{"name": "r", "match": {"paths": ["/{a}", "/mcp/{b}"], "encoded_slash": True}}]
    )
    for path, end in {"/mcp%2Fx": "/mcp", "/mcp/orders%2fx": "/mcp/orders", "/mcp/x%2Forders": "/mcp"}.items():
        url = f'resource_metadata="https://api.example/.well-known/oauth-protected-resource{end}"'
        assert _challenge(send(to, path)).endswith(url)
    assert send(to, "/.well-known/oauth-protected-resource%2Fmcp").reason == "ambiguous_path"
