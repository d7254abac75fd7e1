"""Tokens that are introspected, from the request to the decision: which servers are queried, and what follows."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.claims import Identity
from authz_service.core.decision import Allow, Deny
from authz_service.tokens.jwt import jws
from support.fake_introspection import INACTIVE, FakeClient, IntrospectingAuthorizer, active_response, failure
from support.samples import sample_value
from support.signing import Signer, base64url
from support.trust import ISSUER, NOW, OTHER, OTHER_RS, RS, STRANGER, claims, good

JWE = ".".join(base64url(part) for part in (b'{"alg":"dir","enc":"A256GCM"}', b"", b"iv", b"text", b"tag"))
RULES: list[dict[str, Any]] = [
    {"name": "main", "match": {"paths": ["/main"]}, "require": {"issuers": ["main"]}},
    {"name": "other", "match": {"paths": ["/other"]}, "require": {"issuers": ["other"]}},
    {"name": "both", "match": {"paths": ["/both"]}, "require": {"issuers": ["other", "main"]}},
    {"name": "write", "match": {"paths": ["/write"]}, "require": {"scopes": ["w"]}},
    {"name": "optional", "match": {"paths": ["/optional"]}, "access": "optional"},
    {"name": "public", "match": {"paths": ["/public"]}, "access": "public"},
    {"name": "shadow", "match": {"paths": ["/shadow"]}, "mode": "shadow"},
    {"name": "any"},
]


def main_only(client: FakeClient | None = None, **options: Any) -> tuple[IntrospectingAuthorizer, FakeClient]:
    client = client or FakeClient(good=active_response())
    return IntrospectingAuthorizer({"main": client}, rules=RULES, **options), client


def both(main: FakeClient, other: FakeClient) -> IntrospectingAuthorizer:
    return IntrospectingAuthorizer({"main": main, "other": other}, rules=RULES)


# One request.


def test_an_unknown_token_waits_for_one_request_and_is_decided_synchronously_afterwards() -> None:
    service, client = main_only()

    async def scenario() -> None:
        pending = service.begin("/", "good")
        assert isinstance(pending, Pending)
        assert client.requests.total() == 0
        await pending.ready()
        decision = service.authorizer.finish(pending, NOW)
        assert isinstance(decision, Allow)
        assert decision.claims is not None
        assert (decision.claims.issuer, dict(decision.headers)) == ("main", {"x-auth-subject": "u1"})
        assert isinstance(service.begin("/", "good"), Allow)

    asyncio.run(scenario())
    assert client.requests == {"good": 1}


def test_responses_are_cached_and_each_rule_evaluates_them_again() -> None:
    service, client = main_only()
    assert [service.reason_of("good", path) for path in ("/", "/write", "/other", "/main")] == [
        *("ok", "insufficient_scope", "malformed_token", "ok")
    ]
    assert client.requests.total() == 1


def test_with_caching_off_the_current_response_decides() -> None:
    service, client = main_only(introspection={"cache_ttl": "0s", "negative_cache_ttl": "0s"})
    assert [service.reason_of(token) for token in ("good", "good", "bad", "bad")] == [
        "ok",
        "ok",
        "inactive",
        "inactive",
    ]
    assert client.requests == {"good": 2, "bad": 2}


def test_an_inactive_response_is_cached() -> None:
    service, client = main_only()
    assert [service.reason_of("bad") for _ in range(3)] == ["inactive"] * 3
    assert client.requests["bad"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (active_response(active="true"), "inactive"),
        (active_response(iss=OTHER), "unknown_issuer"),
        (active_response(aud="other"), "wrong_audience"),
        (active_response(aud=None), "wrong_audience"),
        (active_response(exp=NOW - 60), "expired"),
        (active_response(exp=None), "missing_claim"),
        (active_response(nonce="n"), "id_token"),
        (active_response(token_type="refresh_token"), "wrong_token_type"),
        (failure(), "introspection_unavailable"),
    ],
)
def test_active_alone_allows_nothing(answer: Any, reason: str) -> None:
    service, _ = main_only(FakeClient(odd=answer))
    assert service.reason_of("odd") == reason


def test_an_unavailable_server_is_a_503_with_retry_after_and_no_challenge() -> None:
    service, _ = main_only(FakeClient(x=failure(retry_after=20.0)))
    decision = asyncio.run(service.decide_after_waiting("/", "x"))
    assert isinstance(decision, Deny)
    assert (decision.reason, decision.retry_after, decision.challenges) == ("introspection_unavailable", 20, ())
    assert "main" in decision.cause


def test_a_response_after_the_deadline_is_a_denial_with_retry_after() -> None:
    service, _ = main_only()
    pending = service.begin("/", "good")
    assert isinstance(pending, Pending)
    late = service.authorizer.too_late(pending)
    assert isinstance(late, Deny)
    assert (late.reason, late.retry_after) == ("deadline_exceeded", 1)
    assert late.cause == "introspection at main did not finish before the deadline"


def test_an_inactive_token_is_not_anonymous_where_a_token_is_optional() -> None:
    service, _ = main_only(FakeClient(x=failure()))
    assert service.reason_of("bad", "/optional") == "inactive"
    assert service.reason_of("x", "/optional") == "introspection_unavailable"


def test_a_public_rule_introspects_nothing_and_shadow_mode_reports_the_denial() -> None:
    service, client = main_only()
    assert service.reason_of("good", "/public") == "public"
    assert client.requests.total() == 0
    decision = asyncio.run(service.decide_after_waiting("/shadow", "bad"))
    assert isinstance(decision, Allow)
    assert decision.reason == "inactive"


def test_the_repr_of_a_pending_decision_contains_no_token() -> None:
    service, _ = main_only()
    pending = service.begin("/", "a-secret-token")
    assert isinstance(pending, Pending)
    assert "a-secret-token" not in repr(pending.need)


# Which tokens are opaque.


@pytest.mark.parametrize(
    "token", ["a.b.c", "a.b", "a", "a.b.c.d", JWE, "..", "a==", "0/+~_-", "e30.e", "W10.e.e", "Ik.e.e"]
)
def test_an_opaque_token_is_introspected(token: str) -> None:
    service, client = main_only()
    assert service.reason_of(token) == "inactive"
    assert client.requests == {token: 1}


def jwt_with_header(header: bytes, separator: str = "") -> str:
    return f"{base64url(header)}{separator}.{base64url(json.dumps(claims()).encode())}.{base64url(b'signature')}"


JWTS = {
    "good": good(),
    "expired": good(exp=NOW - 60),
    "of an unknown issuer": good(iss="https://evil.example/"),
    "without issuer": good(iss=None),
    "by an unknown key": STRANGER.sign(claims(), {"kid": "rs"}),
    "HS256": RS.sign(claims(), {"alg": "HS256"}),
    "unsecured": jwt_with_header(b'{"alg":"none"}').rpartition(".")[0] + ".",
    "empty header": jwt_with_header(b"{}"),
    "empty parts": base64url(b"{}") + "..",
    "duplicate members": jwt_with_header(b'{"alg":"RS256","alg":"RS256"}'),
    "padded": jwt_with_header(b'{"alg":"RS256" }', "="),
    "with space": jwt_with_header(b'\n{"alg":"RS256"}'),
    "UTF-16": jwt_with_header('{"alg":"RS256"}'.encode("utf-16-le")),
    "byte order mark": jwt_with_header(b"\xef\xbb\xbf{}"),
    "not a number": jwt_with_header(b'{"alg":NaN}'),
    "huge number": jwt_with_header(b'{"x":' + b"1" * 5000 + b"}"),
    "deep": jwt_with_header(b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "deeper than any": jwt_with_header(b'{"x":' + b"[" * 5500 + b"]" * 5500 + b"}"),
    "control characters": jwt_with_header(b'{"x":"\t"}'),
    "other alphabet": jwt_with_header(b'{"alg":"RS256","x":"???>>>"}').replace("_", "/").replace("-", "+"),
}  # fmt: skip


@pytest.mark.parametrize("name", JWTS)
def test_what_any_reader_takes_for_a_jwt_is_not_introspected_by_default(name: str) -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    service = both(client, client)
    assert (service.reason_of(JWTS[name]) == "ok") == (name == "good")
    assert client.requests.total() == 0


@pytest.mark.parametrize("token", ["a,b", "a;b", "ü", "a=b", "=", "a\x80", '"', "a\\b", "a%20b", "{}", "a:b"])
def test_a_token_of_invalid_characters_is_malformed_and_not_introspected(token: str) -> None:
    service, client = main_only()
    assert service.reason_of(token) in {"malformed_token", "malformed_request"}
    assert client.requests.total() == 0


def test_without_an_introspection_server_an_opaque_token_is_malformed() -> None:
    service, client = main_only()
    assert [service.reason_of(token, "/other") for token in ("good", JWE, "a.b.c")] == ["malformed_token"] * 3
    assert IntrospectingAuthorizer({}).reason_of("good") == "malformed_token"
    assert client.requests.total() == 0


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9._~+/-]{1,40}=*", fullmatch=True))
def test_any_string_is_a_jwt_or_opaque(token: str) -> None:
    if jws.is_jwt(token):
        assert token.count(".") == 2


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_any_json_object_is_the_header_of_a_jwt(header: dict[str, Any]) -> None:
    encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).decode()
    assert jws.is_jwt(f"{encoded}.x.y")
    assert jws.is_jwt(f"{encoded.rstrip('=')}..")
    assert not jws.is_jwt(f"{encoded}.x")
    assert not jws.is_jwt(f"{encoded}.x.y.z.z")


# Which servers are queried.


def test_servers_are_queried_in_file_order_up_to_the_first_active_response() -> None:
    main, other = FakeClient(a=active_response()), FakeClient(a=active_response(), b=active_response(sub="u2"))
    service = both(main, other)
    assert [service.reason_of(token, "/both") for token in "abc"] == ["ok", "ok", "inactive"]
    assert (main.requests, other.requests) == ({"a": 1, "b": 1, "c": 1}, {"b": 1, "c": 1})


def test_only_the_issuers_of_the_rule_are_queried_and_a_response_counts_for_its_issuer_only() -> None:
    main, other = FakeClient(a=active_response()), FakeClient(b=active_response())
    service = both(main, other)
    assert service.reason_of("a", "/main") == "ok"
    assert service.reason_of("a", "/other") == "inactive"
    assert service.reason_of("b", "/main") == "inactive"
    assert service.reason_of("b", "/other") == "ok"
    assert service.reason_of("a", "/both") == service.reason_of("b", "/both") == "ok"
    assert (main.requests, other.requests) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})


def test_an_active_response_decides_while_an_inactive_one_has_expired() -> None:
    main, other = FakeClient(), FakeClient(b=active_response())
    service = both(main, other)
    assert service.reason_of("b") == "ok"
    service.clock.now += 15  # negative_cache_ttl has passed, cache_ttl has not
    decision = service.authorizer.begin(request("b"), service.clock.now)
    assert isinstance(decision, Allow)
    assert main.requests == {"b": 1}


def request(token: str) -> Any:
    return Attributes("GET", "api.example", "/", {"authorization": f"Bearer {token}"}, "")


@pytest.mark.parametrize(
    ("main", "other", "reason"),
    [
        (failure(), active_response(), "ok"),
        (failure(), {"active": False}, "introspection_unavailable"),
        ({"active": False}, failure(), "introspection_unavailable"),
        (failure(), failure(), "introspection_unavailable"),
        ({"active": False}, {"active": False}, "inactive"),
        (active_response(nonce="n"), active_response(), "id_token"),
        (failure(), active_response(nonce="n"), "id_token"),
    ],
)
def test_a_failure_is_not_inactive_and_the_first_active_response_decides(main: Any, other: Any, reason: str) -> None:
    service = both(FakeClient(x=main), FakeClient(x=other))
    assert service.reason_of("x") == reason
    if reason != "introspection_unavailable":
        assert service.reason_of("x") == reason


def test_only_the_server_that_failed_is_queried_again() -> None:
    main, other = FakeClient(), FakeClient(x=failure())
    service = both(main, other)
    for _ in range(3):
        assert service.reason_of("x") == "introspection_unavailable"
    assert (main.requests["x"], other.requests["x"]) == (1, 3)


# JWTs that have to be active (mode: always).


def always(client: FakeClient, **options: Any) -> IntrospectingAuthorizer:
    return IntrospectingAuthorizer({"main": client}, rules=RULES, introspection={"mode": "always"}, **options)


def test_a_verified_jwt_is_accepted_while_it_is_active() -> None:
    client = FakeClient()
    client.response_to_all = {"active": True}
    service = always(client)
    assert [service.reason_of(good()) for _ in range(3)] == ["ok"] * 3
    assert client.requests.total() == 1
    client.response_to_all = {"active": False}
    assert service.reason_of(good()) == "ok"
    service.clock.now += 30
    decision = asyncio.run(reason_at_clock(service, good()))
    assert decision == "inactive"


async def reason_at_clock(service: IntrospectingAuthorizer, token: str) -> str:
    """The reason of the decision at the time of the service's clock."""
    decision = service.authorizer.begin(request(token), service.clock.now)
    if isinstance(decision, Pending):
        await decision.ready()
        decision = service.authorizer.finish(decision, service.clock.now)
    return decision.reason.value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"active": False}, "inactive"),
        ({"active": "true"}, "inactive"),
        (active_response(sub="u2"), "inactive"),
        (active_response(client_id="other"), "inactive"),
        (active_response(iss=OTHER), "inactive"),
        (active_response(exp=NOW - 60), "inactive"),
        (failure(), "introspection_unavailable"),
    ],
)
def test_a_verified_jwt_that_is_not_confirmed_is_rejected(answer: Any, reason: str) -> None:
    client = FakeClient()
    client.response_to_all = answer
    service = always(client)
    assert [service.reason_of(good()) for _ in range(2)] == [reason] * 2


@pytest.mark.parametrize("answer", [INACTIVE, active_response(sub="u2"), failure()])
def test_a_denial_of_a_verified_jwt_that_is_not_confirmed_names_whose_it_is(answer: Any) -> None:
    client = FakeClient()
    client.response_to_all = answer
    service = always(client)
    pending = service.begin("/", good())
    assert isinstance(pending, Pending)
    asyncio.run(pending.ready())
    decisions = service.authorizer.too_late(pending), service.authorizer.finish(pending, NOW)
    assert [each.identity for each in decisions] == [Identity("main", "u1", "app")] * 2


@pytest.mark.parametrize(
    "token",
    [
        good(exp=NOW - 60),
        good(nonce="n"),
        STRANGER.sign(claims(), {"kid": "rs"}),
        good(iss=OTHER),
        good()[:-6],
        JWTS["unsecured"],
    ],
)
def test_a_jwt_that_does_not_verify_is_not_introspected(token: str) -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    assert always(client).reason_of(token) != "ok"
    assert client.requests.total() == 0


def test_a_jwt_of_an_issuer_without_introspection_is_not_introspected() -> None:
    client = FakeClient()
    assert always(client).reason_of(OTHER_RS.sign(claims(iss=OTHER))) == "ok"
    assert client.requests.total() == 0


def test_mode_always_introspects_opaque_tokens_as_well() -> None:
    assert always(FakeClient(good=active_response())).reason_of("good") == "ok"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(active_response(), "ok"), ({"active": False}, "inactive"), (failure(), "introspection_unavailable")],
)
def test_a_jwt_by_an_unknown_key_waits_for_the_key_and_then_for_introspection(answer: Any, reason: str) -> None:
    new = Signer("RS256", "new")
    client = FakeClient()
    client.response_to_all = answer
    service = always(client)
    service.publish(RS.jwk(), new.jwk())
    assert service.reason_of(new.sign(claims())) == reason
    assert client.requests.total() == 1


def test_a_jwt_by_a_key_that_is_not_published_is_not_introspected() -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    service = always(client)
    assert service.reason_of(STRANGER.sign(claims())) == "unknown_key"
    service.sources[ISSUER].published = None
    assert service.reason_of(Signer("RS256", "other").sign(claims())) in {"unknown_key", "keys_unavailable"}
    assert client.requests.total() == 0


def test_the_cause_of_a_late_decision_names_what_it_waited_for() -> None:
    client = FakeClient()
    service = always(client)
    new = Signer("RS256", "new")
    service.publish(RS.jwk(), new.jwk())

    async def scenario() -> tuple[str, str]:
        client.hold()
        pending = service.begin("/", new.sign(claims()))
        assert isinstance(pending, Pending)
        before = service.authorizer.too_late(pending).cause
        waiting = asyncio.create_task(pending.ready())
        for _ in range(20):
            await asyncio.sleep(0)
        after = service.authorizer.too_late(pending).cause
        client.release()
        await waiting
        return before, after

    assert asyncio.run(scenario()) == (
        "keys of main did not finish before the deadline",
        "introspection at main did not finish before the deadline",
    )


def test_a_jwt_whose_key_left_the_key_set_is_rejected_although_it_is_active() -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    service = always(client)
    assert service.reason_of(good()) == "ok"
    service.publish(STRANGER.jwk())
    service.refresh()
    assert service.reason_of(good()) == "unknown_key"


# Without keys.


def test_an_issuer_without_keys_has_opaque_tokens_only() -> None:
    service, client = main_only(keys={"discovery": False})
    assert service.reason_of("good") == "ok"
    assert service.reason_of(good()) == "unknown_key"
    assert service.reason_of(RS.sign(claims(), {"kid": None})) == "unknown_key"
    assert client.requests == {"good": 1}


# Metrics.


def test_the_metrics_of_the_jwt_cache_count_no_opaque_tokens() -> None:
    service, _ = main_only()
    for token in ("good", "good", "bad", good()):
        service.reason_of(token)
    looked_up = partial(sample_value, service.metrics)
    assert looked_up("authz_token_cache_lookups_total", {"result": "miss"}) == 1
    own = {
        result: looked_up("authz_introspection_cache_lookups_total", {"issuer": "main", "result": result})
        for result in ("hit", "miss")
    }
    assert own == {"hit": 1, "miss": 2}


def test_a_rule_declares_the_reasons_of_introspection_only_if_it_can_introspect() -> None:
    service, _ = main_only()
    possible = {rule.name: set(rule.possible_reasons()) for rule in service.policy.rules}
    assert {"inactive", "introspection_unavailable"} <= possible["any"] & possible["main"]
    assert not {"inactive", "introspection_unavailable"} & (possible["other"] | possible["public"])
