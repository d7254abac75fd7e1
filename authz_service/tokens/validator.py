"""Verifying a token's signature and validating its claims, in that order.

Law: synchronous and without I/O. Where a key is missing that may be published by now, or a server has to be asked, it
says so (``NeedKeys``, ``NeedIntrospection``) and is asked again with what came. The issuer is chosen by the unverified
``iss`` among the configured ones, and only that issuer's keys may verify the token (RFC 8725 section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from authz_service.core.claims import ValidatedToken
from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason
from authz_service.keys.cache import NoKey
from authz_service.keys.keyset import ALGORITHMS, MAX_CANDIDATES
from authz_service.tokens.introspection.opaque import NeedIntrospection, Servers, claims_of_opaque, claims_of_verified
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import Entry, TokenCache, digest_of
from authz_service.tokens.jwt.claims import valid_until, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from authz_service.config.model import Issuer
    from authz_service.core.claims import Claims
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.keyset import Key
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.introspection.introspector import Introspector
    from authz_service.tokens.introspection.opaque import Answers
    from authz_service.tokens.jwt.jws import Jws


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer's settings, its keys, and who asks it about tokens if that is configured."""

    settings: Issuer
    keys: KeyCache
    introspector: Introspector | None = None


@dataclass(slots=True)
class NeedKeys:
    """The token cannot be verified before these keys were fetched anew.

    Where a token that verifies has to be asked about too, ``then`` says what else is needed once the keys are there.
    """

    keys: KeyCache
    then: Callable[[], NeedIntrospection | None] | None = field(default=None, compare=False, repr=False)
    _asked: NeedIntrospection | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def what(self) -> str:
        """What is waited for, for the log."""
        return f"keys of {self.keys.issuer}" if self._asked is None else self._asked.what

    @property
    def answers(self) -> Answers:
        """What servers said of the token while it was waited for."""
        return [] if self._asked is None else self._asked.answers

    async def ready(self) -> None:
        """Wait until they were fetched, or could not be. Never raises for a failed fetch."""
        await self.keys.refresh_for_request()
        if self.then is not None:
            self._asked = self.then()
        if self._asked is not None:
            await self._asked.ready()


Need = NeedKeys | NeedIntrospection


class Validator:
    """Turns tokens into claims."""

    def __init__(self, issuers: Iterable[TrustedIssuer], cache: TokenCache, metrics: Metrics) -> None:
        issuers = tuple(issuers)
        self._issuers = {issuer.settings.issuer: issuer for issuer in issuers}
        self._cache = cache
        self._metrics = metrics
        self._servers = Servers([each.introspector for each in issuers if each.introspector is not None])

    def claims_of(
        self,
        text: str,
        now: float,
        accepted: frozenset[str] | None = None,
        *,
        may_fetch: bool,
        answers: Answers = (),
    ) -> ValidatedToken | Need:
        """The validated access token; what is missing only when ``may_fetch``.

        ``accepted`` are the names of the issuers that are asked about a token that is opaque, None for all; ``answers``
        are those that were waited for.

        Raises:
            Rejected: with the reason why the token is not to be believed.
        """
        digest = digest_of(text)
        entry = self._cache.get(digest, now)
        if entry is not None:
            self._metrics.token_cache_hit()
            return self._confirmed(text, digest, entry.token, now, may_fetch=may_fetch, answers=answers)
        servers = self._servers.accepted(accepted)
        if servers and not jws.is_jwt(text):
            return claims_of_opaque(text, digest, servers, now, may_fetch=may_fetch, answers=answers)
        if may_fetch:  # the second look at one request is no second miss
            self._metrics.token_cache_miss()
        token = self._verified(text, digest, now, may_fetch=may_fetch)
        if isinstance(token, NeedKeys):
            return token
        return self._confirmed(text, digest, token, now, may_fetch=may_fetch, answers=answers)

    def asks_about(self, token: str, accepted: frozenset[str] | None) -> bool:
        """Whether a token is opaque and there is somebody to ask about it among these issuers."""
        return bool(self._servers.accepted(accepted)) and not jws.is_jwt(token)

    def confirms(self, claims: Claims) -> bool:
        """Whether a verified JWT with these claims is asked about too."""
        return self._servers.confirming(claims.issuer) is not None

    def _verified(self, text: str, digest: bytes, now: float, *, may_fetch: bool) -> ValidatedToken | NeedKeys:
        """A JWT, validated by its signature and its issuer's settings."""
        token_parts = jws.parse(text)
        issuer = self.issuer_of(token_parts)
        key = self.verify(token_parts, issuer, now, may_fetch=may_fetch)
        if isinstance(key, NeedKeys):
            server = self._servers.confirming(issuer.settings.label)
            if server is not None:
                key.then = partial(self._then, text, digest, server)
            return key
        token = ValidatedToken(validate(issuer.settings, token_parts.header, token_parts.unverified_claims, now))
        self._remember(digest, token, issuer, key, now)
        return token

    def _confirmed(
        self, text: str, digest: bytes, token: ValidatedToken, now: float, *, may_fetch: bool, answers: Answers
    ) -> ValidatedToken | NeedIntrospection:
        """A verified JWT, once its issuer also says that it is active, where it is to be asked."""
        server = self._servers.confirming(token.claims.issuer)
        if server is None:
            return token
        return claims_of_verified(text, digest, token, server, now, may_fetch=may_fetch, answers=answers)

    def _then(self, text: str, digest: bytes, server: Introspector) -> NeedIntrospection | None:
        """What else a token needs whose keys were fetched: nothing where they did not help it."""
        try:
            token = self._verified(text, digest, server.clock(), may_fetch=False)
        except Rejected:
            return None
        return None if isinstance(token, NeedKeys) else NeedIntrospection(text, digest, (server,), token.claims)

    def issuer_of(self, token: Jws) -> TrustedIssuer:
        """Whose token it says it is, if that issuer accepts its algorithm.

        Raises:
            Rejected: ``unknown_issuer`` or ``unsupported_algorithm``; ``unknown_key`` where the issuer has none at all.
        """
        if token.algorithm not in ALGORITHMS:
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, f"alg is {quoted(token.algorithm)}")
        iss = token.unverified_claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise Rejected(Reason.UNKNOWN_ISSUER, f"iss is {quoted(iss)}")
        if token.algorithm not in issuer.settings.algorithms:
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, f"alg is {quoted(token.algorithm)}")
        if not issuer.settings.has_keys:
            raise Rejected(Reason.UNKNOWN_KEY, f"{issuer.settings.label} has no keys: its tokens are opaque")
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

    def _remember(self, digest: bytes, token: ValidatedToken, issuer: TrustedIssuer, key: Key, now: float) -> None:
        key_set = issuer.keys.current(now)
        if key_set is not None:
            until = valid_until(issuer.settings, token.claims)
            self._cache.put(digest, Entry(token, until, issuer.keys, key, key_set), now)
