"""Policies, preflights, shadow mode and conditions, for whole requests with tokens."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.config.warnings import load_with_warnings
from authz_service.core.attributes import Attributes
from authz_service.core.claim_path import parse_claim_path
from authz_service.core.cors import is_preflight
from authz_service.core.decision import Allow, Deny, decision_label
from authz_service.core.patterns import parse_host_pattern, parse_path_pattern
from authz_service.core.reasons import ALLOWANCES
from authz_service.rules import mismatch
from authz_service.rules.policy import Policy
from support.signing import Signer
from support.trust import NOW, OTHER_RS, RS, LocalAuthorizer, claims, good

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

HEADERS = {"x-auth-subject": "sub", "x-auth-scopes": "scope"}
PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "PUT"}


def deciding(*rules: dict[str, Any], **others: Any) -> LocalAuthorizer:
    return LocalAuthorizer([{"name": f"r{place}"} | rule for place, rule in enumerate(rules)], HEADERS, **others)


# Policies.

ROUTES = deciding(
    {"match": {"paths": ["/open"]}, "access": "public"},
    {"policy": "strict", "require": {"scopes": ["admin"]}},
    {"policy": "lax", "access": "public"},
    {"match": {"paths": ["/v1/**"]}},
)


@pytest.mark.parametrize(
    ("path", "policy", "rule", "reason"),
    [
        ("/v1/a", "", "r3", "missing_token"),
        ("/v1/a", "strict", "r1", "missing_token"),
        ("/v1/a", "lax", "r2", "public"),
        ("/elsewhere", "lax", "r2", "public"),
        ("/elsewhere", "", "-", "no_rule"),
        ("/open", "strict", "r0", "public"),  # file order decides
        ("/v1/a", "r2", "-", "no_rule"),  # a rule's name is not its policy
        ("/v1/a", "Lax", "-", "no_rule"),
        ("/v1/a", "lax,lax", "-", "no_rule"),
        ("/v1/../a", "lax", "-", "ambiguous_path"),
    ],
)
def test_a_policy_selects_its_rule_in_file_order(path: str, policy: str, rule: str, reason: str) -> None:
    decision = ROUTES.decide(path, policy=policy)
    assert (decision.rule, decision.reason) == (rule, reason)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4))
def test_a_client_cannot_select_a_policy(policy: str, sent: dict[str, str]) -> None:
    offered = {"": {"-"}, "strict": {"r1"}, "lax": {"r2"}}.get(policy, {"-"})
    sent |= {"authz_policy": "lax", "x-authz-policy": "lax", "context_extensions": "lax"}
    attributes = Attributes("GET", "api.example.org", "/elsewhere", sent, policy)  # sent may have a header "policy"
    decision = ROUTES.authorizer.begin(attributes, NOW)
    assert not isinstance(decision, Pending)
    assert decision.rule in offered


def test_an_ambiguous_request_matches_no_policy_either() -> None:
    guarded = deciding({"match": {"hosts": ["a.example"]}}, {"policy": "lax", "access": "public"})
    assert guarded.decide("/", policy="lax", host="b.example").reason == "public"
    assert guarded.decide("/", policy="lax", host="a.example evil").reason == "no_rule"
    assert guarded.decide("/", policy="lax", method="get", host="b.example").reason == "no_rule"


# Preflights.


def test_a_preflight_passes_only_if_allowed() -> None:
    rules = [{"match": {"paths": ["/v1/**"], "methods": ["PUT"]}}]
    sent = PREFLIGHT | {"x-auth-subject": "forged", "x_auth_scopes": "forged"}
    denied = deciding(*rules).decide("/v1/a", method="OPTIONS", **sent)
    assert (denied.reason, denied.rule) == ("no_rule", "-")
    allowed = deciding(*rules, allow_preflight=True).decide("/v1/a", method="OPTIONS", **sent)
    assert isinstance(allowed, Allow)
    assert (allowed.reason, allowed.rule, allowed.headers) == ("preflight", "-", ())
    assert {"x-auth-subject", "x-auth-scopes", "x_auth_scopes"} <= set(allowed.remove)


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("OPTIONS", {}),
        ("OPTIONS", {"origin": "https://app.example"}),
        ("OPTIONS", {"access-control-request-method": "PUT"}),
        ("PUT", PREFLIGHT),
        ("options", PREFLIGHT),
        ("OPTIONS ", PREFLIGHT),
        ("OPTIONS", PREFLIGHT | {"authorization": "Bearer x"}),
        ("OPTIONS", PREFLIGHT | {"authorization": ""}),
        ("OPTIONS", PREFLIGHT | {"x-http-method-override": "DELETE"}),
        ("OPTIONS", PREFLIGHT | {"origin": "https://app.example,https://evil.example"}),
    ],
)
def test_anything_but_a_preflight_is_decided_by_the_rules(method: str, sent: dict[str, str]) -> None:
    rules = deciding({"match": {"paths": ["/v1/**"]}}, allow_preflight=True)
    assert not is_preflight(Attributes(method, "a", "/", sent))
    assert rules.decide("/v1/a", method=method, **sent).reason not in ALLOWANCES


def test_a_preflight_on_an_ambiguous_path_is_denied() -> None:
    rules = deciding({}, allow_preflight=True)
    for path in ("/v1/%2e%2e/a", "/v1/a;x"):
        assert rules.decide(path, method="OPTIONS", **PREFLIGHT).reason == "ambiguous_path"


@pytest.mark.parametrize(
    ("path", "host", "policy", "reason"),
    [
        ("/v1/a", "api.example", "", "preflight"),
        (
            "/v2/a",
            "api.example",
            "",
            "preflight",
        ),  # header conditions are ignored: a preflight cannot meet them
        ("/v1/a/b", "api.example", "", "no_rule"),
        ("/other", "api.example", "", "no_rule"),
        ("/v1/a", "other.example", "", "no_rule"),
        ("/v1/a", "api.example evil", "", "no_rule"),
        ("/anything", "other.example", "p", "preflight"),
        ("/v1/a", "api.example", "q", "no_rule"),
    ],
)
def test_a_preflight_passes_only_where_a_rule_is(path: str, host: str, policy: str, reason: str) -> None:
    rules = deciding(
        {"match": {"hosts": ["api.example"], "paths": ["/v1/{id}"], "methods": ["PUT"]}},
        {"match": {"hosts": ["api.example"], "paths": ["/v2/**"], "headers": {"x-api-version": "2"}}},
        {"policy": "p", "require": {"scopes": ["w"]}},
        allow_preflight=True,
    )
    decision = rules.decide(path, method="OPTIONS", host=host, policy=policy, **PREFLIGHT)
    assert (decision.reason, isinstance(decision, Allow)) == (reason, reason == "preflight")


def test_a_preflight_that_overrides_its_method_is_decided_by_the_rules() -> None:
    rules = deciding({"match": {"paths": ["/v1/{id}"], "methods": ["DELETE"]}}, allow_preflight=True)
    assert rules.decide("/v1/a", method="OPTIONS", **PREFLIGHT).reason == "preflight"
    overriding = PREFLIGHT | {"x-http-method-override": "DELETE"}
    assert rules.decide("/v1/a", method="OPTIONS", **overriding).reason == "no_rule"


# Shadow mode.

SHADOW = deciding(
    {"match": {"paths": ["/v1/{tenant}/**"]}, "mode": "shadow", "require": {"scopes": ["admin"], "clients": ["app"]}},
    {"match": {"paths": ["/open"]}, "mode": "shadow", "access": "public"},
)
FORGED = {"x-auth-subject": "forged", "x-auth-scopes": "admin", "X_Auth_Subject": "forged"}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "missing_token"),
        ("", "malformed_request"),
        ("not.a.token", "malformed_token"),
        (good(), "insufficient_scope"),
        (good(exp=NOW - 100), "expired"),
        (good(nonce="n"), "id_token"),
        (good(client_id="other"), "client_not_allowed"),
        (Signer("RS256", "rs-forged").sign(claims(), {"kid": "rs"}), "bad_signature"),
        (OTHER_RS.sign(claims(iss="https://unknown.example/")), "unknown_issuer"),
    ],
)
def test_shadow_mode_lets_a_denied_request_through_without_identity_headers(token: str | None, reason: str) -> None:
    sent = FORGED if token is None else FORGED | {"authorization": f"Bearer {token}"}
    decision = SHADOW.decide("/v1/acme/a", **{name.lower(): value for name, value in sent.items()})
    assert isinstance(decision, Allow)
    assert (decision.reason, decision.rule, decision.mode, decision_label(decision)) == (reason, "r0", "shadow", "deny")
    assert decision.headers == ()
    assert {"x-auth-subject", "x-auth-scopes", "x_auth_subject"} <= set(decision.remove)
    assert decision.cause


def test_an_allowed_token_in_shadow_mode_fills_the_identity_headers() -> None:
    decision = SHADOW.decide("/v1/acme/a", good(scope="admin"))
    assert isinstance(decision, Allow)
    assert (decision.reason, decision.mode, decision_label(decision)) == ("ok", "shadow", "allow")
    assert dict(decision.headers) == {"x-auth-subject": "u1", "x-auth-scopes": "admin"}
    public = SHADOW.decide("/open")
    assert (public.reason, public.mode, decision_label(public)) == ("public", "shadow", "allow")


def test_a_denial_without_a_rule_is_enforced() -> None:
    for path, reason in (("/v1/acme/%2e%2e", "ambiguous_path"), ("/elsewhere", "no_rule")):
        decision = SHADOW.decide(path, good(scope="admin"))
        assert isinstance(decision, Deny)
        assert (decision.reason, decision.mode) == (reason, "enforce")


def test_a_shadow_decision_lets_through_even_if_keys_are_late_or_unavailable() -> None:
    rules = deciding({"mode": "shadow"})
    rules.sources["https://idp.example/"].published = None
    pending = rules.begin("/", RS.sign(claims(), {"kid": "unheard-of"}))
    assert isinstance(pending, Pending)
    late = rules.authorizer.too_late(pending)
    asyncio.run(pending.ready())
    unavailable = rules.authorizer.finish(pending, NOW)
    for decision, reason in ((late, "deadline_exceeded"), (unavailable, "keys_unavailable")):
        assert isinstance(decision, Allow)
        assert (decision.reason, decision.mode, decision_label(decision)) == (reason, "shadow", "deny")


_TOKENS = st.sampled_from(
    [None, "", "x", "a.b.c", good(), good(scope="admin"), good(aud="other"), good(exp=NOW), good(sub="a\nb")]
)


@settings(max_examples=200)
@given(_TOKENS, st.sampled_from(["/v1/acme/a", "/v1/x/..", "/open", "/none", "//"]), st.sampled_from(["GET", "get"]))
def test_shadow_mode_changes_enforcement_but_not_the_decision(token: str | None, path: str, method: str) -> None:
    rule = {"match": {"paths": ["/v1/{tenant}/**"]}, "require": {"scopes": ["admin"], "clients": ["app"]}}
    enforcing = deciding(rule, {"match": {"paths": ["/open"]}, "access": "public"})
    shadowed, enforced = SHADOW.decide(path, token, method=method), enforcing.decide(path, token, method=method)
    assert (shadowed.reason, shadowed.rule, decision_label(shadowed)) == (
        enforced.reason,
        enforced.rule,
        decision_label(enforced),
    )
    assert isinstance(shadowed, Allow) or shadowed.rule == "-"


# Conditions, with a token that verifies.

TENANTS = deciding(
    {
        "match": {"paths": ["/t/{tenant}/**"], "headers": {"x-api-version": "2"}},
        "require": {
            "scopes": ["read:{tenant}"],
            "claims": {
                "tenant": {"equals_path": "tenant"},
                "realm_access.roles": {"contains": "user"},
                r"https://example\.com/blocked": {"absent": True},
            },
        },
    },
    {"match": {"paths": ["/pay"]}, "require": {"max_auth_age": "15m", "acr_values": ["urn:mfa"]}},
)
MEMBER: dict[str, Any] = {"tenant": "acme", "scope": "read:acme", "realm_access": {"roles": ["user"]}}


@pytest.mark.parametrize(
    ("path", "changes", "reason"),
    [
        ("/t/acme/a", {}, "ok"),
        ("/t/acme", {}, "ok"),
        ("/t/%61cme/a", {}, "ok"),  # decoded, as the upstream reads it
        ("/t/other/a", {}, "claim_mismatch"),
        ("/t/other/a", {"tenant": "other"}, "insufficient_scope"),
        ("/t/ACME/a", {}, "claim_mismatch"),
        ("/t/acme/a", {"tenant": ["acme"]}, "claim_mismatch"),
        ("/t/acme/a", {"tenant": None}, "claim_mismatch"),
        ("/t/acme/a", {"realm_access": {"roles": ["admin"]}}, "claim_mismatch"),
        ("/t/acme/a", {"realm_access": {"roles": "user"}}, "ok"),  # a single role may be a string
        ("/t/acme/a", {"realm_access": {"roles": "users"}}, "claim_mismatch"),
        ("/t/acme/a", {"realm_access": ["roles"]}, "claim_mismatch"),
        ("/t/acme/a", {"https://example.com/blocked": True}, "claim_mismatch"),
        ("/t/acme/a", {"scope": "read:other"}, "insufficient_scope"),
        ("/t/%20/a", {"tenant": " ", "scope": "read: "}, "insufficient_scope"),
    ],
)
def test_a_token_reaches_only_its_own_tenant(path: str, changes: dict[str, Any], reason: str) -> None:
    decision = TENANTS.decide(path, good(**MEMBER | changes), **{"x-api-version": "2"})
    assert decision.reason == reason


def test_a_request_with_another_header_value_matches_another_rule_or_none() -> None:
    for version in ("1", "2,2", ""):
        assert TENANTS.decide("/t/acme/a", good(**MEMBER), **{"x-api-version": version}).reason == "no_rule"


VERSIONS = deciding(
    {"match": {"paths": ["/v1/**"], "headers": {"x-api-version": "2"}}, "require": {"scopes": ["strict"]}},
    {"match": {"paths": ["/v1/**"]}},
    {"policy": "routed", "access": "public"},
)


@pytest.mark.parametrize(
    ("sent", "rule", "reason"),
    [
        ({}, "r1", "ok"),
        ({"x-api-version": "1"}, "r1", "ok"),
        ({"x-api-version": "2"}, "r0", "insufficient_scope"),
        ({"x-api-version": " 2"}, "r0", "insufficient_scope"),
        ({"x-api-version": "\t2"}, "r0", "insufficient_scope"),
        ({"x-api-version": "2\t "}, "r0", "insufficient_scope"),
        ({"x-api-version": "2,2"}, "-", "no_rule"),
        ({"x-api-version": "1,2"}, "-", "no_rule"),
        ({"x-api-version": "1, 2"}, "-", "no_rule"),
        ({"x_api_version": "2"}, "-", "no_rule"),
        ({"x-api-version": "1", "x_api_version": "2"}, "-", "no_rule"),
        ({"x-api-version": "2\ufffd"}, "-", "no_rule"),
    ],
)
def test_a_header_condition_cannot_be_evaded_by_another_spelling_of_the_header(
    sent: dict[str, str], rule: str, reason: str
) -> None:
    decision = VERSIONS.decide("/v1/a", good(), **sent)
    assert (decision.rule, decision.reason) == (rule, reason)


@pytest.mark.parametrize(
    ("sent", "rule", "reason"),
    [
        ({"mcp-method": "tools/call", "mcp-name": "get_a"}, "r1", "missing_token"),
        ({"mcp-method": "tools/call", "mcp-name": "=?base64?Z2V0X2E=?="}, "r1", "missing_token"),
        ({"mcp-method": "tools/call", "mcp-name": "drop"}, "r2", "missing_token"),
        ({"mcp-method": "ping"}, "r2", "missing_token"),
        ({"mcp-method": "tools/call", "mcp-name": "get_a", "mcp-protocol-version": "2025-11-25"}, "-", "no_rule"),
        ({"mcp-method": "tools/call"}, "-", "malformed_request"),
        ({}, "-", "malformed_request"),
        ({"mcp-method": "tools/call", "mcp-name": "get_a,drop"}, "-", "malformed_request"),
        ({"mcp-method": "tools/call", "mcp-name": "get_a", "mcp_name": "drop"}, "-", "malformed_request"),
    ],
)
def test_mcp_messages_are_decided_by_method_and_name(sent: dict[str, str], rule: str, reason: str) -> None:
    rules = deciding(
        {"match": {"paths": ["/open"]}, "access": "public"},
        {"match": {"mcp": {"methods": ["tools/call"], "names": ["get_*"]}}},
        {"match": {"mcp": {"methods": ["*"]}}},
    )
    headers = {"mcp-protocol-version": "2026-07-28"} | sent
    decision = rules.decide("/mcp", None, **headers)
    assert isinstance(decision, Deny)
    assert (decision.rule, decision.reason) == (rule, reason)
    earlier = rules.decide("/open", None, **headers)
    assert isinstance(earlier, Allow)


def test_a_policy_does_not_precede_a_rule_with_an_ambiguous_header() -> None:
    sent = {"x-api-version": "2,2"}
    assert VERSIONS.decide("/v1/a", policy="routed", **sent).reason == "no_rule"
    assert VERSIONS.decide("/elsewhere", policy="routed", **sent).reason == "public"
    first = deciding({"policy": "routed", "access": "public"}, {"match": {"headers": {"x-api-version": "2"}}})
    assert first.decide("/v1/a", policy="routed", **sent).reason == "public"


# Parsing.


def test_each_pattern_of_a_configuration_is_parsed_once_between_loading_and_serving(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        """
        issuers: [{issuer: "https://idp.example/", audiences: [api]}]
        rules:
          - name: admin
            match: {hosts: [a.org, "*.b.org"], paths: ["/t/{tenant}/admin", "/t/{tenant}"], case_insensitive: true}
            require: {scopes: [admin], claims: {tenant: {equals_path: tenant}, realm_access.roles: {contains: admin}}}
          - {name: rest, match: {hosts: ["*.org"], paths: ["/t/**"]}}
          - {name: hidden, match: {hosts: [c.b.org], paths: ["/t/x"]}}
        """
    )
    parsers = {parse.__code__: parse.__name__ for parse in (parse_path_pattern, parse_host_pattern, parse_claim_path)}
    parsed: list[tuple[str, str]] = []

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in parsers:
            parsed.append((parsers[frame.f_code], frame.f_locals["text"]))

    sys.setprofile(count)
    try:
        settings, warnings = load_with_warnings(file)
        Policy(settings.rules, settings.issuers)
        mismatch.of(settings.rules[0], Attributes("GET", "a.org", "/x", {}), ("x",))
    finally:
        sys.setprofile(None)
    assert sorted(parsed) == [  # defaults are parsed when the settings are declared
        *(("parse_claim_path", text) for text in ("realm_access.roles", "tenant")),
        *(("parse_host_pattern", text) for text in ("*.b.org", "*.org", "a.org", "c.b.org")),
        *(("parse_path_pattern", text) for text in ("/t/**", "/t/x", "/t/{tenant}", "/t/{tenant}/admin")),
    ]
    assert any("is never reached" in warning for warning in warnings)


# Parameters.


@pytest.mark.parametrize(
    ("path", "policy", "rule", "reason"),
    [
        ("/v1/admin", "", "r0", "insufficient_scope"),
        ("/v1/admin;x=1", "", "-", "ambiguous_path"),
        ("/v1/admin%3Bx=1", "", "-", "ambiguous_path"),
        ("/v1/admin;", "", "-", "ambiguous_path"),
        ("/v1/;x", "", "-", "ambiguous_path"),
        ("/v1/map;v=1", "", "r2", "ok"),
        ("/v1/map%3Bv=1", "", "r2", "ok"),
        ("/v1/map;v=2", "", "-", "ambiguous_path"),
        ("/open/a;b", "", "-", "ambiguous_path"),
        ("/nowhere;b", "", "-", "ambiguous_path"),
        ("/nowhere", "routed", "r4", "public"),
        ("/nowhere;b", "routed", "-", "ambiguous_path"),
        ("/v1/map;v=1", "routed", "r2", "ok"),
    ],
)
def test_parameters_are_ambiguous_unless_a_pattern_has_them(path: str, policy: str, rule: str, reason: str) -> None:
    rules = deciding(
        {"match": {"paths": ["/v1/admin"]}, "require": {"scopes": ["admin"]}},
        {"match": {"paths": ["/v1/{id}"]}},
        {"match": {"paths": ["/v1/map;v=1"]}},
        {"match": {"paths": ["/open/**"]}, "access": "public"},
        {"policy": "routed", "access": "public"},
        {},
    )
    decision = rules.decide(path, good(), policy=policy)
    assert (decision.rule, decision.reason) == (rule, reason)


def test_a_case_insensitive_rule_leaves_no_spelling_to_a_laxer_one() -> None:
    rules = deciding(
        {"match": {"paths": ["/v1/admin"], "case_insensitive": True}, "require": {"scopes": ["admin"]}},
        {"match": {"paths": ["/v1/{id}"]}},
    )
    for path in ("/v1/admin", "/v1/ADMIN", "/V1/Admin", "/v1/%41dmin"):
        assert rules.decide(path, good()).reason == "insufficient_scope"
    assert rules.decide("/v1/administrator", good()).reason == "ok"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auth_time": NOW - 60, "acr": "urn:mfa"}, "ok"),
        ({"auth_time": NOW - 3600, "acr": "urn:mfa"}, "stale_authentication"),
        ({"acr": "urn:mfa"}, "stale_authentication"),
        ({"auth_time": NOW - 60, "acr": "urn:password"}, "weak_authentication"),
        ({"auth_time": NOW - 60}, "weak_authentication"),
        ({"auth_time": "yesterday", "acr": "urn:mfa"}, "invalid_claim"),
    ],
)
def test_a_stale_or_weak_authentication_causes_a_step_up_challenge(changes: dict[str, Any], reason: str) -> None:
    decision = TENANTS.decide("/pay", good(**changes))
    assert decision.reason == reason
    if isinstance(decision, Deny) and reason != "invalid_claim":
        assert 'max_age="900", acr_values="urn:mfa"' in decision.challenges[0]


def test_the_rules_are_evaluated_for_each_request_with_a_cached_token() -> None:
    token = good(**MEMBER, auth_time=NOW - 930, acr="urn:mfa")
    assert TENANTS.decide("/pay", token).reason == "ok"
    attributes = Attributes("GET", "a.example", "/pay", {"authorization": f"Bearer {token}"})
    later = TENANTS.authorizer.begin(attributes, NOW + 1)
    assert isinstance(later, Deny)
    assert later.reason == "stale_authentication"
    assert TENANTS.decide("/t/other/a", token, **{"x-api-version": "2"}).reason == "claim_mismatch"
