"""Taking a JWT apart: JWS compact serialization (RFC 7515 section 7.1), read in one way or not at all.

Law: pure; nothing is believed yet. A header cannot bring a key of its own: ``jwk``, ``jku``, ``x5u`` and ``x5c`` are
never looked at. Extensions (``crit``), unencoded content (``b64``) and whatever belongs to encryption are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from authz_service.core import strict_json
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

_JWS_PARTS = 3
_JWE_PARTS = 5
_EXTENSIONS = ("crit", "b64")
# Of a JWE (RFC 7516 section 4.1, RFC 7518 sections 4.6 to 4.8): who reads the header so sees another token than we do.
_OF_ENCRYPTION = ("enc", "zip", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c")
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)


class Jws(NamedTuple):
    """A signed token, taken apart and not yet verified."""

    algorithm: str
    kid: str | None
    header: dict[str, Any]
    unverified_claims: dict[str, Any]
    signing_input: bytes
    signature: bytes


def is_jwt(token: str) -> bool:
    """Whether a token means to be a JWT: three parts, the first of which any lenient reader takes for a JSON object.

    What is none is opaque. Lenient, since ``parse`` is strict: what another reader could take for a JWT is refused
    here, and never passed on for somebody to believe it.
    """
    if token.count(".") != _JWS_PARTS - 1:
        return False
    encoded = token.partition(".")[0].replace("+", "-").replace("/", "_")
    try:
        text = base64.urlsafe_b64decode(encoded + "==")
        return isinstance(_LENIENT.decode(text.decode(json.detect_encoding(text), "surrogatepass")), dict)
    except RecursionError:
        return True
    except ValueError:  # no base64, no text, no JSON
        return False


def parse(token: str) -> Jws:
    """Take a token apart.

    Raises:
        Rejected: ``malformed_token``.
    """
    parts = token.split(".")
    if len(parts) == _JWE_PARTS:
        raise _malformed("an encrypted token (JWE)")
    if len(parts) != _JWS_PARTS:
        raise _malformed("not three parts")
    header = _json_object(parts[0], "header")
    for name in _EXTENSIONS:
        if name in header:
            raise _malformed(f"the header demands {name}")
    for name in _OF_ENCRYPTION:
        if name in header:
            raise _malformed(f"the header has {name}, as encrypted tokens (JWE) do")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (isinstance(kid, str) or "kid" not in header):
        raise _malformed("alg or kid in the header is not a string")
    return Jws(
        algorithm=algorithm,
        kid=kid,
        header=header,
        unverified_claims=_json_object(parts[1], "claims"),
        signing_input=f"{parts[0]}.{parts[1]}".encode("ascii"),
        signature=_base64url(parts[2], "signature"),
    )


def _json_object(part: str, what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(_base64url(part, what))
    except ValueError as error:
        raise _malformed(f"the {what}: {error}") from None
    if not isinstance(value, dict):
        raise _malformed(f"the {what}: not a JSON object")
    return value


def _base64url(part: str, what: str) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), of which each octet string has exactly one form."""
    try:
        encoded = part.encode("ascii")
        decoded = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _malformed(f"the {what}: not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != encoded:
        raise _malformed(f"the {what}: not the canonical base64url")
    return decoded


def _malformed(cause: str) -> Rejected:
    return Rejected(Reason.MALFORMED_TOKEN, cause)
