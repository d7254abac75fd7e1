"""What a request shows of its sender's proof, member by member.

The verifier stops at the first mistake; these findings name all of them, so that a client can be repaired at once. They
decide nothing, and quote nothing of a proof.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core import base64url
from authz_service.core.errors import Rejected
from authz_service.keys import jwk
from authz_service.tokens.jwt import jws
from authz_service.tokens.proof.certificate import ClientCertificates
from authz_service.tokens.proof.target import Targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config import model
    from authz_service.core.attributes import Attributes
    from authz_service.core.confirmation import Confirmation

_FARTHEST = 1e12  # seconds: a time that is farther away is a mistake in its unit


class ProofFinding(NamedTuple):
    """One part of what must be proven."""

    name: str
    detail: str
    holds: bool = True


def findings(
    settings: model.Settings,
    issuer: model.Issuer,
    confirmation: Confirmation,
    token: str,
    attributes: Attributes,
    now: float,
) -> Iterator[ProofFinding]:
    """The findings for a request with this token. ``now`` is in seconds since the epoch.

    There are none about a DPoP proof that is missing or cannot be parsed.
    """
    if confirmation.x5t_s256 is not None:
        yield _certificate(settings.mtls, confirmation.x5t_s256, attributes)
    if confirmation.jkt is not None:
        yield from _proof(settings.dpop_or_default, issuer.leeway, confirmation.jkt, token, attributes, now)


def _certificate(mtls: model.MtlsSettings, digest: bytes, attributes: Attributes) -> ProofFinding:
    try:
        found = ClientCertificates(mtls.certificate, mtls.xfcc_hops).digest_of(attributes)
    except Rejected as rejected:
        return ProofFinding("certificate", rejected.cause, holds=False)
    if found is None:
        return ProofFinding("certificate", "the request has none", holds=False)
    same = hmac.compare_digest(found, digest)
    return _compared("certificate", "the one to which the token is bound (cnf.x5t#S256)", same=same)


def _proof(
    dpop: model.DpopSettings, leeway: float, thumbprint: bytes, token: str, attributes: Attributes, now: float
) -> Iterator[ProofFinding]:
    try:
        encoded_header, encoded_claims, _ = jws.parts_of(attributes.headers.get("dpop", ""))
        header, claims = jws.header_of(encoded_header), jws.claims_of(encoded_claims)
    except Rejected:
        return
    yield _compared("htm", "the method of the request", same=claims.get("htm") == attributes.method)
    yield _htu(claims.get("htu"), dpop, attributes)
    yield _iat(claims.get("iat"), dpop.max_age, leeway, now)
    ath = base64url.encode(hashlib.sha256(token.encode()).digest())
    yield _compared("ath", "the SHA-256 digest of the token", same=claims.get("ath") == ath)
    yield _thumbprint(header.get("jwk"), thumbprint)
    if dpop.nonce == "required":
        found = "nonce" in claims
        yield ProofFinding("nonce", "present" if found else "missing, and required (dpop.nonce)", holds=found)


def _compared(name: str, what: str, *, same: bool) -> ProofFinding:
    return ProofFinding(name, what if same else f"not {what}", holds=same)


def _htu(htu: Any, dpop: model.DpopSettings, attributes: Attributes) -> ProofFinding:
    try:
        Targets(dpop.origins).require(htu if isinstance(htu, str) else "", attributes.host, attributes.path)
    except Rejected as rejected:
        return ProofFinding("htu", rejected.cause, holds=False)
    return ProofFinding("htu", "the URL of the request")


def _iat(issued_at: Any, max_age: float, leeway: float, now: float) -> ProofFinding:
    is_number = isinstance(issued_at, (int, float)) and not isinstance(issued_at, bool)
    if not is_number or abs(issued_at) > _FARTHEST:
        return ProofFinding("iat", "not a time in seconds since 1970", holds=False)
    age = now - issued_at
    if age > max_age:
        late = f"{age:.0f} s ago, {age - max_age:.0f} s too long (dpop.max_age is {max_age:g} s)"
        return ProofFinding("iat", late, holds=False)
    if -age > leeway:
        early = f"{-age:.0f} s in the future, {-age - leeway:.0f} s too far (the issuer's leeway is {leeway:g} s)"
        return ProofFinding("iat", early, holds=False)
    when = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s in the future"
    return ProofFinding("iat", f"{when} (dpop.max_age is {max_age:g} s)")


def _thumbprint(members: Any, expected: bytes) -> ProofFinding:
    if not isinstance(members, dict):
        return ProofFinding("thumbprint", "the header has no jwk", holds=False)
    try:
        same = hmac.compare_digest(jwk.thumbprint(members), expected)
    except jwk.UnusableKey as error:
        return ProofFinding("thumbprint", f"jwk in the header: {error}", holds=False)
    return _compared("thumbprint", "of the key to which the token is bound (cnf.jkt)", same=same)
