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
_REFUSED_MEMBERS = frozenset((*_EXTENSIONS, *_JWE_MEMBERS))
_MAX_KNOWN = 64  # parsed headers that are kept: an issuer has few keys
_MAX_KNOWN_LENGTH = 512  # characters of an encoded one
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


class KnownHeaders:
    """The parsed headers of verified tokens by their encoded form: the tokens of one key have one header, or few.

    Only those of verified tokens enter, so that forged ones neither fill it nor evict anything.
    """

    def __init__(self) -> None:
        self._headers: dict[str, dict[str, Any]] = {}
        self.get = self._headers.get

    def add(self, token: str, header: dict[str, Any]) -> None:
        """Add the header of a verified token, unless it is a long one."""
        encoded = token.partition(".")[0]
        if encoded in self._headers or len(encoded) > _MAX_KNOWN_LENGTH:
            return
        if len(self._headers) >= _MAX_KNOWN:
            self._headers.clear()
        self._headers[encoded] = header


def parse(token: str, known: KnownHeaders | None = None) -> Jws:
    """Parse a token, without parsing a header that is known.

    Raises:
        Rejected: ``malformed_token``.
    """
    encoded_header, encoded_claims, encoded_signature = parts_of(token)
    header = (known.get(encoded_header) if known is not None else None) or header_of(encoded_header)
    claims = claims_of(encoded_claims)
    signature = signature_of(encoded_signature)
    signing_input = token[: -len(encoded_signature) - 1].encode("ascii")
    return Jws(header["alg"], header.get("kid"), header, claims, signing_input, signature)


def parts_of(token: str, reason: Reason = Reason.MALFORMED_TOKEN) -> list[str]:
    """The three encoded parts of a token: header, claims, signature.

    Raises:
        Rejected: with ``reason``, as from the functions for the parts.
    """
    parts = token.split(".", _JWE_PARTS)
    if len(parts) == _JWE_PARTS:
        raise Rejected(reason, "five parts, as in an encrypted token (JWE); expected three")
    if len(parts) != _JWS_PARTS:
        raise Rejected(reason, f"{token.count('.') + 1} parts; expected three")
    return parts


def header_of(encoded: str, reason: Reason = Reason.MALFORMED_TOKEN) -> dict[str, Any]:
    """The header in the first part. Its ``alg``, and ``kid`` if it has one, are strings."""
    header = _json_object(encoded, "header", reason)
    if not _REFUSED_MEMBERS.isdisjoint(header):
        raise Rejected(reason, _refused_member(header))
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise Rejected(reason, "alg or kid in the header is not a string")
    return header


def claims_of(encoded: str, reason: Reason = Reason.MALFORMED_TOKEN) -> dict[str, Any]:
    """The unverified claims in the second part."""
    return _json_object(encoded, "claims", reason)


def signature_of(encoded: str, reason: Reason = Reason.MALFORMED_TOKEN) -> bytes:
    """The signature in the third part."""
    try:
        return base64url.decode(encoded)
    except ValueError as error:
        raise Rejected(reason, f"the signature: {error}") from None


def verifying_key(token: Jws, keys: Sequence[Key], trials: KeyTrials, now: float) -> Key | Exhausted | None:
    """The key that verifies the signature, of those for the token's algorithm."""
    return trials.verifying_key(keys, token.algorithm, token.signing_input, token.signature, now)


def _refused_member(header: dict[str, Any]) -> str:
    for name in _EXTENSIONS:
        if name in header:
            return f"{name} in the header is not supported"
    name = next(name for name in _JWE_MEMBERS if name in header)
    return f"{name} in the header, as in an encrypted token (JWE)"


def _json_object(part: str, what: str, reason: Reason) -> dict[str, Any]:
    try:
        value = strict_json.loads(base64url.decode(part))
    except ValueError as error:
        raise Rejected(reason, f"the {what}: {error}") from None
    if not isinstance(value, dict):
        raise Rejected(reason, f"the {what}: not a JSON object")
    return value
