"""A SET revokes what its issuer named in it, or is refused with a cause that quotes nothing of it.

The first line is the ``typ`` of a SET, the rest are its claims, which a known key signs.

* A refused SET has a code of RFC 8935, and a cause that is the same whatever the SET contains.
* One that waits is of the near future.
* Of an accepted one, issuer, audience, type and time are as required, and every event is counted once.
* A revocation names a user or a session that the SET names, and no tokens that were issued after it.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.attempt import LAST
from authz_service.tokens.revocation.event_token import RefusedSetError, SetVerifier
from authz_service.tokens.validator import NeedKeys
from fuzz.issuers import LEEWAY, MAIN, NOW, SIGNERS
from fuzz.sidecar import now, sidecar

OUTCOMES = {"revokes", "no effect", "waits", "invalid_request", "invalid_issuer", "invalid_audience"}
MAX_BYTES = 4096
RECEIVER = "https://receiver.example"
_CODES = {"invalid_request", "invalid_issuer", "invalid_audience", "invalid_key", "authentication_failed"}
_CAUSE = re.compile(r"[A-Za-z0-9_ ,'+.-]{5,120}")
_TYPES = {"secevent+jwt", "application/secevent+jwt"}


@functools.cache
def _verifier() -> SetVerifier:
    validator = sidecar().validator
    return SetVerifier(validator, validator._issuers[MAIN], RECEIVER)


def run(data: bytes) -> str:
    typ, _, payload = data.partition(b"\n")
    header = json.dumps({"typ": typ.decode("latin-1"), "alg": SIGNERS["ed"].algorithm, "kid": "ed"})
    text = SIGNERS["ed"].sign_json(header.encode(), payload)
    try:
        verified = _verifier().verify(text, now(), LAST)
    except RefusedSetError as refusal:
        assert refusal.code in _CODES
        assert _CAUSE.fullmatch(str(refusal)) or str(refusal) in {each.value for each in Reason}
        return refusal.code
    except Rejected as rejected:
        assert rejected.reason is Reason.NOT_YET_VALID
        assert NOW + LEEWAY < json.loads(payload)["iat"] <= NOW + LEEWAY + 300
        return "waits"
    assert not isinstance(verified, NeedKeys)
    assert typ.decode("latin-1").lower() in _TYPES
    claims: dict[str, Any] = json.loads(payload)
    assert claims["iss"] == MAIN
    assert claims["aud"] == RECEIVER or RECEIVER in claims["aud"]
    assert claims["jti"]
    assert claims["iat"] <= NOW + LEEWAY
    assert len(verified) == len(claims["events"])
    revocations = [revocation for event in verified for revocation in event.revocations]
    strings = set(_strings(claims))
    for parts, issued_before, origin in revocations:
        assert bool(parts.subject) != bool(parts.session)
        assert {*parts} - {""} <= strings
        assert issued_before <= claims["iat"] + 1
        assert any(kind.endswith(f"/{origin}") for kind in claims["events"])
    return "revokes" if revocations else "no effect"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in _strings(each)]
    return [value] if isinstance(value, str) else []
