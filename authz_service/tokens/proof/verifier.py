"""Verifying what the sender of a token must prove: its key, its client certificate, or both.

Owns which proof a token needs, and the order of the steps: first what costs nothing, last the DPoP proof, which counts
as used from then on. No I/O.

Invariants:
- A token with a confirmation passes only if every part of it was proven for this request.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from authz_service.core.confirmation import IGNORED
from authz_service.core.credential import BEARER, DPOP
from authz_service.core.errors import ProofRejected, Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import ValidatedToken
    from authz_service.tokens.proof.certificate import ClientCertificates
    from authz_service.tokens.proof.dpop import DpopVerifier
    from authz_service.tokens.proof.nonce import Nonces

    Headers = tuple[tuple[str, str], ...]

_HEADER = "dpop"
_NONCE_HEADER = "dpop-nonce"
_VALID = "valid"
_BOUND_TO_KEY = "the token is bound to a DPoP key (cnf.jkt)"


class ProofVerifier:
    """Verifies the senders of tokens by one configuration."""

    def __init__(
        self,
        dpop: DpopVerifier,
        certificates: ClientCertificates,
        *,
        nonces: Nonces | None,
        leeways: Mapping[str, float],
        record: Callable[[str], None],
    ) -> None:
        """``nonces`` are those that proofs need, None if they need none. ``leeways`` are in seconds, by issuer name.

        ``record`` is called with the result of each DPoP proof: valid, or the reason of its rejection.
        """
        self._dpop = dpop
        self._certificates = certificates
        self._nonces = nonces
        self._leeways = leeways
        self._record = record

    def verify(self, token: ValidatedToken, text: str, attributes: Attributes, now: float, *, dpop: bool) -> Headers:
        """Verify the sender of a token; returns headers with a fresh nonce for the response, if one is due.

        ``text`` is the token as sent. ``dpop`` says whether its scheme is DPoP.

        Raises:
            Rejected: ``unbound_token``, ``missing_proof``, ``invalid_proof``, ``replayed_proof`` or ``nonce_required``.
        """
        confirmation = token.claims.confirmation
        if confirmation == IGNORED:
            return ()
        if dpop and (confirmation is None or confirmation.jkt is None):
            raise Rejected(Reason.UNBOUND_TOKEN, "the scheme is DPoP, and the token has no cnf.jkt")
        if confirmation is None:
            return ()
        if confirmation.jkt is not None:
            self._require_dpop_header(attributes.headers, dpop=dpop)
        if confirmation.x5t_s256 is not None:
            self._verify_certificate(confirmation.x5t_s256, attributes)
        return () if confirmation.jkt is None else self._verify_dpop(token, text, confirmation.jkt, attributes, now)

    @staticmethod
    def _require_dpop_header(headers: Mapping[str, str], *, dpop: bool) -> None:
        if not dpop:
            raise ProofRejected(Reason.MISSING_PROOF, f"{_BOUND_TO_KEY}, and the scheme is not DPoP", scheme=DPOP)
        if _HEADER not in headers:
            raise ProofRejected(
                Reason.MISSING_PROOF, f"{_BOUND_TO_KEY}, and the request has no DPoP header", scheme=DPOP
            )

    def _verify_certificate(self, digest: bytes, attributes: Attributes) -> None:
        try:
            found = self._certificates.digest_of(attributes)
        except Rejected as rejected:
            raise ProofRejected(rejected.reason, rejected.cause, scheme=BEARER) from None
        if found is None:
            cause = "the token is bound to a client certificate (cnf.x5t#S256), and Envoy sent none (mtls.certificate)"
            raise ProofRejected(Reason.MISSING_PROOF, cause, scheme=BEARER)
        if not hmac.compare_digest(found, digest):
            cause = "the client certificate is not the one to which the token is bound (cnf.x5t#S256)"
            raise ProofRejected(Reason.INVALID_PROOF, cause, scheme=BEARER)

    def _verify_dpop(
        self, token: ValidatedToken, text: str, thumbprint: bytes, attributes: Attributes, now: float
    ) -> Headers:
        leeway = self._leeways[token.claims.issuer]
        try:
            proof = self._dpop.verify(
                attributes.headers[_HEADER], attributes, text, thumbprint, leeway=leeway, now=now, known=token.proof_key
            )
        except Rejected as rejected:
            self._record(rejected.reason)
            raise ProofRejected(rejected.reason, f"DPoP proof: {rejected.cause}", scheme=DPOP) from None
        self._record(_VALID)
        if proof.key is not token.proof_key:
            token.proof_key = proof.key
        if self._nonces is None or proof.nonce_age is None or proof.nonce_age < self._nonces.lifetime / 2:
            return ()
        return self._fresh_nonce(self._nonces, now)

    def nonce_headers(self, challenges: Iterable[str], now: float) -> Headers:
        """The headers with a fresh nonce for a denial with these challenges, if its client could use one."""
        if self._nonces is None or not any(challenge.startswith(DPOP) for challenge in challenges):
            return ()
        return self._fresh_nonce(self._nonces, now)

    def without_history(self) -> ProofVerifier:
        """A verifier by the same configuration that has not seen any proof."""
        return ProofVerifier(
            self._dpop.without_history(),
            self._certificates,
            nonces=self._nonces,
            leeways=self._leeways,
            record=lambda _result: None,
        )

    @staticmethod
    def _fresh_nonce(nonces: Nonces, now: float) -> Headers:
        return ((_NONCE_HEADER, nonces.issue(now)),)
