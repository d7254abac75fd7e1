"""The closed list of reasons matches the contract."""

from __future__ import annotations

import re

import pytest

from authz_service.core.reasons import ALLOWANCES, ANSWERS, DENIALS, Reason

_INVALID_TOKEN = (
    *("malformed_token", "unsupported_algorithm", "unknown_issuer", "unknown_key", "bad_signature", "expired"),
    *("not_yet_valid", "missing_claim", "invalid_claim", "wrong_audience", "id_token", "wrong_token_type", "too_old"),
    *("inactive", "revoked", "unsupported_confirmation", "unbound_token", "missing_proof"),
)
# Reason: HTTP status, google.rpc.Code, error of the challenge; "-" if no challenge is sent.
CONTRACT: dict[str, tuple[int, int, str | None]] = {
    "missing_token": (401, 16, None),
    "malformed_request": (400, 3, "invalid_request"),
    **dict.fromkeys(_INVALID_TOKEN, (401, 16, "invalid_token")),
    **dict.fromkeys(("invalid_proof", "replayed_proof"), (401, 16, "invalid_dpop_proof")),
    "nonce_required": (401, 16, "use_dpop_nonce"),
    "insufficient_scope": (403, 7, "insufficient_scope"),
    "stale_authentication": (401, 16, "insufficient_user_authentication"),
    "weak_authentication": (401, 16, "insufficient_user_authentication"),
    "claim_mismatch": (403, 7, "-"),
    "client_not_allowed": (403, 7, "-"),
    "issuer_not_allowed": (403, 7, "-"),
    "no_rule": (403, 7, "-"),
    "ambiguous_path": (400, 3, "-"),
    "keys_unavailable": (503, 14, "-"),
    "introspection_unavailable": (503, 14, "-"),
    "deadline_exceeded": (503, 14, "-"),
    "internal_error": (500, 13, "-"),
}


def test_every_reason_is_an_allowance_or_has_a_denial_and_none_is_both() -> None:
    assert set(Reason) == ALLOWANCES | ANSWERS | DENIALS.keys()
    assert not (ALLOWANCES | ANSWERS) & DENIALS.keys()
    assert not ALLOWANCES & ANSWERS
    assert {str(reason) for reason in ALLOWANCES} == {"ok", "public", "anonymous", "preflight"}


def test_the_denials_are_those_of_the_contract() -> None:
    assert {str(reason) for reason in DENIALS} == CONTRACT.keys()


@pytest.mark.parametrize("reason", DENIALS)
def test_status_code_and_challenge_are_those_of_the_contract(reason: Reason) -> None:
    denial = DENIALS[reason]
    error = denial.error if denial.challenged else "-"
    assert (denial.status, denial.rpc_code, error) == CONTRACT[reason]
    assert denial.challenged or denial.error is None


@pytest.mark.parametrize("reason", DENIALS)
def test_every_detail_is_valid_in_a_challenge_and_reads_as_a_sentence(reason: Reason) -> None:
    denial = DENIALS[reason]
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", denial.detail)  # RFC 6750 section 3
    assert denial.detail[0].isupper()
    assert not denial.detail.endswith(".")
    assert re.fullmatch("[a-z]+(_[a-z]+)*", reason)


def test_no_two_reasons_have_the_same_detail() -> None:
    details = [denial.detail for denial in DENIALS.values()]
    assert len(set(details)) == len(details)
