"""A token that is bound to its sender is accepted only from its sender, in whole decisions."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from trustme import CA

from authz_service.authorizer import Pending
from authz_service.config.model import DpopSettings, MtlsSettings, Settings
from authz_service.core.attributes import Attributes
from authz_service.core.decision import Allow, Answer, Decision, Deny
from authz_service.runtime.assembly import ProofState
from authz_service.telemetry.metrics import Metrics
from support.dpop import DpopKey
from support.samples import sample_value
from support.signing import base64url
from support.trust import NOW, PUBLISHED, STRANGER, LocalAuthorizer, good

URL = "https://api.example.org/v1"
KEY, THIEF = DpopKey(), DpopKey(name="thief")
_CA = CA()
PEM = _CA.issue_cert("client.example").cert_chain_pems[0].bytes()
OTHER_PEM = _CA.issue_cert("other.example").cert_chain_pems[0].bytes()


def _x5t(pem: bytes) -> str:
    return base64url(hashlib.sha256(load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).digest())


def service(*, dpop: DpopSettings | None = None, proof: str | None = None, **settings: Any) -> LocalAuthorizer:
    require = {} if proof is None else {"require": {"proof": proof}}
    return LocalAuthorizer([{"name": "r", **require}], {"x-sub": "sub"}, dpop=dpop, **settings)


def send(
    to: LocalAuthorizer,
    token: str,
    *,
    scheme: str = "DPoP",
    proof: str | None = None,
    pem: bytes | None = None,
    now: float = NOW,
) -> Decision:
    headers = {"authorization": f"{scheme} {token}"} | ({} if proof is None else {"dpop": proof})
    certificate = "" if pem is None else quote(pem.decode(), safe="")
    attributes = Attributes("GET", "api.example.org", "/v1?q=1", headers, certificate=certificate)
    decision = to.authorizer.begin(attributes, now)
    assert not isinstance(decision, Pending)
    return decision


def prove(token: str, key: DpopKey = KEY, **changes: Any) -> str:
    return key.proof("GET", URL, token, **({"now": NOW} | changes))


BOUND = good(cnf=KEY.cnf)
BY_CERTIFICATE = good(cnf={"x5t#S256": _x5t(PEM)})
BY_BOTH = good(cnf={"x5t#S256": _x5t(PEM)} | KEY.cnf)


def test_the_owner_of_a_bound_token_is_allowed() -> None:
    to = service()
    assert send(to, BOUND, proof=prove(BOUND)).reason == "ok"
    assert send(to, BOUND, proof=prove(BOUND)).reason == "ok"
    assert send(to, BY_CERTIFICATE, scheme="Bearer", pem=PEM).reason == "ok"
    assert send(to, BY_BOTH, proof=prove(BY_BOTH), pem=PEM).reason == "ok"


@pytest.mark.parametrize("remembered", [False, True])
def test_a_thief_with_a_bound_token_is_refused_remembered_or_not(*, remembered: bool) -> None:
    to = service()
    if remembered:
        assert send(to, BOUND, proof=prove(BOUND)).reason == "ok"
    assert send(to, BOUND, scheme="Bearer").reason == "missing_proof"
    assert send(to, BOUND, scheme="Bearer", proof=prove(BOUND)).reason == "missing_proof"
    assert send(to, BOUND).reason == "missing_proof"
    assert send(to, BOUND, proof=prove(BOUND, THIEF)).reason == "invalid_proof"
    stolen = prove(BOUND, sign_with=THIEF)
    assert send(to, BOUND, proof=stolen).reason == "invalid_proof"


def test_a_proof_counts_once_and_a_refused_one_does_not_count() -> None:
    to = service()
    proof = prove(BY_BOTH)
    assert send(to, BY_BOTH, proof=proof).reason == "missing_proof"
    assert send(to, BY_BOTH, proof=proof, pem=OTHER_PEM).reason == "invalid_proof"
    assert send(to, BY_BOTH, proof=proof, pem=PEM).reason == "ok"
    assert send(to, BY_BOTH, proof=proof, pem=PEM).reason == "replayed_proof"


def test_a_certificate_bound_token_needs_exactly_its_certificate() -> None:
    to = service()
    assert send(to, BY_CERTIFICATE, scheme="Bearer").reason == "missing_proof"
    refused = send(to, BY_CERTIFICATE, scheme="Bearer", pem=OTHER_PEM)
    assert isinstance(refused, Deny)
    assert refused.reason == "invalid_proof"
    assert refused.challenges[0].startswith('Bearer realm="api", error="invalid_token"')


@pytest.mark.parametrize("token", [good(), BY_CERTIFICATE])
def test_a_token_without_a_key_is_refused_under_the_scheme_dpop(token: str) -> None:
    assert send(service(), token, proof=prove(token), pem=PEM).reason == "unbound_token"


@pytest.mark.parametrize(
    ("cnf", "reason"),
    [
        ({}, "unsupported_confirmation"),
        ({"kid": "a"}, "unsupported_confirmation"),
        ({"jwk": KEY.jwk}, "unsupported_confirmation"),
        (KEY.cnf | {"jku": "https://example.org"}, "unsupported_confirmation"),
        (KEY.cnf | {"kc-jkt-type": "Client-Attestation"}, "unsupported_confirmation"),
        (KEY.cnf | {"kc-jkt-type": ["DPoP"]}, "unsupported_confirmation"),
        (KEY.cnf | {"kc-jkt-type": "DPoP", "kid": "a"}, "unsupported_confirmation"),
        ({"kc-jkt-type": "DPoP"}, "unsupported_confirmation"),
        ("text", "invalid_claim"),
        (["jkt"], "invalid_claim"),
        ({"jkt": 5}, "invalid_claim"),
        ({"jkt": None}, "invalid_claim"),
        ({"jkt": ""}, "invalid_claim"),
        ({"jkt": KEY.jkt + "="}, "invalid_claim"),
        ({"jkt": KEY.jkt[:-1]}, "invalid_claim"),
        ({"x5t#S256": "ab" * 32}, "invalid_claim"),
    ],
)
def test_a_confirmation_that_nobody_could_prove_is_refused_unless_it_is_ignored(cnf: Any, reason: str) -> None:
    token = good(cnf=cnf)
    assert send(service(), token, scheme="Bearer").reason == reason
    assert send(service(confirmation="ignore"), token, scheme="Bearer").reason == "ok"


def test_keycloak_names_the_kind_of_the_key_beside_its_thumbprint() -> None:
    token = good(cnf=KEY.cnf | {"kc-jkt-type": "DPoP"})
    assert send(service(), token, scheme="Bearer").reason == "missing_proof"
    assert send(service(), token, proof=prove(token)).reason == "ok"


def test_with_confirmation_ignored_a_bound_token_is_a_bearer_token() -> None:
    to = service(confirmation="ignore")
    assert send(to, BOUND, scheme="Bearer").reason == "ok"
    assert send(to, BOUND).reason == "ok"
    assert send(to, BY_CERTIFICATE, scheme="Bearer").reason == "ok"
    assert send(to, good()).reason == "unbound_token"
    assert send(service(confirmation="ignore", proof="any"), BOUND, proof=prove(BOUND)).reason == "unbound_token"


def test_a_confirmation_is_also_ignored_of_a_token_that_has_not_been_seen_for_long() -> None:
    to = service(confirmation="ignore", max_recent=1)
    for token in (BOUND, BY_CERTIFICATE, BY_BOTH):
        assert send(to, token).reason == "ok"
    assert [send(to, token).reason for token in (BOUND, BY_CERTIFICATE, BY_BOTH)] == ["ok"] * 3


@pytest.mark.parametrize(
    ("required", "accepted", "refused"),
    [
        ("any", [BOUND, BY_CERTIFICATE, BY_BOTH], [good()]),
        ("dpop", [BOUND, BY_BOTH], [good(), BY_CERTIFICATE]),
        ("mtls", [BY_CERTIFICATE, BY_BOTH], [good(), BOUND]),
    ],
)
def test_a_rule_can_require_that_tokens_are_bound(required: str, accepted: list[str], refused: list[str]) -> None:
    to = service(proof=required)
    by_key = {BOUND, BY_BOTH}
    reasons = {
        token: send(to, token, scheme="DPoP" if token in by_key else "Bearer", proof=prove(token), pem=PEM).reason.value
        for token in (*accepted, *refused)
    }
    assert reasons == dict.fromkeys(accepted, "ok") | dict.fromkeys(refused, "unbound_token")


# Challenges.


def _challenges(decision: Decision) -> list[str]:
    assert isinstance(decision, Deny)
    return [each.replace('realm="api", ', "").replace('realm="api"', "").strip() for each in decision.challenges]


def _schemes(decision: Decision) -> list[str]:
    assert isinstance(decision, Deny)
    return [each.partition(" ")[0] for each in decision.challenges]


ALGS = 'algs="ES256 ES384 EdDSA Ed25519 PS256 RS256"'


def test_challenges_offer_the_schemes_that_the_rule_accepts() -> None:
    nothing = Attributes("GET", "api.example.org", "/v1", {})
    expected = {
        (None, None): ["Bearer"],
        (DpopSettings(), None): ["Bearer", "DPoP"],
        (DpopSettings(), "any"): ["Bearer", "DPoP"],
        (DpopSettings(), "dpop"): ["DPoP"],
        (None, "dpop"): ["DPoP"],
        (DpopSettings(), "mtls"): ["Bearer"],
    }
    for (dpop, proof), schemes in expected.items():
        decision = service(dpop=dpop, proof=proof).authorizer.begin(nothing, NOW)
        assert isinstance(decision, Deny)
        assert _schemes(decision) == schemes
        assert all("error=" not in challenge for challenge in decision.challenges)


def test_the_challenge_of_a_failed_proof_names_what_to_do() -> None:
    to = service(dpop=DpopSettings())
    missing, invalid = send(to, BOUND), send(to, BOUND, proof="a.b.c")
    send(to, BOUND, proof=(proof := prove(BOUND)))
    replayed = send(to, BOUND, proof=proof)
    for decision, error in (
        (missing, "invalid_token"),
        (invalid, "invalid_dpop_proof"),
        (replayed, "invalid_dpop_proof"),
    ):
        (challenge,) = _challenges(decision)
        assert challenge.startswith(f'DPoP error="{error}", ')
        assert challenge.endswith(ALGS)


def test_a_client_that_used_dpop_gets_a_dpop_challenge_for_any_error_of_its_token() -> None:
    expired = good(cnf=KEY.cnf, exp=NOW - 100)
    assert _schemes(send(service(), expired, proof=prove(expired))) == ["Bearer", "DPoP"]


# Nonces.


def nonces(**settings: Any) -> LocalAuthorizer:
    return service(dpop=DpopSettings.read({"nonce": "required", "nonce_lifetime": "5m"} | settings))


def _nonce(decision: Decision) -> str | None:
    assert not isinstance(decision, Answer)
    return dict(decision.response_headers).get("dpop-nonce")


def test_a_proof_needs_a_current_nonce_which_the_denial_supplies() -> None:
    to = nonces()
    refused = send(to, BOUND, proof=prove(BOUND))
    assert refused.reason == "nonce_required"
    assert _challenges(refused)[0].startswith('DPoP error="use_dpop_nonce", ')
    nonce = _nonce(refused)
    assert nonce is not None
    allowed = send(to, BOUND, proof=prove(BOUND, nonce=nonce))
    assert (allowed.reason, _nonce(allowed)) == ("ok", None)
    late = NOW + 301
    expired = send(to, BOUND, proof=prove(BOUND, nonce=nonce, now=late), now=late)
    assert expired.reason == "nonce_required"


def test_an_allowance_renews_a_nonce_in_the_second_half_of_its_lifetime() -> None:
    to = nonces()
    nonce = _nonce(send(to, BOUND, proof=prove(BOUND)))
    later = NOW + 151
    allowed = send(to, BOUND, proof=prove(BOUND, nonce=nonce, now=later), now=later)
    assert isinstance(allowed, Allow)
    renewed = _nonce(allowed)
    assert renewed not in {None, nonce}
    assert dict(allowed.headers) == {"x-sub": "u1"}
    after = NOW + 400
    assert send(to, BOUND, proof=prove(BOUND, nonce=renewed, now=after), now=after).reason == "ok"


def test_in_shadow_mode_a_client_gets_its_nonces_as_well() -> None:
    to = LocalAuthorizer([{"name": "r", "mode": "shadow"}], {}, dpop=DpopSettings(nonce="required"))
    first = send(to, BOUND, proof=prove(BOUND))
    assert isinstance(first, Allow)
    assert first.reason == "nonce_required"
    nonce = _nonce(first)
    assert send(to, BOUND, proof=prove(BOUND, nonce=nonce)).reason == "ok"


def test_a_nonce_of_another_process_is_accepted_only_with_the_shared_key(tmp_path: Any) -> None:
    file = tmp_path / "nonce.key"
    file.write_bytes(secrets.token_bytes(48))
    shared = {"nonce_key_file": str(file)}
    nonce = _nonce(send(nonces(**shared), BOUND, proof=prove(BOUND)))
    assert send(nonces(**shared), BOUND, proof=prove(BOUND, nonce=nonce)).reason == "ok"
    assert send(nonces(), BOUND, proof=prove(BOUND, nonce=nonce)).reason == "nonce_required"


def test_a_denial_without_a_dpop_challenge_has_no_nonce() -> None:
    to = service(dpop=DpopSettings(nonce="required"), proof="mtls")
    assert _nonce(send(to, good(), scheme="Bearer")) is None


def test_a_proof_for_another_api_is_refused_where_origins_or_hosts_are_configured() -> None:
    captured = prove(BOUND, claim_changes={"htu": "https://other.example/v1"})
    relayed = Attributes("GET", "other.example", "/v1", {"authorization": f"DPoP {BOUND}", "dpop": captured})
    with_origins = service(dpop=DpopSettings(origins=("https://api.example.org",)))
    with_hosts = LocalAuthorizer([{"name": "r", "match": {"hosts": ["api.example.org"]}}], {})
    decided = [to.authorizer.begin(relayed, NOW) for to in (with_origins, with_hosts, service())]
    assert [getattr(each, "reason", None) for each in decided] == ["invalid_proof", "no_rule", "ok"]


def test_used_proofs_outlive_a_reload_that_makes_older_proofs_acceptable() -> None:
    def settings(max_age: str) -> Settings:
        issuers, rules = [{"issuer": "https://idp.example", "audiences": ["a"]}], [{"name": "r"}]
        return Settings.read({"issuers": issuers, "rules": rules, "dpop": {"max_age": max_age}})

    metrics, key = Metrics(transport="asyncio"), bytes(32)
    before = ProofState.of(settings("10s"), metrics, None, NOW)
    assert not before.replays.seen(key, "a", NOW, NOW)
    assert not before.replays.seen(key, "later", NOW + 11, NOW + 11)  # removes the first, which is too old
    after = ProofState.of(settings("1m"), metrics, before, NOW + 12)
    assert after.replays.seen(key, "a", NOW + 12, NOW)
    assert after.replays.seen(key, "later", NOW + 60, NOW + 11)


# Counting.


def _proofs(to: LocalAuthorizer) -> dict[str, float]:
    results = ("valid", "invalid_proof", "replayed_proof", "nonce_required")
    read = partial(sample_value, to.metrics)
    return {result: read("authz_dpop_proofs_total", {"result": result}) or 0.0 for result in results}


def test_each_proof_is_counted_once_by_its_result() -> None:
    to = service()
    proof = prove(BOUND)
    for each in (proof, proof, "x", prove(BOUND, THIEF)):
        send(to, BOUND, proof=each)
    assert _proofs(to) == {"valid": 1, "invalid_proof": 2, "replayed_proof": 1, "nonce_required": 0}


def test_the_xfcc_header_counts_only_where_it_is_configured() -> None:
    header = {"x-forwarded-client-cert": f"Hash={load_pem_x509_certificate(PEM).fingerprint(SHA256()).hex()}"}
    headers = {"authorization": f"Bearer {BY_CERTIFICATE}", **header}
    attributes = Attributes("GET", "api.example.org", "/v1", headers)
    by_peer, by_xfcc = service(), service(mtls=MtlsSettings(certificate="xfcc"))
    reasons = [each.authorizer.begin(attributes, NOW) for each in (by_peer, by_xfcc)]
    assert [getattr(each, "reason", None) for each in reasons] == ["missing_proof", "ok"]


def test_a_request_that_waited_for_keys_proves_itself_once() -> None:
    to = service()
    to.publish(STRANGER.jwk())
    to.refresh()
    headers = {"authorization": f"DPoP {BOUND}", "dpop": prove(BOUND)}
    attributes = Attributes("GET", "api.example.org", "/v1", headers)
    pending = to.authorizer.begin(attributes, NOW)
    assert isinstance(pending, Pending)
    to.publish(*PUBLISHED)
    asyncio.run(pending.ready())
    assert to.authorizer.finish(pending, NOW).reason == "ok"
