"""Requests are decided from their attributes to the decision, with real parts and a fake source of keys."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.claims import Identity, UnverifiedIdentity
from authz_service.core.decision import Allow, Decision, Deny
from authz_service.core.reasons import ALLOWANCES, DENIALS, Reason
from support.samples import sample_value
from support.signing import Signer
from support.trust import ISSUER, NOW, OTHER, OTHER_RS, RS, LocalAuthorizer, claims, good

RULES: list[dict[str, Any]] = [
    {"name": "read", "match": {"methods": ["GET"], "paths": ["/v1/{id}"]}, "require": {"scopes": ["a"]}},
    {"name": "write", "match": {"methods": ["POST"], "paths": ["/v1/{id}"]}, "require": {"scopes": ["w"]}},
    {"name": "greeting", "match": {"paths": ["/hello"]}, "access": "optional"},
    {"name": "fussy", "match": {"paths": ["/fussy"]}, "access": "optional", "require": {"scopes": ["w"]}},
    {"name": "public", "match": {"paths": ["/public/**"]}, "access": "public"},
    {"name": "host", "match": {"hosts": ["*.example.org"], "paths": ["/h"]}, "require": {"clients": ["web"]}},
    {"name": "theirs", "match": {"paths": ["/t"]}, "require": {"issuers": ["other"]}},
    {"name": "other-audience", "match": {"paths": ["/a"]}, "require": {"audiences": ["that"]}},
]
HEADERS = {"x-auth-subject": "sub", "x-auth-scopes": "scope", "x-tenant": "tenant"}
SPOOFED = {"x-auth-subject": "admin", "x_auth_subject": "admin", "x-auth.scopes": "all", "x-tenant": "evil"}
NEW = Signer("RS256", "new")
UNKNOWN = NEW.sign(claims())


def new() -> LocalAuthorizer:
    return LocalAuthorizer(RULES, HEADERS)


@pytest.fixture(scope="module")
def service() -> LocalAuthorizer:
    return new()


DECIDED: list[tuple[str, str | None, str, str, str]] = [
    ("/v1/7", good(), "GET", "read", "ok"),
    ("/v1/7?x=//", good(), "GET", "read", "ok"),
    ("/v1/%37", good(), "GET", "read", "ok"),
    ("/v1/7", None, "GET", "read", "missing_token"),
    ("/v1/7", None, "POST", "write", "missing_token"),
    ("/v1/7", good(), "POST", "write", "insufficient_scope"),
    ("/v1/7", good(), "PUT", "-", "no_rule"),
    ("/v1/7", good(), "get", "-", "no_rule"),
    ("/v1/7", good(), "", "-", "no_rule"),
    ("/v1/7/", good(), "GET", "-", "no_rule"),
    ("/V1/7", good(), "GET", "-", "no_rule"),
    ("/v1/%2e%2e", good(), "GET", "-", "ambiguous_path"),
    ("/public/%2e%2e/v1", None, "GET", "-", "ambiguous_path"),
    ("/public/..;/v1/7", good(), "GET", "-", "ambiguous_path"),
    ("", good(), "GET", "-", "ambiguous_path"),
    ("*", None, "OPTIONS", "-", "ambiguous_path"),
    ("/v1/7", good(exp=NOW - 60), "GET", "read", "expired"),
    ("/v1/7", good(aud="other"), "GET", "read", "wrong_audience"),
    ("/v1/7", good(nonce="x"), "GET", "read", "id_token"),
    ("/v1/7", good(iss="https://evil.example/"), "GET", "read", "unknown_issuer"),
    ("/v1/7", OTHER_RS.sign(claims(iss=OTHER)), "GET", "read", "ok"),
    ("/v1/7", "x" * 16_384, "GET", "read", "malformed_token"),
    ("/v1/7", "x" * 16_385, "GET", "read", "malformed_request"),
    ("/v1/7", "", "GET", "read", "malformed_request"),
    ("/v1/7", good(sub="a\nb"), "GET", "read", "invalid_claim"),
    ("/v1/7", good(tenant={"a": 1}), "GET", "read", "ok"),
    ("/hello", None, "GET", "greeting", "anonymous"),
    ("/hello", good(), "GET", "greeting", "ok"),
    ("/hello", good(exp=NOW - 60), "GET", "greeting", "expired"),
    ("/hello", good(aud="other"), "GET", "greeting", "wrong_audience"),
    ("/hello", "a,b", "GET", "greeting", "malformed_request"),
    ("/hello", "rubbish", "GET", "greeting", "malformed_token"),
    ("/fussy", None, "GET", "fussy", "anonymous"),
    ("/fussy", good(), "GET", "fussy", "insufficient_scope"),
    ("/public/x", None, "GET", "public", "public"),
    ("/public", None, "DELETE", "public", "public"),
    ("/public/x", "rubbish", "GET", "public", "public"),
    ("/public/x", good(exp=1), "GET", "public", "public"),
    ("/h", good(), "GET", "host", "client_not_allowed"),
    ("/h", good(client_id="web"), "GET", "host", "ok"),
    ("/t", good(), "GET", "theirs", "issuer_not_allowed"),
    ("/t", OTHER_RS.sign(claims(iss=OTHER)), "GET", "theirs", "ok"),
    ("/a", good(), "GET", "other-audience", "wrong_audience"),
    ("/a", good(aud=["that"]), "GET", "other-audience", "ok"),
    ("/none", None, "GET", "-", "no_rule"),
    ("/none", good(), "GET", "-", "no_rule"),
]


@pytest.mark.parametrize(("path", "token", "method", "rule", "reason"), DECIDED)
def test_a_request_is_decided_by_its_rule_with_its_reason(
    service: LocalAuthorizer, path: str, token: str | None, method: str, rule: str, reason: str
) -> None:
    decision = service.decide(path, token, method=method)
    assert (decision.rule, decision.reason) == (rule, reason)
    assert isinstance(decision, Allow) == (decision.reason in ALLOWANCES)


def test_a_decision_leaves_nothing_to_the_collector_of_cycles(service: LocalAuthorizer) -> None:
    """A client could otherwise make it run as often as it likes."""
    gc.collect()
    gc.disable()
    try:
        for path, token, method, _, _ in DECIDED:
            service.decide(path, token, method=method)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_another_scheme_counts_as_no_token(service: LocalAuthorizer) -> None:
    assert service.decide("/hello", authorization="Basic eDp5").reason == "anonymous"
    assert service.decide("/v1/7", authorization="Basic eDp5").reason == "missing_token"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (good(exp=NOW - 60), "expired"),
        (good(nbf=NOW + 600), "not_yet_valid"),
        (good(nonce="x"), "id_token"),
        (good(token_use="refresh"), "wrong_token_type"),
        (RS.sign(claims(), {"typ": "logout+jwt"}), "wrong_token_type"),
        (good(exp=None), "missing_claim"),
        (good(aud=7), "invalid_claim"),
        (good(cnf={"jwk": {}}), "unsupported_confirmation"),
    ],
)
def test_a_denial_of_a_verified_token_names_issuer_subject_and_client(token: str, reason: str) -> None:
    denied = new().decide("/v1/7", token)
    assert (denied.reason, denied.claims) == (reason, None)
    assert denied.identity == Identity("main", "u1", "app")


def test_a_denial_of_a_valid_token_has_its_claims() -> None:
    for path, method, reason in (("/a", "GET", "wrong_audience"), ("/v1/7", "POST", "insufficient_scope")):
        denied = new().decide(path, good(), method=method)
        assert denied.reason == reason
        assert denied.claims is not None
        assert denied.claims.identity == Identity("main", "u1", "app")


@pytest.mark.parametrize(
    ("changes", "subject", "client_id"),
    [
        ({"sub": None, "client_id": None}, "", ""),
        ({"sub": "a\nb", "client_id": "c\x7fd"}, "", ""),
        ({"sub": 7, "client_id": ["app"]}, "", ""),
        ({"sub": "x" * 300, "client_id": "y" * 300}, "x" * 256 + "...", "y" * 256 + "..."),
        ({"sub": "\u00e9\U0001f511", "client_id": "", "azp": "web"}, "\u00e9\U0001f511", "web"),
    ],
)
def test_the_identity_of_a_denied_token_has_only_well_formed_strings(
    changes: dict[str, Any], subject: str, client_id: str
) -> None:
    token = RS.sign({name: value for name, value in (claims() | changes).items() if value is not None} | {"exp": 1})
    assert new().decide("/v1/7", token).identity == Identity("main", subject, client_id)


@pytest.mark.parametrize(
    ("token", "reason", "issuer", "kid"),
    [
        (good(iss="https://evil.example/"), "unknown_issuer", "https://evil.example/", "rs"),
        (good(iss=["x"]), "unknown_issuer", ["x"], "rs"),
        (RS.sign(claims())[:-8] + "AAAAAAAA", "bad_signature", ISSUER, "rs"),
        (RS.sign(claims(), {"kid": "es"}), "unsupported_algorithm", ISSUER, "es"),
    ],
)
def test_a_denial_of_an_unverified_token_has_its_origin_as_unverified(
    token: str, reason: str, issuer: object, kid: str
) -> None:
    denied = new().decide("/v1/7", token)
    assert (denied.reason, denied.claims) == (reason, None)
    assert denied.identity == UnverifiedIdentity(issuer, kid)


def test_a_denial_of_a_token_that_is_not_one_has_no_identity() -> None:
    for token in (None, "rubbish", "a.b.c"):
        assert new().decide("/v1/7", token).identity is None


def test_a_denial_while_keys_are_awaited_or_missing_has_the_unverified_origin() -> None:
    service = new()
    pending = service.begin("/v1/7", UNKNOWN)
    assert isinstance(pending, Pending)
    assert service.authorizer.too_late(pending).identity == UnverifiedIdentity(ISSUER, "new")
    asyncio.run(pending.ready())
    unknown = service.authorizer.finish(pending, NOW)
    assert (unknown.reason, unknown.identity) == ("unknown_key", UnverifiedIdentity(ISSUER, "new"))


def test_a_shadow_rule_keeps_the_identity_of_the_token_that_it_would_deny() -> None:
    shadow = LocalAuthorizer([{"name": "all", "mode": "shadow"}], HEADERS)
    passed = shadow.decide("/", good(exp=NOW - 60))
    assert isinstance(passed, Allow)
    assert (passed.reason, passed.identity) == ("expired", Identity("main", "u1", "app"))


def test_a_wrong_audience_is_logged_with_the_audiences_that_are_accepted() -> None:
    assert new().decide("/a", good()).cause == "the token's audiences are ['api']; required: 'that'"
    several = LocalAuthorizer([{"name": "all", "require": {"audiences": list("edcba")}}], HEADERS)
    cause = several.decide("/", good(aud=["'", "\n", "x" * 500, "y"])).cause
    assert cause.startswith("""the token's audiences are ['\\n', "'", 'xxx""")
    assert cause.endswith("..., and 1 more]; required: one of ['a', 'b', 'c', and 2 more]")
    assert len(cause) < 300


@pytest.mark.parametrize("place", ["/v1/7?access_token={}", "/v1/7?authorization=Bearer%20{}"])
def test_a_token_is_read_from_the_authorization_header_only(service: LocalAuthorizer, place: str) -> None:
    sent = {"cookie": f"access_token={good()}", "x-authorization": f"Bearer {good()}", "proxy-authorization": good()}
    assert service.decide(place.format(good()), **sent).reason == "missing_token"


@pytest.mark.parametrize("name", ["authorization", "x-token", "x_token"])
def test_a_request_with_the_credential_of_any_rule_is_not_a_preflight(name: str) -> None:
    rules: list[dict[str, Any]] = [
        {"name": "other", "match": {"paths": ["/a"]}, "credential": {"header": "x-token"}},
        {"name": "things"},
    ]
    deciding = LocalAuthorizer(rules, HEADERS, allow_preflight=True)
    preflight = {"origin": "https://app.example", "access-control-request-method": "PUT"}
    assert deciding.decide("/b", method="OPTIONS", **preflight).reason == "preflight"
    assert deciding.decide("/b", method="OPTIONS", **preflight, **{name: "x"}).reason != "preflight"


def test_a_rule_reads_the_token_from_its_own_header() -> None:
    rules: list[dict[str, Any]] = [
        {"name": "access", "match": {"paths": ["/access"]}, "credential": {"header": "cf-access-jwt-assertion"}},
        {"name": "scheme", "match": {"paths": ["/scheme"]}, "credential": {"header": "X-Token", "scheme": "JWT"}},
        {"name": "things"},
    ]
    deciding = LocalAuthorizer(rules, HEADERS)
    in_access = {"cf-access-jwt-assertion": good()}
    assert deciding.decide("/access", **in_access).reason == "ok"
    assert deciding.decide("/access", good()).reason == "missing_token"
    assert deciding.decide("/access", **in_access, authorization="Basic x").reason == "ok"
    assert deciding.decide("/scheme", **{"x-token": f"jwt {good()}"}).reason == "ok"
    assert deciding.decide("/scheme", **{"x-token": good()}).reason == "missing_token"
    assert deciding.decide("/", **in_access).reason == "missing_token"
    denied = deciding.decide("/access")
    assert isinstance(denied, Deny)
    assert denied.challenges == ('Bearer realm="api"',)


def test_a_rule_applies_to_its_hosts_only(service: LocalAuthorizer) -> None:
    token = good(client_id="web")
    assert service.decide("/h", token, host="a.b.EXAMPLE.org.:8080").reason == "ok"
    assert service.decide("/h", token, host="example.org").reason == "no_rule"
    assert service.decide("/h", token, host="api.example.org@evil.example").reason == "no_rule"


@pytest.mark.parametrize("path", ["/v1/7", "/hello", "/public/x", "/none"])
def test_a_connection_header_that_removes_headers_is_malformed_under_every_rule(
    service: LocalAuthorizer, path: str
) -> None:
    decision = service.decide(path, good(), connection="upgrade, x-auth-subject", upgrade="websocket")
    assert isinstance(decision, Deny)
    assert (decision.rule, decision.reason) == ("-", "malformed_request")
    assert 'error="invalid_request"' in decision.challenges[0]
    assert service.decide("/v1/7", good(), connection="upgrade", upgrade="websocket").reason == "ok"


# Headers for the upstream.


@pytest.mark.parametrize(
    ("path", "token", "headers"),
    [
        ("/v1/7", good(), {"x-auth-subject": "u1", "x-auth-scopes": "a b"}),
        ("/v1/7", good(sub=None, tenant="acme"), {"x-auth-scopes": "a b", "x-tenant": "acme"}),
        ("/v1/7", good(sub=" u1", tenant=["a,b"]), {"x-auth-scopes": "a b"}),
        ("/hello", good(scope=None), {"x-auth-subject": "u1"}),
        ("/hello", None, {}),
        ("/public/x", None, {}),
        ("/public/x", good(), {}),
    ],
)
def test_no_spoofed_header_reaches_the_upstream(
    service: LocalAuthorizer, path: str, token: str | None, headers: dict[str, str]
) -> None:
    decision = service.decide(path, token, **SPOOFED, accept="*/*")
    assert isinstance(decision, Allow)
    assert dict(decision.headers) == headers
    assert set(decision.remove) == (set(HEADERS) | set(SPOOFED)) - set(headers)
    assert len(decision.remove) == len(set(decision.remove))


def test_each_request_without_a_header_that_its_token_cannot_fill_is_counted() -> None:
    deciding = new()

    def omitted(header: str) -> float | None:
        name = "authz_upstream_headers_omitted_total"
        return sample_value(deciding.metrics, name, {"header": header})

    for token, path in ((good(tenant=[""]), "/v1/7"), (good(tenant="acme"), "/v1/7"), (good(tenant=[""]), "/none")):
        deciding.decide(path, token)
        deciding.decide(path, token, x_tenant="evil")
    assert (omitted("x-tenant"), omitted("x-auth-subject")) == (2, None)


@pytest.mark.parametrize("path", ["/v1/7", "/hello", "/public/x"])
def test_the_token_is_removed_unless_it_is_forwarded(path: str) -> None:
    for forward in (True, False):
        decision = LocalAuthorizer(RULES, HEADERS, forward_authorization=forward).decide(path, good())
        assert isinstance(decision, Allow)
        assert ("authorization" in decision.remove) != forward


# Denials.


def test_a_denial_carries_the_claims_of_validated_tokens_only(service: LocalAuthorizer) -> None:
    decision = service.decide("/v1/7", good(), method="POST")
    assert decision.claims is not None
    assert (decision.claims.issuer, decision.claims.subject) == ("main", "u1")
    for unverified in (NEW.sign(claims(), {"kid": "rs"}), good(exp=1), good(nonce="x"), "x"):
        assert service.decide("/v1/7", unverified).claims is None
    assert service.decide("/public/x", good()).claims is None


def test_a_denial_has_the_challenge_of_its_rule(service: LocalAuthorizer) -> None:
    def challenge(path: str, token: str | None = None, method: str = "GET") -> str | None:
        decision = service.decide(path, token, method=method)
        assert isinstance(decision, Deny)
        return decision.challenges[0] if decision.challenges else None

    assert challenge("/v1/7") == 'Bearer realm="api", scope="a"'
    assert challenge("/v1/7", good(), "POST") == (
        'Bearer realm="api", error="insufficient_scope", error_description="'
        'The token does not carry the scope that this request needs", scope="w"'
    )
    assert challenge("/v1/7", good(exp=1)) == (
        'Bearer realm="api", error="invalid_token", error_description="The token has expired"'
    )
    assert challenge("/h", good()) is None
    assert challenge("/none") is None
    assert challenge("//") is None


# Keys that have to be fetched.


@pytest.mark.parametrize(
    ("published", "reason"), [((RS.jwk(), NEW.jwk()), "ok"), ((RS.jwk(),), "unknown_key"), (None, "keys_unavailable")]
)
def test_an_unknown_key_waits_for_one_fetch_and_is_decided_by_its_result(
    published: tuple[dict[str, Any], ...] | None, reason: str
) -> None:
    service = new()
    if published is None:
        service.sources["https://idp.example/"].published = None
    else:
        service.publish(*published)

    async def scenario() -> Decision:
        pending = service.begin("/v1/7", UNKNOWN)
        assert isinstance(pending, Pending)
        await pending.ready()
        return service.authorizer.finish(pending, NOW)

    decision = asyncio.run(scenario())
    assert (decision.reason, decision.rule) == (reason, "read")
    lookups = {
        result: sample_value(service.metrics, "authz_token_cache_lookups_total", {"result": result})
        for result in ("hit", "miss")
    }
    assert lookups == {"hit": 0, "miss": 1}  # one request is one lookup
    assert service.decide("/v1/7", UNKNOWN).reason == reason  # the next request does not wait
    if reason == "keys_unavailable":
        assert isinstance(decision, Deny)
        assert decision.retry_after is not None
        assert decision.challenges == ()


def test_a_token_whose_keys_are_unavailable_is_not_anonymous_where_a_token_is_optional() -> None:
    service = new()
    service.sources["https://idp.example/"].published = None
    pending = service.begin("/hello", UNKNOWN)
    assert isinstance(pending, Pending)
    asyncio.run(pending.ready())
    assert service.authorizer.finish(pending, NOW).reason == "keys_unavailable"


def test_a_fetch_that_takes_too_long_is_a_denial_with_retry_after(service: LocalAuthorizer) -> None:
    pending = service.begin("/v1/7", UNKNOWN)
    assert isinstance(pending, Pending)
    late = service.authorizer.too_late(pending)
    assert isinstance(late, Deny)
    assert (late.reason, late.rule, late.retry_after, late.challenges) == ("deadline_exceeded", "read", 1, ())
    assert "main" in late.cause


def test_a_public_rule_and_a_malformed_path_fetch_no_keys(service: LocalAuthorizer) -> None:
    for path in ("/public/x", "/none", "//"):
        assert not isinstance(service.begin(path, UNKNOWN), Pending)


def test_an_unexpected_exception_is_raised_and_is_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport turns it into an explicit denial; nothing before that handles it."""
    service = new()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(service.validator, "validate", fail)
    for path in ("/v1/7", "/hello"):
        with pytest.raises(RuntimeError, match="a fault"):
            service.decide(path, good())
    assert service.decide("/public/x", good()).reason == "public"


def test_a_need_in_the_last_attempt_is_a_fault(service: LocalAuthorizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = service.begin("/v1/7", UNKNOWN)
    assert isinstance(pending, Pending)
    monkeypatch.setattr(service.validator, "validate", lambda *_, **__: pending.need)
    with pytest.raises(AssertionError):
        service.authorizer.finish(pending, NOW)


# Properties.

_HOSTILE = new()
_POSSIBLE = {rule.name: set(rule.possible_reasons()) for rule in _HOSTILE.policy.rules}


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=60), st.text(max_size=80))
def test_any_request_without_a_valid_token_is_denied_where_one_is_required(
    method: str, host: str, path: str, authorization: str
) -> None:
    for target in (path, f"/v1/{path}", "/v1/7"):
        attributes = Attributes(method, host, target, {"authorization": authorization})
        decision = _HOSTILE.authorizer.begin(attributes, NOW)
        assert isinstance(decision, Deny) or decision.rule in {"public", "greeting", "fussy"}


_CHANGES: list[dict[str, Any]] = [
    {},
    {"scope": "w"},
    {"client_id": "web"},
    {"aud": "x"},
    {"exp": 1},
    {"exp": "x"},
    {"exp": None},
    {"nbf": NOW + 99},
]
_CHANGES += [{"nonce": ""}, {"sub": "\n"}, {"typ": "Refresh"}, {"iss": "x"}, {"iss": OTHER}]
_TOKENS = [
    *(good(**changes) for changes in _CHANGES),
    OTHER_RS.sign(claims(iss=OTHER)),
    UNKNOWN,
    NEW.sign(claims(), {"kid": "rs"}),
    NEW.sign(claims(), {"alg": "HS256"}),
    *("x", "", "a b"),
]


@settings(max_examples=300)
@given(
    path=st.sampled_from(["/v1/7", "/hello", "/fussy", "/public/x", "/h", "/t", "/a", "/none", "//"]),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    token=st.none() | st.sampled_from(_TOKENS),
    later=st.sampled_from([0, 600, 100_000]),
)
def test_every_reason_of_a_rule_is_declared_to_its_metrics(
    path: str, method: str, token: str | None, later: int
) -> None:
    sent = {} if token is None else {"authorization": f"Bearer {token}"}
    decision = _HOSTILE.authorizer.begin(Attributes(method, "x.example.org", path, sent), NOW + later)
    if isinstance(decision, Pending):
        decision = _HOSTILE.authorizer.finish(decision, NOW + later)
    if decision.rule == "-":
        assert decision.reason in {Reason.NO_RULE, Reason.AMBIGUOUS_PATH}
    else:
        assert decision.reason in _POSSIBLE[decision.rule]
    assert isinstance(decision, Allow) == (decision.reason in ALLOWANCES)
    if isinstance(decision, Deny):
        assert bool(decision.challenges) == DENIALS[decision.reason].challenged
        assert (decision.retry_after is not None) == (DENIALS[decision.reason].status == 503)
        assert not token or len(token) < 20 or token not in decision.cause


def test_from_a_tokens_second_request_on_its_response_is_cached_and_spoofed_headers_are_removed_from_each() -> None:
    service = LocalAuthorizer([{"name": "r"}, {"name": "s", "match": {"paths": ["/s"]}}], {"x-user": "sub"})
    first, second, third = (service.decide("/", good()) for _ in range(3))
    assert isinstance(first, Allow)
    assert isinstance(second, Allow)
    assert isinstance(third, Allow)
    assert first.cached is None
    assert second.cached is third.cached is not None
    assert first == second._replace(cached=None)
    spoofed = service.decide("/", good(), x_user="root")
    assert isinstance(spoofed, Allow)
    assert spoofed.remove == ("x_user",)
    assert spoofed.cached is None


def test_the_cached_responses_of_a_token_are_bounded() -> None:
    rules = [{"name": f"r{number}", "match": {"paths": [f"/{number}"]}} for number in range(50)]
    service = LocalAuthorizer(rules, {"x-user": "sub"})
    assert isinstance(service.decide("/0", good()), Allow)
    for number in range(50):
        assert isinstance(service.decide(f"/{number}", good()), Allow)
        assert 0 < len(service.validated(good()).responses) <= 8
