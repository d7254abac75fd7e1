"""A security event token is accepted only from its issuer, for this receiver, and as nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from authz_service.core.errors import Rejected
from authz_service.tokens.attempt import FIRST, LAST
from authz_service.tokens.revocation.event_token import MAX_BYTES, RefusedSetError, SetVerifier
from authz_service.tokens.revocation.events import SESSION_REVOKED, SecurityEvent
from authz_service.tokens.revocation.revocations import TokenParts
from authz_service.tokens.validator import NeedKeys
from support.signing import Signer
from support.trust import ISSUER, NOW, OTHER, OTHER_RS, RS, LocalValidator, good

TRUST = LocalValidator()
RECEIVER = "https://receiver.example"
SET: dict[str, Any] = {
    "iss": ISSUER,
    "aud": RECEIVER,
    "iat": NOW,
    "jti": "set-1",
    "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "u1"},
    "events": {SESSION_REVOKED: {}},
}


def verify(text: str, trust: LocalValidator = TRUST, now: float = NOW) -> tuple[SecurityEvent, ...] | NeedKeys:
    return SetVerifier(trust.validator, trust.issuers[0], RECEIVER).verify(text, now, LAST)


def signed(signer: Signer = RS, typ: str | None = "secevent+jwt", **changes: Any) -> str:
    members = {name: value for name, value in (SET | changes).items() if value is not None}
    return signer.sign(members, {"typ": typ})


@pytest.mark.parametrize("typ", ["secevent+jwt", "application/secevent+jwt", "SecEvent+JWT"])
@pytest.mark.parametrize("audience", [RECEIVER, [RECEIVER], ["x", RECEIVER]])
def test_a_set_of_the_issuer_for_this_receiver_is_accepted(typ: str, audience: object) -> None:
    found = verify(signed(typ=typ, aud=audience))
    assert not isinstance(found, NeedKeys)
    assert [each.parts for each in found[0].revocations] == [TokenParts(subject="u1")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (signed(typ=None), "invalid_request"),
        (signed(typ="JWT"), "invalid_request"),
        (signed(typ="at+jwt"), "invalid_request"),
        (signed(typ="logout+jwt"), "invalid_request"),
        (good(), "invalid_request"),
        (signed(iss="https://evil.example"), "invalid_issuer"),
        (signed(iss=None), "invalid_issuer"),
        (signed(OTHER_RS, iss=OTHER), "invalid_issuer"),  # trusted, but not the transmitter
        (signed(OTHER_RS), "invalid_key"),
        (signed(Signer("RS256", "forged", Signer("RS256", "x").key)), "invalid_key"),
        (signed(Signer("RS256", RS.kid, Signer("RS256", "x").key)), "authentication_failed"),
        (signed()[:-6] + "AAAAAA", "authentication_failed"),
        (RS.sign(SET, {"typ": "secevent+jwt", "alg": "none"}), "invalid_request"),
        (RS.sign(SET, {"typ": "secevent+jwt", "alg": "HS256"}), "invalid_request"),
        (RS.sign(SET, {"typ": "secevent+jwt", "crit": ["x"]}), "invalid_request"),
        (signed(aud=None), "invalid_audience"),
        (signed(aud="api"), "invalid_audience"),
        (signed(aud=[]), "invalid_audience"),
        (signed(aud={RECEIVER: 1}), "invalid_audience"),
        (signed(jti=None), "invalid_request"),
        (signed(jti=""), "invalid_request"),
        (signed(jti=7), "invalid_request"),
        (signed(jti="j" * 513), "invalid_request"),
        (signed(iat=None), "invalid_request"),
        (signed(iat="now"), "invalid_request"),
        (signed(iat=NOW + 331), "invalid_request"),
        (signed(events=None), "invalid_request"),
        (signed(sub_id={"format": "email", "email": "u@a.example"}), "invalid_request"),
        (signed(padding="x" * MAX_BYTES), "invalid_request"),
        ("", "invalid_request"),
        ("a.b.c", "invalid_request"),
        ("\u00e9.\u00e9.\u00e9", "invalid_request"),
    ],
)
def test_anything_else_is_refused_with_the_code_of_rfc_8935_and_without_a_quotation(text: str, code: str) -> None:
    with pytest.raises(RefusedSetError) as refused:
        verify(text)
    assert refused.value.code == code
    for quotation in ("evil", "u1", "set-1", "u@a"):
        assert quotation not in str(refused.value)


def test_a_set_that_waits_for_keys_is_not_refused() -> None:
    trust = LocalValidator()
    text = signed(Signer("RS256", "new"))
    found = SetVerifier(trust.validator, trust.issuers[0], RECEIVER).verify(text, NOW + 3600, FIRST)
    assert isinstance(found, NeedKeys)


def test_a_set_is_not_refused_while_the_keys_are_unavailable() -> None:
    trust = LocalValidator()
    late = NOW + 10 * 86_400  # past the outage tolerance
    with pytest.raises(Rejected) as rejected:
        SetVerifier(trust.validator, trust.issuers[0], RECEIVER).verify(signed(), late, LAST)
    assert rejected.value.reason.value == "keys_unavailable"


def test_a_set_from_the_near_future_is_not_refused_since_the_clock_here_may_be_slow() -> None:
    text = signed(iat=NOW + 330)
    with pytest.raises(Rejected) as rejected:
        verify(text)
    assert rejected.value.reason.value == "not_yet_valid"
    assert not isinstance(verify(text, LocalValidator(), NOW + 300), NeedKeys)


def test_a_set_is_not_an_access_token() -> None:
    assert TRUST.reason(signed(aud="api", exp=NOW + 60, sub="u1")) == "wrong_token_type"
    assert TRUST.reason(signed(typ="JWT", aud="api", exp=NOW + 60, sub="u1")) == "wrong_token_type"
