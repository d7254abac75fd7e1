"""What must be in no log, metric or answer: any part of a token or a proof."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jwt.utils import base64url_decode

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = 16  # octets of a part that give something away


def parts_in(text: str, secrets: Iterable[str]) -> set[str]:
    """The secrets of which 16 consecutive octets are in the text."""
    seen = {text[i : i + _LENGTH] for i in range(len(text) - _LENGTH + 1)}
    return {
        secret
        for secret in secrets
        if any(secret[i : i + _LENGTH] in seen for i in range(max(1, len(secret) - _LENGTH + 1)))
    }


def members_of_proof(proof: str) -> set[str]:
    """The decoded strings of a proof that are not in its request: jti, nonce, ath and the numbers of its key."""
    header, claims = (json.loads(base64url_decode(part)) for part in proof.split(".")[:2])
    members: dict[str, Any] = header["jwk"] | claims
    return {str(members[name]) for name in ("jti", "nonce", "ath", "x", "y", "n") if name in members}
