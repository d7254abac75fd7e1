"""Verifying a token's signature and validating its claims, in that order.

Law: synchronous and without I/O. Where a key is missing that may be published by now, it says so (``NeedKeys``) and is
asked again once the keys were fetched. The issuer is chosen by the unverified ``iss`` among the configured ones, and
only that issuer's keys may verify the token (RFC 8725 section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason
from authz_service.keys.cache import NoKey
from authz_service.keys.keyset import ALGORITHMS, MAX_CANDIDATES
from authz_service.tokens import jws
from authz_service.tokens.cache import Entry, TokenCache, digest_of
from authz_service.tokens.claims import valid_until, validate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.config.model import Issuer
    from authz_service.core.claims import Claims
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.keyset import Key
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.jws import Jws


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer's settings and its keys."""

    settings: Issuer
    keys: KeyCache


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """The token can not be verified before these keys were fetched anew."""

    keys: KeyCache


class Validator:
    """Turns tokens into claims."""

    def __init__(self, issuers: Iterable[TrustedIssuer], cache: TokenCache, metrics: Metrics) -> None:
        self._issuers = {issuer.settings.issuer: issuer for issuer in issuers}
        self._cache = cache
        self._metrics = metrics

    def claims_of(self, token: str, now: float, *, may_fetch: bool) -> Claims | NeedKeys:
        """The validated claims of an access token; ``NeedKeys`` only when ``may_fetch``.

        Raises:
            Rejected: with the reason why the token is not to be believed.
        """
        digest = digest_of(token)
        entry = self._cache.get(digest, now)
        if entry is not None:
            self._metrics.token_cache_hit()
            return entry.claims
        if may_fetch:  # the second look at one request is no second miss
            self._metrics.token_cache_miss()
        token_parts = jws.parse(token)
        issuer = self.issuer_of(token_parts)
        key = self.verify(token_parts, issuer, now, may_fetch=may_fetch)
        if isinstance(key, NeedKeys):
            return key
        claims = validate(issuer.settings, token_parts.header, token_parts.unverified_claims, now)
        self._remember(digest, claims, issuer, key, now)
        return claims

    def issuer_of(self, token: Jws) -> TrustedIssuer:
        """Whose token it says it is, if that issuer accepts its algorithm.

        Raises:
            Rejected: ``unknown_issuer`` or ``unsupported_algorithm``.
        """
        if token.algorithm not in ALGORITHMS:
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, f"alg is {quoted(token.algorithm)}")
        iss = token.unverified_claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise Rejected(Reason.UNKNOWN_ISSUER, f"iss is {quoted(iss)}")
        if token.algorithm not in issuer.settings.algorithms:
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, f"alg is {quoted(token.algorithm)}")
        return issuer

    def verify(self, token: Jws, issuer: TrustedIssuer, now: float, *, may_fetch: bool) -> Key | NeedKeys:
        """The issuer's key by which the signature verifies.

        Raises:
            Rejected: when there is none, or when the keys are not available.
        """
        named = issuer.keys.find(token.kid, now, may_fetch=may_fetch)
        if isinstance(named, NoKey):
            return self._without_key(named, token, issuer, now)
        fitting = [key for key in named if token.algorithm in key.algorithms]
        if not fitting:
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, f"no key with kid {quoted(token.kid)} fits {token.algorithm}")
        for key in fitting[:MAX_CANDIDATES]:
            if key.verifies(token.algorithm, token.signing_input, token.signature):
                return key
        raise Rejected(Reason.BAD_SIGNATURE, f"kid is {quoted(token.kid)}")

    @staticmethod
    def _without_key(why: NoKey, token: Jws, issuer: TrustedIssuer, now: float) -> NeedKeys:
        match why:
            case NoKey.FETCH:
                return NeedKeys(issuer.keys)
            case NoKey.ABSENT:
                raise Rejected(Reason.UNKNOWN_KEY, f"kid is {quoted(token.kid)}")
            case NoKey.UNAVAILABLE:
                raise Rejected(
                    Reason.KEYS_UNAVAILABLE,
                    f"keys of {issuer.settings.label} are not available",
                    retry_after=issuer.keys.retry_after(now),
                )

    def _remember(self, digest: bytes, claims: Claims, issuer: TrustedIssuer, key: Key, now: float) -> None:
        key_set = issuer.keys.current(now)
        if key_set is not None:
            until = valid_until(issuer.settings, claims)
            self._cache.put(digest, Entry(claims, until, issuer.keys, key, key_set), now)
