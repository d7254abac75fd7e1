"""Opaque tokens, from the request to the decision: who is asked, in which order, and what follows."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.core.decision import Allow, Deny
from authz_service.tokens.jwt import jws
from support.signing import Signer, base64url
from support.trust import ISSUER, NOW, OTHER, RS, STRANGER, THEIRS, claims, good
from tokens.introspection.servers import Asking, FakeClient, failure, said

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


def main_only(client: FakeClient | None = None, **options: Any) -> tuple[Asking, FakeClient]:
    client = client or FakeClient(good=said())
    return Asking({"main": client}, rules=RULES, **options), client


def both(main: FakeClient, other: FakeClient) -> Asking:
    return Asking({"main": main, "other": other}, rules=RULES)


# The way of one request.


def test_an_unknown_token_waits_for_one_request_and_is_decided_synchronously_afterwards() -> None:
    asking, client = main_only()

    async def story() -> None:
        pending = asking.begin("/", "good")
        assert isinstance(pending, Pending)
        assert client.asked.total() == 0
        await pending.ready()
        decision = asking.authorizer.finish(pending, NOW)
        assert isinstance(decision, Allow)
        assert decision.claims is not None
        assert (decision.claims.issuer, dict(decision.headers)) == ("main", {"x-auth-subject": "u1"})
        assert isinstance(asking.begin("/", "good"), Allow)

    asyncio.run(story())
    assert client.asked == {"good": 1}


def test_responses_are_cached_and_each_rule_evaluates_them_again() -> None:
    asking, client = main_only()
    assert [asking.reason_of("good", path) for path in ("/", "/write", "/other", "/main")] == [
        *("ok", "insufficient_scope", "malformed_token", "ok")
    ]
    assert client.asked.total() == 1


def test_with_caching_off_the_current_response_decides() -> None:
    asking, client = main_only(introspection={"cache_ttl": "0s", "negative_cache_ttl": "0s"})
    assert [asking.reason_of(token) for token in ("good", "good", "bad", "bad")] == ["ok", "ok", "inactive", "inactive"]
    assert client.asked == {"good": 2, "bad": 2}


def test_an_inactive_response_is_cached() -> None:
    asking, client = main_only()
    assert [asking.reason_of("bad") for _ in range(3)] == ["inactive"] * 3
    assert client.asked["bad"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said(active="true"), "inactive"),
        (said(iss=OTHER), "unknown_issuer"),
        (said(aud="other"), "wrong_audience"),
        (said(aud=None), "wrong_audience"),
        (said(exp=NOW - 60), "expired"),
        (said(exp=None), "missing_claim"),
        (said(nonce="n"), "id_token"),
        (said(token_type="refresh_token"), "wrong_token_type"),
        (failure(), "introspection_unavailable"),
    ],
)
def test_active_alone_allows_nothing(answer: Any, reason: str) -> None:
    asking, _ = main_only(FakeClient(odd=answer))
    assert asking.reason_of("odd") == reason


def test_an_unavailable_server_is_a_503_with_retry_after_and_no_challenge() -> None:
    asking, _ = main_only(FakeClient(x=failure(retry_after=20.0)))
    decision = asyncio.run(asking.ask("/", "x"))
    assert isinstance(decision, Deny)
    assert (decision.reason, decision.retry_after, decision.challenge) == ("introspection_unavailable", 20, None)
    assert "main" in decision.cause


def test_a_response_after_the_deadline_is_a_denial_with_retry_after() -> None:
    asking, _ = main_only()
    pending = asking.begin("/", "good")
    assert isinstance(pending, Pending)
    late = asking.authorizer.too_late(pending)
    assert isinstance(late, Deny)
    assert (late.reason, late.retry_after) == ("deadline_exceeded", 1)
    assert late.cause == "introspection at main did not finish before the deadline"


def test_an_inactive_token_is_not_anonymous_where_a_token_is_optional() -> None:
    asking, _ = main_only(FakeClient(x=failure()))
    assert asking.reason_of("bad", "/optional") == "inactive"
    assert asking.reason_of("x", "/optional") == "introspection_unavailable"


def test_a_public_rule_introspects_nothing_and_shadow_mode_reports_the_denial() -> None:
    asking, client = main_only()
    assert asking.reason_of("good", "/public") == "public"
    assert client.asked.total() == 0
    decision = asyncio.run(asking.ask("/shadow", "bad"))
    assert isinstance(decision, Allow)
    assert decision.reason == "inactive"


def test_the_repr_of_a_pending_decision_contains_no_token() -> None:
    asking, _ = main_only()
    pending = asking.begin("/", "a-secret-token")
    assert isinstance(pending, Pending)
    assert "a-secret-token" not in repr(pending.need)


# Which tokens.


@pytest.mark.parametrize(
    "token", ["a.b.c", "a.b", "a", "a.b.c.d", JWE, "..", "a==", "0/+~_-", "e30.e", "W10.e.e", "Ik.e.e"]
)
def test_an_opaque_token_is_introspected(token: str) -> None:
    asking, client = main_only()
    assert asking.reason_of(token) == "inactive"
    assert client.asked == {token: 1}


def headed(header: bytes, separator: str = "") -> str:
    return f"{base64url(header)}{separator}.{base64url(json.dumps(claims()).encode())}.{base64url(b'signature')}"


JWTS = {
    "good": good(),
    "expired": good(exp=NOW - 60),
    "of nobody": good(iss="https://evil.example/"),
    "without issuer": good(iss=None),
    "by a strange key": STRANGER.sign(claims(), {"kid": "rs"}),
    "HS256": RS.sign(claims(), {"alg": "HS256"}),
    "unsecured": headed(b'{"alg":"none"}').rpartition(".")[0] + ".",
    "empty header": headed(b"{}"),
    "empty parts": base64url(b"{}") + "..",
    "duplicate members": headed(b'{"alg":"RS256","alg":"RS256"}'),
    "padded": headed(b'{"alg":"RS256" }', "="),
    "with space": headed(b'\n{"alg":"RS256"}'),
    "UTF-16": headed('{"alg":"RS256"}'.encode("utf-16-le")),
    "byte order mark": headed(b"\xef\xbb\xbf{}"),
    "not a number": headed(b'{"alg":NaN}'),
    "huge number": headed(b'{"x":' + b"1" * 5000 + b"}"),
    "deep": headed(b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "deeper than any": headed(b'{"x":' + b"[" * 5500 + b"]" * 5500 + b"}"),
    "control characters": headed(b'{"x":"\t"}'),
    "other alphabet": headed(b'{"alg":"RS256","x":"???>>>"}').replace("_", "/").replace("-", "+"),
}  # fmt: skip


@pytest.mark.parametrize("name", JWTS)
def test_what_any_reader_takes_for_a_jwt_is_not_introspected_by_default(name: str) -> None:
    client = FakeClient()
    client.every = said()
    asking = both(client, client)
    assert (asking.reason_of(JWTS[name]) == "ok") == (name == "good")
    assert client.asked.total() == 0


@pytest.mark.parametrize("token", ["a,b", "a;b", "ü", "a=b", "=", "a\x80", '"', "a\\b", "a%20b", "{}", "a:b"])
def test_a_token_of_invalid_characters_is_malformed_and_not_introspected(token: str) -> None:
    asking, client = main_only()
    assert asking.reason_of(token) in {"malformed_token", "malformed_request"}
    assert client.asked.total() == 0


def test_without_an_introspection_server_an_opaque_token_is_malformed() -> None:
    asking, client = main_only()
    assert [asking.reason_of(token, "/other") for token in ("good", JWE, "a.b.c")] == ["malformed_token"] * 3
    assert Asking({}).reason_of("good") == "malformed_token"
    assert client.asked.total() == 0


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


# Whom to ask.


def test_servers_are_queried_in_file_order_up_to_the_first_active_response() -> None:
    main, other = FakeClient(a=said()), FakeClient(a=said(), b=said(sub="u2"))
    asking = both(main, other)
    assert [asking.reason_of(token, "/both") for token in "abc"] == ["ok", "ok", "inactive"]
    assert (main.asked, other.asked) == ({"a": 1, "b": 1, "c": 1}, {"b": 1, "c": 1})


def test_only_the_issuers_of_the_rule_are_queried_and_a_response_counts_for_its_issuer_only() -> None:
    main, other = FakeClient(a=said()), FakeClient(b=said())
    asking = both(main, other)
    assert asking.reason_of("a", "/main") == "ok"
    assert asking.reason_of("a", "/other") == "inactive"
    assert asking.reason_of("b", "/main") == "inactive"
    assert asking.reason_of("b", "/other") == "ok"
    assert asking.reason_of("a", "/both") == asking.reason_of("b", "/both") == "ok"
    assert (main.asked, other.asked) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})


def test_an_active_response_decides_while_an_inactive_one_has_expired() -> None:
    main, other = FakeClient(), FakeClient(b=said())
    asking = both(main, other)
    assert asking.reason_of("b") == "ok"
    asking.clock.now += 15  # negative_cache_ttl has passed, cache_ttl has not
    decision = asking.authorizer.begin(request("b"), asking.clock.now)
    assert isinstance(decision, Allow)
    assert main.asked == {"b": 1}


def request(token: str) -> Any:
    from authz_service.core.attributes import Attributes  # noqa: PLC0415

    return Attributes("GET", "api.example", "/", {"authorization": f"Bearer {token}"}, "")


@pytest.mark.parametrize(
    ("main", "other", "reason"),
    [
        (failure(), said(), "ok"),
        (failure(), {"active": False}, "introspection_unavailable"),
        ({"active": False}, failure(), "introspection_unavailable"),
        (failure(), failure(), "introspection_unavailable"),
        ({"active": False}, {"active": False}, "inactive"),
        (said(nonce="n"), said(), "id_token"),
        (failure(), said(nonce="n"), "id_token"),
    ],
)
def test_a_failure_is_not_inactive_and_the_first_active_response_decides(main: Any, other: Any, reason: str) -> None:
    asking = both(FakeClient(x=main), FakeClient(x=other))
    assert asking.reason_of("x") == reason
    if reason != "introspection_unavailable":
        assert asking.reason_of("x") == reason


def test_only_the_server_that_failed_is_queried_again() -> None:
    main, other = FakeClient(), FakeClient(x=failure())
    asking = both(main, other)
    for _ in range(3):
        assert asking.reason_of("x") == "introspection_unavailable"
    assert (main.asked["x"], other.asked["x"]) == (1, 3)


# JWTs whose issuer wants to be asked about them.


def always(client: FakeClient, **options: Any) -> Asking:
    return Asking({"main": client}, rules=RULES, introspection={"mode": "always"}, **options)


def test_a_verified_jwt_is_accepted_while_it_is_active() -> None:
    client = FakeClient()
    client.every = {"active": True}
    asking = always(client)
    assert [asking.reason_of(good()) for _ in range(3)] == ["ok"] * 3
    assert client.asked.total() == 1
    client.every = {"active": False}
    assert asking.reason_of(good()) == "ok"
    asking.clock.now += 30
    decision = asyncio.run(late(asking, good()))
    assert decision == "inactive"


async def late(asking: Asking, token: str) -> str:
    """The reason of a decision at the time of the clock."""
    decision = asking.authorizer.begin(request(token), asking.clock.now)
    if isinstance(decision, Pending):
        await decision.ready()
        decision = asking.authorizer.finish(decision, asking.clock.now)
    return decision.reason.value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"active": False}, "inactive"),
        ({"active": "true"}, "inactive"),
        (said(sub="u2"), "inactive"),
        (said(client_id="other"), "inactive"),
        (said(iss=OTHER), "inactive"),
        (said(exp=NOW - 60), "inactive"),
        (failure(), "introspection_unavailable"),
    ],
)
def test_a_verified_jwt_that_is_not_confirmed_is_rejected(answer: Any, reason: str) -> None:
    client = FakeClient()
    client.every = answer
    asking = always(client)
    assert [asking.reason_of(good()) for _ in range(2)] == [reason] * 2


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
    client.every = said()
    assert always(client).reason_of(token) != "ok"
    assert client.asked.total() == 0


def test_a_jwt_of_an_issuer_without_introspection_is_not_introspected() -> None:
    client = FakeClient()
    assert always(client).reason_of(THEIRS.sign(claims(iss=OTHER))) == "ok"
    assert client.asked.total() == 0


def test_mode_always_introspects_opaque_tokens_as_well() -> None:
    assert always(FakeClient(good=said())).reason_of("good") == "ok"


@pytest.mark.parametrize(
    ("answer", "reason"), [(said(), "ok"), ({"active": False}, "inactive"), (failure(), "introspection_unavailable")]
)
def test_a_jwt_by_an_unknown_key_waits_for_the_key_and_then_for_introspection(answer: Any, reason: str) -> None:
    new = Signer("RS256", "new")
    client = FakeClient()
    client.every = answer
    asking = always(client)
    asking.publish(RS.jwk(), new.jwk())
    assert asking.reason_of(new.sign(claims())) == reason
    assert client.asked.total() == 1


def test_a_jwt_by_a_key_that_is_not_published_is_not_introspected() -> None:
    client = FakeClient()
    client.every = said()
    asking = always(client)
    assert asking.reason_of(STRANGER.sign(claims())) == "unknown_key"
    asking.sources[ISSUER].published = None
    assert asking.reason_of(Signer("RS256", "other").sign(claims())) in {"unknown_key", "keys_unavailable"}
    assert client.asked.total() == 0


def test_the_cause_of_a_late_decision_names_what_it_waited_for() -> None:
    client = FakeClient()
    asking = always(client)
    new = Signer("RS256", "new")
    asking.publish(RS.jwk(), new.jwk())

    async def story() -> tuple[str, str]:
        client.hold()
        pending = asking.begin("/", new.sign(claims()))
        assert isinstance(pending, Pending)
        before = asking.authorizer.too_late(pending).cause
        waiting = asyncio.create_task(pending.ready())
        for _ in range(20):
            await asyncio.sleep(0)
        after = asking.authorizer.too_late(pending).cause
        client.release()
        await waiting
        return before, after

    assert asyncio.run(story()) == (
        "keys of main did not finish before the deadline",
        "introspection at main did not finish before the deadline",
    )


def test_a_jwt_whose_key_left_the_key_set_is_rejected_although_it_is_active() -> None:
    client = FakeClient()
    client.every = said()
    asking = always(client)
    assert asking.reason_of(good()) == "ok"
    asking.publish(STRANGER.jwk())
    asking.refresh()
    assert asking.reason_of(good()) == "unknown_key"


# Without keys.


def test_an_issuer_without_keys_has_opaque_tokens_only() -> None:
    asking, client = main_only(keys={"discovery": False})
    assert asking.reason_of("good") == "ok"
    assert asking.reason_of(good()) == "unknown_key"
    assert asking.reason_of(RS.sign(claims(), {"kid": None})) == "unknown_key"
    assert client.asked == {"good": 1}


# What is counted.


def test_the_metrics_of_the_jwt_cache_count_no_opaque_tokens() -> None:
    asking, _ = main_only()
    for token in ("good", "good", "bad", good()):
        asking.reason_of(token)
    looked_up = asking.metrics.registry.get_sample_value
    assert looked_up("authz_token_cache_lookups_total", {"result": "miss"}) == 1
    own = {
        result: looked_up("authz_introspection_cache_lookups_total", {"issuer": "main", "result": result})
        for result in ("hit", "miss")
    }
    assert own == {"hit": 1, "miss": 2}


def test_a_rule_declares_the_reasons_of_introspection_only_if_it_can_introspect() -> None:
    asking, _ = main_only()
    possible = {rule.name: set(rule.possible_reasons()) for rule in asking.policy.rules}
    assert {"inactive", "introspection_unavailable"} <= possible["any"] & possible["main"]
    assert not {"inactive", "introspection_unavailable"} & (possible["other"] | possible["public"])
