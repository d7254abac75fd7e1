"""What a valid proof is: the examples of RFC 9449, its limits, replay, nonces, and the key that is cached."""

from __future__ import annotations

from typing import Any

import pytest

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.keys import jwk
from authz_service.tokens.proof.dpop import MAX_PROOF_BYTES, DpopVerifier
from authz_service.tokens.proof.nonce import Nonces
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from support.dpop import RFC_THUMBPRINTS, DpopKey, access_token_hash
from support.signing import ML_DSA
from tokens.proof.proofs import ALGORITHMS, MAX_AGE, NOW, OWNER, TOKEN, URL, proof, verified, verifier

# RFC 9449 section 4.1, figure 2: for a token endpoint, so it has no ath.
RFC_TOKEN_PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQy"
    "VVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
    ".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0Ijox"
    "NTYyMjYyNjE2fQ"
    ".2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
# RFC 9449 section 7.1, figure 12.
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQy"
    "VVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
    ".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNv"
    "dXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
    ".2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
RFC_REQUEST = Attributes("GET", "resource.example.org", "/protectedresource", {})
RFC_TIME = 1562262618


def reason_of(each: str, by: DpopVerifier | None = None, **options: Any) -> Reason:
    with pytest.raises(Rejected) as rejected:
        verified(each, by, **options)
    return rejected.value.reason


def test_the_proof_of_rfc_9449_section_7_1_is_valid() -> None:
    found = verified(RFC_PROOF, jkt=RFC_JKT, now=RFC_TIME, token=RFC_TOKEN, request=RFC_REQUEST)
    assert found.key is not None
    assert found.key.thumbprint == base64url.decode(RFC_JKT)


def test_the_proof_of_rfc_9449_section_4_1_lacks_only_the_hash_of_a_token() -> None:
    request = Attributes("POST", "server.example.com", "/token", {})
    with pytest.raises(Rejected) as rejected:
        verified(RFC_TOKEN_PROOF, jkt=RFC_JKT, now=1562262616, token=RFC_TOKEN, request=request)
    assert (rejected.value.reason, rejected.value.cause) == (Reason.INVALID_PROOF, "ath is missing or not a string")


def test_thumbprints_are_those_of_the_rfcs() -> None:
    for members, expected in RFC_THUMBPRINTS:
        assert base64url.encode(jwk.thumbprint(members)) == expected


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "ES512", "RS512", "PS384", "Ed448", *ML_DSA])
def test_every_configured_algorithm_is_accepted_twice(algorithm: str) -> None:
    key, by = DpopKey(algorithm), verifier(algorithms=(algorithm,))
    known = None
    for _ in range(2):
        each = key.proof("GET", URL, TOKEN, now=NOW)
        known = verified(each, by, jkt=key.jkt, known=known).key


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_keys_that_take_much_memory_are_not_returned_to_be_cached(algorithm: str) -> None:
    key = DpopKey(algorithm)
    each = key.proof("GET", URL, TOKEN, now=NOW)
    assert verified(each, verifier(algorithms=(algorithm,)), jkt=key.jkt).key is None


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "DPoP+JWT"},
        {"typ": "application/dpop+jwt"},
        {"kid": "any"},
        {"jku": "https://thief.example/", "x5c": []},
        {"jwk": OWNER.jwk | {"use": "sig", "key_ops": ["verify"], "alg": "ES256", "kid": "k", "ext": True}},
        {"jwk": OWNER.jwk | {"use": None, "alg": ""}},
    ],
    ids=["upper case", "media type", "kid", "other keys", "usage", "empty usage"],
)
def test_a_header_may_have_other_members_that_change_nothing(changes: dict[str, Any]) -> None:
    assert verified(proof(header_changes=changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": NOW - MAX_AGE},
        {"iat": NOW + 5},
        {"iat": NOW - 0.5},
        {"exp": NOW + 60},
        {"exp": NOW - 4.5},
        {"nbf": NOW + 5},
        {"jti": "a" * 256},
        {"jti": "é"},
        {"htu": f"{URL}?other=query#fragment"},
        {"nonce": "one that is not required"},
        {"iss": "client", "x": {"y": [1]}},
    ],
    ids=repr,
)
def test_claims_at_their_limits_are_accepted(changes: dict[str, Any]) -> None:
    assert verified(proof(claim_changes=changes))


def test_a_proof_of_exactly_the_maximum_length_is_accepted() -> None:
    short = len(proof(claim_changes={"x": ""}))
    fill = next(
        fill for fill in range((MAX_PROOF_BYTES - short) * 3 // 4 - 3, MAX_PROOF_BYTES)
        if len(proof(claim_changes={"x": "a" * fill})) >= MAX_PROOF_BYTES - 1
    )  # fmt: skip
    longest = proof(claim_changes={"x": "a" * fill})
    assert MAX_PROOF_BYTES - 1 <= len(longest) <= MAX_PROOF_BYTES
    assert verified(longest)


def test_the_hash_of_a_token_that_is_not_ascii_is_that_of_its_utf_8() -> None:
    each = OWNER.proof("GET", URL, "töken", now=NOW)
    assert verified(each, token="töken")


def test_a_proof_is_accepted_once() -> None:
    by, each = verifier(), proof()
    known = verified(each, by).key
    assert reason_of(each, by) is Reason.REPLAYED_PROOF
    assert reason_of(each, by, known=known) is Reason.REPLAYED_PROOF
    assert reason_of(each, by, now=NOW + MAX_AGE) is Reason.REPLAYED_PROOF
    assert reason_of(each, by, now=NOW + MAX_AGE + 1) is Reason.INVALID_PROOF


def test_another_proof_with_the_same_jti_is_a_replay_only_for_the_same_key() -> None:
    by, other = verifier(), DpopKey("EdDSA")
    assert verified(proof(jti="one"), by)
    assert reason_of(proof(jti="one", claim_changes={"iat": NOW - 1}), by) is Reason.REPLAYED_PROOF
    assert verified(other.proof("GET", URL, TOKEN, now=NOW, jti="one"), by, jkt=other.jkt)


def test_a_proof_from_the_future_is_recorded_until_it_is_too_old() -> None:
    by, each = verifier(), proof(claim_changes={"iat": NOW + 5})
    assert verified(each, by)
    later = NOW + 5 + MAX_AGE
    for jti in range(20):  # each call removes what has expired
        assert verified(proof(jti=str(jti), claim_changes={"iat": later - 1}), by, now=later)
    assert reason_of(each, by, now=later) is Reason.REPLAYED_PROOF


def test_verifiers_of_two_configurations_share_a_replay_cache() -> None:
    replays, each = ReplayCache(10, 60, lambda: None), proof()
    first, second = (
        DpopVerifier(algorithms=ALGORITHMS, max_age=max_age, targets=Targets(), replays=replays) for max_age in (60, 30)
    )
    assert verified(each, first)
    assert reason_of(each, second) is Reason.REPLAYED_PROOF


def test_a_required_nonce_must_be_present_and_current() -> None:
    nonces = Nonces(b"k" * 32, 300.0)
    by = verifier(nonces=nonces)
    assert reason_of(proof(), by) is Reason.NONCE_REQUIRED
    assert reason_of(proof(nonce="another"), by) is Reason.NONCE_REQUIRED
    assert reason_of(proof(nonce=nonces.issue(NOW - 300)), by) is Reason.NONCE_REQUIRED
    assert reason_of(proof(claim_changes={"nonce": 7}), by) is Reason.INVALID_PROOF
    assert verified(proof(nonce=nonces.issue(NOW - 200)), by).nonce_age == 200.0
    assert verified(proof(nonce=nonces.issue(NOW)), by).nonce_age == 0.0


def test_a_proof_that_lacks_only_its_nonce_is_not_recorded() -> None:
    nonces = Nonces(b"k" * 32, 300.0)
    by = verifier(nonces=nonces)
    assert reason_of(proof(jti="one"), by) is Reason.NONCE_REQUIRED
    assert verified(proof(jti="one", nonce=nonces.issue(NOW)), by)


def test_a_nonce_is_requested_only_for_the_key_of_the_token() -> None:
    by = verifier(nonces=Nonces(b"k" * 32, 300.0))
    stranger = DpopKey(name="stranger")
    assert reason_of(stranger.proof("GET", URL, TOKEN, now=NOW), by) is Reason.INVALID_PROOF


def test_without_required_nonces_a_proof_has_no_age_of_its_nonce() -> None:
    assert verified(proof(nonce="x")).nonce_age is None


def test_a_known_key_is_not_used_for_a_token_that_is_bound_to_another() -> None:
    known = verified(proof()).key
    other = DpopKey("EdDSA")
    assert reason_of(proof(), jkt=other.jkt, known=known) is Reason.INVALID_PROOF


def test_a_known_key_is_not_used_for_another_header() -> None:
    known = verified(proof()).key
    other = DpopKey("EdDSA")
    each = other.proof("GET", URL, TOKEN, now=NOW)
    found = verified(each, jkt=other.jkt, known=known)
    assert found.key is not None
    assert found.key is not known
    assert verified(proof(header_changes={"kid": "new"}), known=known).key is not known


def test_a_known_key_is_returned_again() -> None:
    known = verified(proof()).key
    assert verified(proof(), known=known).key is known


def test_a_known_key_does_not_outlive_a_configuration_without_its_algorithm() -> None:
    known = verified(proof()).key
    assert reason_of(proof(), verifier(algorithms=("EdDSA",)), known=known) is Reason.INVALID_PROOF


def test_one_token_may_have_several_keys_in_turn() -> None:
    rs, ps = DpopKey("RS256"), DpopKey("PS256")  # of one RSA key, with two headers
    assert rs.jkt == ps.jkt
    by, known = verifier(), None
    for key in (rs, ps, rs, ps):
        known = verified(key.proof("GET", URL, TOKEN, now=NOW), by, jkt=rs.jkt, known=known).key
        assert known is not None
        assert known.algorithm == key.algorithm


def test_the_proof_key_holds_nothing_of_the_proof_but_its_key() -> None:
    known = verified(proof()).key
    assert known is not None
    assert not hasattr(known, "__dict__")
    assert len(known.header) == 32
    assert access_token_hash(TOKEN) not in repr([getattr(known, name) for name in known.__slots__])
