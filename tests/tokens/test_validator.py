"""A token is accepted only with a signature by a key that its own issuer publishes now."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from authz_service.core.claims import UnverifiedIdentity
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.keys.trials import EXHAUSTED, MAX_BUDGET, REFILL
from authz_service.tokens.attempt import FIRST
from authz_service.tokens.validator import NeedKeys, Validator
from support.samples import sample_value
from support.signing import ML_DSA, Signer
from support.trust import (
    ED,
    ES,
    ISSUER,
    NOW,
    OTHER,
    OTHER_RS,
    PS,
    PUBLISHED,
    RS,
    STRANGER,
    LocalValidator,
    claims,
    good,
)

VALID: dict[str, tuple[str, dict[str, Any]]] = {
    "RS256": (good(), {}),
    "ES256": (ES.sign(claims()), {}),
    "EdDSA": (ED.sign(claims()), {}),
    "PS256": (PS.sign(claims()), {}),
    "PS256 by a key without alg": (Signer("PS256", "rs").sign(claims()), {}),
    "RS512, as configured": (Signer("RS512", "rs").sign(claims()), {"algorithms": ["RS512"]}),
    "ES384, as configured": (Signer("ES384", "es384").sign(claims()), {"algorithms": ["ES384"]}),
    "without kid": (RS.sign(claims(), {"kid": None}), {}),
    "whitespace in its JSON": (RS.sign_json(b'\n{ "alg" : "RS256" }\t', json.dumps(claims(), indent=2).encode()), {}),
    "beyond ASCII": (RS.sign_json(b'{"alg":"RS256"}', json.dumps(claims()).replace("u1", "é").encode()), {}),
    "unused header members": (RS.sign(claims(), {"cty": "JWT", "x5t": 7, "jku": [], "iss": "x"}), {}),
    "null in other claims": (RS.sign(claims() | {"tenant": None, "nickname": None, "acr": None}), {}),
    "claims for the kind with other values": (good(token_type="access", type="access", typ="Bearer"), {}),
    "type is a list": (good(type=["Person"]), {}),
    "type is a number": (good(type=7), {}),
    "of the other issuer": (OTHER_RS.sign(claims(iss=OTHER)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_a_valid_token_is_accepted_and_cached(name: str) -> None:
    token, settings = VALID[name]
    local = LocalValidator(**settings)
    assert local.reason(token) == "ok"
    assert local.claims(token) is local.claims(token)


def test_two_issuers_may_use_the_same_kid() -> None:
    local = LocalValidator()
    other_key = Signer("RS256", "rs2")
    assert local.claims(good()).issuer == "main"
    assert local.claims(other_key.sign(claims(iss=OTHER), {"kid": "rs"})).issuer == "other"
    assert local.reason(other_key.sign(claims(), {"kid": "rs"})) == "bad_signature"


def test_an_issuer_is_not_matched_by_a_prefix() -> None:
    local = LocalValidator(issuer=f"{ISSUER}tenant")
    assert local.reason(good(iss=f"{ISSUER}tenant")) == "ok"
    assert local.reason(good()) == "unknown_issuer"
    assert local.reason(good(iss=f"{ISSUER}tenant/")) == "unknown_issuer"


def test_a_published_key_of_1024_bits_verifies_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which must be rejected
    local = LocalValidator()
    local.publish(
        RS.jwk(), RSAAlgorithm.to_jwk(short.public_key(), as_dict=True) | {"kid": "short", "key_ops": ["verify"]}
    )
    local.refresh()
    weak = Signer("RS256", "short")
    weak.key = short
    assert local.reason(weak.sign(claims())) == "unknown_key"
    assert local.reason(weak.sign(claims(), {"kid": None})) == "bad_signature"


@pytest.mark.parametrize("use", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RSA-OAEP"}, {"alg": "RS512"}])
def test_a_key_that_is_published_for_another_use_verifies_nothing(use: dict[str, Any]) -> None:
    local = LocalValidator()
    local.publish(ES.jwk(), RS.jwk(use=None) | use)
    local.refresh()
    assert local.reason(good()) in {"unknown_key", "unsupported_algorithm"}


def test_any_of_the_keys_that_share_a_kid_verifies() -> None:
    local = LocalValidator()
    local.publish(STRANGER.jwk(kid="rs"), ES.jwk(kid="rs"), RS.jwk())
    local.refresh()
    assert local.reason(good()) == "ok"
    assert local.reason(ES.sign(claims(), {"kid": "rs"})) == "ok"


MANY = [ES.jwk(kid=f"other-{number}") for number in range(40)]
LAST_ES = Signer("ES256", "last")


@pytest.mark.parametrize("kid", [None, "its own"])
def test_a_token_without_kid_is_tried_against_every_key(kid: str | None) -> None:
    trust = LocalValidator()
    trust.publish(RS.jwk(), *(key | {"kid": kid} if kid is None else key for key in MANY), LAST_ES.jwk())
    trust.refresh()
    assert trust.reason(LAST_ES.sign(claims(), {"kid": None})) == "ok"
    assert trust.reason(Signer("ES256", "stranger").sign(claims(), {"kid": None})) == "bad_signature"
    assert trust.reason(LAST_ES.sign(claims())) == "ok"


def test_forged_tokens_exhaust_the_budget_for_trying_keys_and_not_a_valid_token() -> None:
    trust = LocalValidator()
    trust.publish(*MANY, LAST_ES.jwk())
    trust.refresh()
    forged = Signer("ES256", "stranger").sign(claims(), {"kid": None})
    reasons = [trust.reason(forged) for _ in range(int(MAX_BUDGET))]
    assert reasons[0] == "bad_signature"
    assert reasons[-1] == "keys_unavailable"
    with pytest.raises(Rejected) as rejected:
        trust.claims(forged)
    assert rejected.value.cause.startswith(f"{EXHAUSTED.value} of main")
    assert rejected.value.retry_after == 1
    assert trust.reason(LAST_ES.sign(claims())) == "ok"  # its kid selects it
    valid = LAST_ES.sign(claims(), {"kid": None})
    reasons = [trust.reason(valid) for _ in range(1000)]
    assert set(reasons) <= {"keys_unavailable", "ok"}
    assert reasons[-1] == "ok"
    assert trust.reason(forged, NOW + int(len(MANY) / REFILL) + 1) == "bad_signature"


# Names of algorithms.

ED448 = Signer("Ed448", "ed448")


@pytest.mark.parametrize(
    ("accepted", "signer", "alg", "reason"),
    [
        (None, ED, "EdDSA", "ok"),
        (None, ED, "Ed25519", "ok"),
        (None, ED, "Ed448", "unsupported_algorithm"),
        (None, ED448, "EdDSA", "ok"),
        (None, ED448, "Ed448", "ok"),
        (None, ED448, "Ed25519", "unsupported_algorithm"),
        (["Ed25519"], ED, "Ed25519", "ok"),
        (["Ed25519"], ED, "EdDSA", "unsupported_algorithm"),
        (["EdDSA"], ED, "EdDSA", "ok"),
        (["EdDSA"], ED, "Ed25519", "unsupported_algorithm"),
        (["EdDSA", "Ed448"], ED448, "Ed448", "ok"),
        (["Ed25519"], ED448, "Ed448", "unsupported_algorithm"),
    ],
)
@pytest.mark.parametrize("published", [None, "EdDSA", "its curve"])
def test_each_name_of_an_edwards_algorithm_is_accepted_where_it_is_listed(
    accepted: list[str] | None, signer: Signer, alg: str, reason: str, published: str | None
) -> None:
    trust = LocalValidator() if accepted is None else LocalValidator(algorithms=accepted)
    curve = "Ed448" if signer is ED448 else "Ed25519"
    trust.publish(signer.jwk(alg=curve if published == "its curve" else published))
    trust.refresh()
    assert trust.reason(signer.sign(claims(), {"alg": alg})) == reason


@pytest.mark.parametrize("algorithm", sorted(ML_DSA))
def test_ml_dsa_is_accepted_where_it_is_listed(algorithm: str) -> None:
    signer = Signer(algorithm, "pq")
    trust = LocalValidator(algorithms=[algorithm])
    trust.publish(*PUBLISHED, signer.jwk())
    trust.refresh()
    token = signer.sign(claims())
    assert trust.reason(token) == "ok"
    for other in sorted({*ML_DSA, "EdDSA", "Ed25519", "RS256"} - {algorithm}):
        assert trust.reason(signer.sign(claims(), {"alg": other})) == "unsupported_algorithm"
    assert trust.reason(token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]) in {
        "bad_signature",
        "malformed_token",
    }
    assert trust.reason(Signer(algorithm, "stranger").sign(claims(), {"kid": "pq"})) == "bad_signature"
    assert trust.reason(ED.sign(claims())) == "unsupported_algorithm"


@pytest.mark.parametrize("algorithm", sorted(ML_DSA))
def test_keys_of_two_parameter_sets_are_not_confused(algorithm: str) -> None:
    trust = LocalValidator(algorithms=sorted(ML_DSA))
    trust.publish(*(Signer(name, "pq").jwk() for name in ML_DSA))
    trust.refresh()
    assert trust.reason(Signer(algorithm, "pq").sign(claims())) == "ok"
    for other in ML_DSA.keys() - {algorithm}:
        assert trust.reason(Signer(algorithm, "pq").sign(claims(), {"alg": other})) == "bad_signature"


# Types of tokens.


@pytest.mark.parametrize(
    ("types", "typ", "reason"),
    [
        (None, "JWT", "ok"),
        (None, "application/AT+jwt", "ok"),
        (None, None, "ok"),
        (None, "JOSE", "wrong_token_type"),
        (["JOSE", "JWT"], "jose", "ok"),
        (["JOSE", "JWT"], "application/JOSE", "ok"),
        (["JOSE", "JWT"], "at+jwt", "wrong_token_type"),
        (["JOSE", "JWT"], "text/jose", "wrong_token_type"),
        (["JOSE", "JWT"], "application/application/jose", "wrong_token_type"),
        (["JOSE"], "JWT", "wrong_token_type"),
        (["JOSE"], None, "wrong_token_type"),
        (["application/jwt"], "application/jwt", "ok"),
        (["application/okta-internal-at+jwt"], "okta-internal-at+jwt", "ok"),
        (["JOSE"], "dpop+jwt", "wrong_token_type"),
    ],
)
def test_a_token_of_a_listed_type_is_accepted(types: list[str] | None, typ: str | None, reason: str) -> None:
    trust = LocalValidator() if types is None else LocalValidator(token_types=types)
    assert trust.reason(RS.sign(claims(), {"typ": typ})) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": "n"}, "id_token"),
        ({"aud": "app"}, "id_token"),
        ({"typ": "Refresh"}, "wrong_token_type"),
        ({"events": {}}, "wrong_token_type"),
    ],
)
def test_another_kind_of_token_is_rejected_whatever_its_type(changes: dict[str, Any], reason: str) -> None:
    trust = LocalValidator(token_types=["JOSE"])
    assert trust.reason(RS.sign(claims(**changes), {"typ": "JOSE"})) == reason


def test_the_profile_of_rfc_9068_requires_its_type_whatever_is_listed() -> None:
    trust = LocalValidator(token_types=["at+jwt", "JOSE"], access_token_profile="rfc9068")
    assert trust.reason(RS.sign(claims(jti="1"), {"typ": "JOSE"})) == "wrong_token_type"
    assert trust.reason(RS.sign(claims(jti="1"), {"typ": "application/at+jwt"})) == "ok"


def test_the_cause_names_the_accepted_types() -> None:
    with pytest.raises(Rejected) as rejected:
        LocalValidator(token_types=["JOSE", "JWT"]).claims(RS.sign(claims(), {"typ": "at+jwt"}))
    assert rejected.value.cause == "typ in the header is 'at+jwt', expected JOSE or JWT"


# Keys without kid.


def without_kid(*signers: Signer) -> LocalValidator:
    trust = LocalValidator()
    trust.publish(*(signer.jwk(kid=None) for signer in signers))
    trust.refresh()
    return trust


@pytest.mark.parametrize("kid", [None, "", "rs", "unheard-of"])
def test_a_key_without_kid_verifies_tokens_with_any_kid(kid: str | None) -> None:
    trust = without_kid(ES, RS)
    assert trust.reason(RS.sign(claims(), {"kid": kid})) == "ok"
    assert trust.reason(STRANGER.sign(claims(), {"kid": kid})) == "bad_signature"


@pytest.mark.parametrize("kid", [None, "", "stranger"])
def test_a_token_that_no_key_without_kid_verifies_may_be_signed_by_a_new_key(kid: str | None) -> None:
    trust = without_kid(ES, RS)
    token = STRANGER.sign(claims(), {"kid": kid})
    assert trust.validator.validate(token, NOW, None, FIRST) == NeedKeys(
        trust.issuers[0].keys, UnverifiedIdentity(ISSUER, kid)
    )
    trust.publish(STRANGER.jwk(kid=None))
    trust.refresh()
    assert trust.reason(token) == "ok"


def test_a_kid_that_no_key_has_is_unknown_where_other_keys_have_one() -> None:
    trust = LocalValidator()
    trust.publish(RS.jwk(), ES.jwk(kid=None))
    trust.refresh()
    assert trust.reason(ES.sign(claims(), {"kid": "new"})) == "ok"
    assert trust.reason(STRANGER.sign(claims())) == "unknown_key"
    assert trust.reason(ES.sign(claims(), {"kid": "rs"})) == "unsupported_algorithm"


# Unknown keys.


def test_an_unknown_kid_needs_the_keys_of_the_issuer_in_iss() -> None:
    local = LocalValidator()
    need = local.validator.validate(STRANGER.sign(claims()), NOW, None, FIRST)
    assert need == NeedKeys(local.issuers[0].keys, UnverifiedIdentity(ISSUER, "stranger"))


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (STRANGER.sign(claims(iss="https://evil.example/")), Reason.UNKNOWN_ISSUER),
        (STRANGER.sign(claims(), {"alg": "HS256"}), Reason.UNSUPPORTED_ALGORITHM),
        (Signer("ES384", "new").sign(claims()), Reason.UNSUPPORTED_ALGORITHM),
        ("a.b.c", Reason.MALFORMED_TOKEN),
        (STRANGER.sign(claims(), {"kid": "k" * 257}), Reason.UNKNOWN_KEY),
        (STRANGER.sign(claims(), {"kid": "rs"}), Reason.BAD_SIGNATURE),
        (STRANGER.sign(claims(), {"kid": None}), Reason.BAD_SIGNATURE),
    ],
)
def test_a_token_that_no_fetch_could_make_valid_causes_none(token: str, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        LocalValidator().validator.validate(token, NOW, None, FIRST)
    assert rejected.value.reason is reason


def test_without_keys_the_reason_is_keys_unavailable() -> None:
    local = LocalValidator()
    later = NOW + 3600 + 86_400
    token = good(exp=later + 60)
    assert local.reason(token, later - 1) == "ok"
    with pytest.raises(Rejected) as rejected:
        local.claims(token, later)
    assert rejected.value.reason is Reason.KEYS_UNAVAILABLE
    assert (rejected.value.retry_after or 0) >= 1


# Cached tokens.


def test_a_cached_token_is_not_verified_again() -> None:
    local = LocalValidator()
    for _ in range(3):
        local.claims(good())
    sample = partial(sample_value, local.metrics)
    assert sample("authz_token_cache_lookups_total", {"result": "hit"}) == 2


def test_a_request_that_waits_for_keys_is_one_cache_miss() -> None:
    local = LocalValidator()
    need = local.validator.validate(STRANGER.sign(claims()), NOW, None, FIRST)
    assert isinstance(need, NeedKeys)
    assert local.reason(STRANGER.sign(claims())) == "unknown_key"
    assert sample_value(local.metrics, "authz_token_cache_lookups_total", {"result": "miss"}) == 1


@pytest.mark.parametrize(
    ("settings", "last", "then"),
    [({}, 89, "expired"), ({"max_token_age": "20s"}, 49, "too_old"), ({"leeway": "0s"}, 59, "expired")],
)
def test_a_cached_token_is_valid_no_longer_than_any_other(settings: dict[str, Any], last: int, then: str) -> None:
    local = LocalValidator(**settings)
    token = good(exp=NOW + 60)
    assert [local.reason(token, NOW + after) for after in (0, last, last + 1)] == ["ok", "ok", then]


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        ((ES.jwk(),), "unknown_key"),
        ((STRANGER.jwk(kid="rs"),), "bad_signature"),
        ((RS.jwk(kid="renamed"),), "unknown_key"),
        ((STRANGER.jwk(), RS.jwk(use="sig", x5c=["other", "members"])), "ok"),
    ],
)
def test_a_cached_token_is_evicted_when_its_key_leaves_the_key_set_and_not_before(
    published: tuple[dict[str, Any], ...], reason: str
) -> None:
    local = LocalValidator()
    first = local.claims(good())
    local.publish(*published)
    local.refresh()
    assert local.reason(good()) == reason
    assert reason != "ok" or local.claims(good()) is first


def test_a_key_that_is_published_again_verifies_again() -> None:
    local = LocalValidator()
    for published, reason in (((ES.jwk(),), "unknown_key"), (PUBLISHED, "ok")):
        local.publish(*published)
        local.refresh()
        assert local.reason(good()) == reason


TEMPLATE: dict[str, Any] = {
    "issuer": "https://idp.example/{tenant}/v2.0",
    "keys": {"jwks_uri": "https://idp.example/keys"},
}


def test_tokens_of_every_tenant_verify_with_the_keys_of_the_template() -> None:
    local = LocalValidator(**TEMPLATE)
    for tenant in ("acme", "7b0d4a1e-0000-4000-8000-000000000001"):
        token = good(iss=f"https://idp.example/{tenant}/v2.0", tid=tenant)
        assert local.reason(token) == "ok"
        assert local.claims(token).issuer == "main"
    assert local.reason(good(iss="https://idp.example/acme/v2.0", tid="other")) == "invalid_claim"
    assert local.reason(STRANGER.sign(claims(iss="https://idp.example/acme/v2.0"), {"kid": "rs"})) == "bad_signature"
    assert local.reason(good(iss=OTHER)) != "ok"


@pytest.mark.parametrize(
    "iss", [ISSUER, "https://idp.example/{tenant}/v2.0", "https://idp.example/a/b/v2.0", "https://idp.example/%61/v2.0"]
)
def test_an_issuer_of_another_form_is_unknown(iss: str) -> None:
    assert LocalValidator(**TEMPLATE).reason(good(iss=iss)) == "unknown_issuer"


def test_tenants_that_are_not_listed_are_unknown() -> None:
    local = LocalValidator(**TEMPLATE, tenants=["acme"])
    assert local.reason(good(iss="https://idp.example/acme/v2.0")) == "ok"
    assert local.reason(good(iss="https://idp.example/evil/v2.0")) == "unknown_issuer"


def test_an_issuer_configured_exactly_takes_precedence_over_a_template() -> None:
    other = OTHER.removesuffix("/")
    local = LocalValidator(issuer=f"{other}/{{tenant}}", keys={"jwks_uri": f"{other}/keys"})
    local.issuers[1] = local._trusted(OTHER, "other", {"issuer": f"{other}/acme"})
    local.validator = Validator(local.issuers, local.cache, local.metrics)
    local.refresh()
    assert local.claims(OTHER_RS.sign(claims(iss=f"{other}/acme"))).issuer == "other"
    assert local.claims(good(iss=f"{other}/beta")).issuer == "main"
    assert local.reason(STRANGER.sign(claims(iss=f"{other}/acme"), {"kid": "rs"})) != "ok"
