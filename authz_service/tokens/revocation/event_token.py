"""Verifies security event tokens (SET, RFC 8417), as strictly as access tokens.

No I/O: ``verify`` returns what has to be fetched first. Whether a SET was processed before is the caller's to know.

Invariants:
- Only the configured issuer's keys verify a SET, and its ``typ`` must be ``secevent+jwt``, which no other token has.
- Nothing of a SET is in an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.core.errors import Rejected
from authz_service.core.members import numeric_date
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt import jws
from authz_service.tokens.revocation.events import SecurityEvent, UnusableEventError, events_of
from authz_service.tokens.validator import NeedKeys

if TYPE_CHECKING:
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.validator import SignatureVerifier, TrustedIssuer

MAX_BYTES = 16_384
MAX_JTI = 512  # characters
_MAX_WAIT = 300.0  # seconds for which a SET waits for its ``iat``, if the clock here is slow
_TYPES = frozenset({"secevent+jwt", "application/secevent+jwt"})
# RFC 8935 section 2.4, for the ``setErrs`` of RFC 8936. Every other reason is invalid_request.
_CODES = {
    Reason.UNKNOWN_ISSUER: "invalid_issuer",
    Reason.UNKNOWN_KEY: "invalid_key",
    Reason.BAD_SIGNATURE: "authentication_failed",
}


class RefusedSetError(Exception):
    """A SET that will never be accepted."""

    def __init__(self, code: str, cause: str) -> None:
        """``code`` is for the transmitter, ``cause`` for the log."""
        super().__init__(cause)
        self.code = code


class SetVerifier:
    """Verifies the SETs of one issuer for one audience."""

    def __init__(self, signatures: SignatureVerifier, issuer: TrustedIssuer, audience: str) -> None:
        """``issuer`` is one of those whose signatures are verified. The SETs of others are refused as such."""
        self._signatures = signatures
        self._issuer = issuer
        self._audience = audience

    def verify(self, text: str, now: float, attempt: Attempt) -> tuple[SecurityEvent, ...] | NeedKeys:
        """The events of the SET, or the keys that have to be fetched to verify it.

        Raises:
            RefusedSetError: if it will never be accepted.
            Rejected: ``keys_unavailable`` or ``not_yet_valid``, if it may be accepted later.
        """
        if len(text) > MAX_BYTES:
            raise RefusedSetError("invalid_request", f"more than {MAX_BYTES} characters")
        try:
            token = jws.parse(text)
            self._require_type(token.header.get("typ"))
            issuer = self._signatures.issuer_of(token)
            if issuer is not self._issuer:
                raise RefusedSetError("invalid_issuer", "iss is another configured issuer")
            key = self._signatures.verify(token, issuer, now, attempt)
            if isinstance(key, NeedKeys):
                return key
            return self._accept(token.unverified_claims, now)
        except UnusableEventError as error:
            raise RefusedSetError("invalid_request", str(error)) from None
        except Rejected as rejected:
            if rejected.reason in {Reason.KEYS_UNAVAILABLE, Reason.NOT_YET_VALID}:
                raise
            raise RefusedSetError(_CODES.get(rejected.reason, "invalid_request"), rejected.reason.value) from None

    @staticmethod
    def _require_type(typ: object) -> None:
        if not isinstance(typ, str) or typ.lower() not in _TYPES:
            raise RefusedSetError("invalid_request", "typ is not secevent+jwt")

    def _accept(self, claims: dict[str, Any], now: float) -> tuple[SecurityEvent, ...]:
        """The events of a SET whose signature was verified."""
        audiences = claims.get("aud")
        if audiences != self._audience and not (isinstance(audiences, list) and self._audience in audiences):
            raise RefusedSetError("invalid_audience", "aud is not that of this receiver")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:
            raise RefusedSetError("invalid_request", f"jti is not a string of 1 to {MAX_JTI} characters")
        if "iat" not in claims:
            raise RefusedSetError("invalid_request", "iat is missing")
        issued_at = float(numeric_date(claims, "iat", now))
        ahead = issued_at - self._issuer.settings.leeway - now
        if ahead > _MAX_WAIT:
            raise RefusedSetError("invalid_request", "iat is in the future")
        if ahead > 0:
            raise Rejected(Reason.NOT_YET_VALID, "iat is in the future")
        iss = claims["iss"]
        tenant = "" if self._issuer.settings.template is None else iss
        return events_of(claims, iss, tenant)
