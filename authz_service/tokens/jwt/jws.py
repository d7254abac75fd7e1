"""JSON Web Signatures in compact serialization (RFC 7515 section 7.1): parsing and verifying.

No I/O, and no claim is validated here. A token has one reading or is malformed.

Invariants:
- A token never supplies a key: ``jwk``, ``jku``, ``x5u`` and ``x5c`` are not read.
- A header with extensions (``crit``), unencoded content (``b64``) or members of a JWE is malformed.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core import base64url, strict_json
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.keys.jwk import Key
    from authz_service.keys.trials import Exhausted, KeyTrials

_JWS_PARTS = 3
_JWE_PARTS = 5
_EXTENSIONS = ("crit", "b64")
# Header members of a JWE (RFC 7516 section 4.1, RFC 7518 sections 4.6 to 4.8): to another reader it may be one.
_JWE_MEMBERS = ("enc", "zip", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c")
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)


class Jws(NamedTuple):
    """A parsed token, not verified yet."""

    algorithm: str
    kid: str | None
    header: dict[str, Any]
    unverified_claims: dict[str, Any]
    signing_input: bytes
    signature: bytes


def is_jwt(token: str) -> bool:
    """Whether any reader could take a token for a JWT: three parts, the first of them a JSON object. Others are opaque.

    Lenient, although ``parse`` is strict: what only a lenient reader takes for a JWT is malformed, and must not be sent
    to an introspection server that might read it so.
    """
    if token.count(".") != _JWS_PARTS - 1:
        return False
    encoded = token.partition(".")[0].replace("+", "-").replace("/", "_")
    try:
        header = base64.urlsafe_b64decode(encoded + "==")
        return isinstance(_LENIENT.decode(header.decode(json.detect_encoding(header), "surrogatepass")), dict)
    except RecursionError:
        return True
    except ValueError:  # not base64, no characters, or not JSON
        return False


def parse(token: str) -> Jws:
    """Parse a token.

    Raises:
        Rejected: ``malformed_token``.
    """
    parts = token.split(".")
    if len(parts) == _JWE_PARTS:
        raise _malformed("five parts, as in an encrypted token (JWE); expected three")
    if len(parts) != _JWS_PARTS:
        raise _malformed(f"{len(parts)} parts; expected three")
    header = _json_object(parts[0], "header")
    for name in _EXTENSIONS:
        if name in header:
            raise _malformed(f"{name} in the header is not supported")
    for name in _JWE_MEMBERS:
        if name in header:
            raise _malformed(f"{name} in the header, as in an encrypted token (JWE)")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (isinstance(kid, str) or "kid" not in header):
        raise _malformed("alg or kid in the header is not a string")
    return Jws(
        algorithm=algorithm,
        kid=kid,
        header=header,
        unverified_claims=_json_object(parts[1], "claims"),
        signing_input=f"{parts[0]}.{parts[1]}".encode("ascii"),
        signature=_decode(parts[2], "signature"),
    )


def verifying_key(token: Jws, keys: Sequence[Key], trials: KeyTrials, now: float) -> Key | Exhausted | None:
    """The key that verifies the signature, of those for the token's algorithm."""
    return trials.verifying_key(keys, token.algorithm, token.signing_input, token.signature, now)


def _json_object(part: str, what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(_decode(part, what))
    except ValueError as error:
        raise _malformed(f"the {what}: {error}") from None
    if not isinstance(value, dict):
        raise _malformed(f"the {what}: not a JSON object")
    return value


def _decode(part: str, what: str) -> bytes:
    try:
        return base64url.decode(part)
    except ValueError as error:
        raise _malformed(f"the {what}: {error}") from None


def _malformed(cause: str) -> Rejected:
    return Rejected(Reason.MALFORMED_TOKEN, cause)
