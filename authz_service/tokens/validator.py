"""Validating a token: from its string to its claims.

Owns the order of the steps. No I/O: ``validate`` returns what has to be fetched first (``NeedKeys``,
``NeedIntrospection``), and the caller makes another attempt once that was awaited.

Invariants:
- The unverified ``iss`` selects among the configured issuers, and only that issuer's keys verify the token (RFC 8725
  section 3.8).
- Claims are validated only after the signature was verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

from authz_service.core.claims import UnverifiedIdentity, ValidatedToken
from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason
from authz_service.keys.cache import NoKey
from authz_service.keys.signatures import ALGORITHMS
from authz_service.keys.trials import EXHAUSTED
from authz_service.tokens.introspection.servers import Servers
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import JwtCache, digest_of
from authz_service.tokens.jwt.claims import (
    REQUIREMENTS,
    REQUIREMENTS_BEFORE_INTROSPECTION,
    identity_of,
    valid_until,
    validate_claims,
)
from authz_service.tokens.jwt.invalid import UnvalidatedJwt
from authz_service.tokens.jwt.packing import CachedJwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from authz_service.config.model import Issuer
    from authz_service.core.claims import Claims
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.jwk import Key
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.introspection.introspector import Introspector
    from authz_service.tokens.introspection.query import NeedIntrospection
    from authz_service.tokens.jwt.claims import Requirements
    from authz_service.tokens.jwt.invalid import InvalidJwt
    from authz_service.tokens.jwt.jws import Jws
    from authz_service.tokens.revocation.receiver import EventReceiver

    Need: TypeAlias = "NeedKeys | NeedIntrospection"
    Query = Callable[
        [str, bytes, Sequence[Introspector], float, Attempt, Claims | None], ValidatedToken | NeedIntrospection
    ]


class TrustedIssuer(NamedTuple):
    """An issuer's settings and keys, and its introspection server and security events if they are configured."""

    settings: Issuer
    keys: KeyCache
    introspector: Introspector | None = None
    events: EventReceiver | None = None


class NeedKeys(NamedTuple):
    """The token cannot be verified before these keys were fetched again."""

    keys: KeyCache
    identity: UnverifiedIdentity

    @property
    def what(self) -> str:
        """What is being waited for, for the log."""
        return f"keys of {self.issuer}"

    @property
    def issuer(self) -> str:
        """The name of the issuer whose keys are fetched."""
        return self.keys.issuer

    async def ready(self) -> None:
        """Wait for the fetch. Never raises for a failed one."""
        await self.keys.refresh_for_request()


class SignatureVerifier:
    """Finds the issuer that a token names, and verifies its signature with that issuer's keys."""

    def __init__(self, issuers: Iterable[TrustedIssuer]) -> None:
        issuers = tuple(issuers)
        self._issuers = {each.settings.issuer: each for each in issuers if each.settings.template is None}
        self._templates = tuple(
            (each.settings.template, each) for each in issuers if each.settings.template is not None
        )
        self._without_keys = frozenset(each.settings.label for each in issuers if not each.settings.has_keys)

    def issuer_of(self, token: Jws) -> TrustedIssuer:
        """The configured issuer that the token names, if it accepts the token's algorithm.

        Raises:
            Rejected: ``unknown_issuer`` or ``unsupported_algorithm``; ``unknown_key`` if the issuer has no keys at all.
        """
        if token.algorithm not in ALGORITHMS:
            cause = f"alg is {quoted(token.algorithm)}, expected an asymmetric signature algorithm"
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, cause)
        iss = token.unverified_claims.get("iss")
        issuer = self._issuers.get(iss) or self._of_template(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise Rejected(Reason.UNKNOWN_ISSUER, f"iss is {quoted(iss)}, which is not a configured issuer")
        if token.algorithm not in issuer.settings.algorithms:
            accepted = ", ".join(issuer.settings.algorithms)
            cause = f"alg is {quoted(token.algorithm)}, expected one of {accepted}"
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, cause)
        if issuer.settings.label in self._without_keys:
            raise Rejected(
                Reason.UNKNOWN_KEY, f"{issuer.settings.label} has no keys configured: its tokens must be opaque"
            )
        return issuer

    def _of_template(self, iss: str) -> TrustedIssuer | None:
        """The issuer with a template of this form."""
        return next((each for template, each in self._templates if template.tenant_of(iss) is not None), None)

    def verify(self, token: Jws, issuer: TrustedIssuer, now: float, attempt: Attempt) -> Key | NeedKeys:
        """The issuer's key that verifies the signature.

        Raises:
            Rejected: if none does, or the keys are not available.
        """
        named = issuer.keys.find(token.kid, now, may_fetch=attempt.fetch_keys)
        if isinstance(named, NoKey):
            return self._without_key(named, token, issuer, now)
        key = jws.verifying_key(token, named, issuer.keys.trials, now)
        if key is EXHAUSTED:
            cause = f"{key.value} of {issuer.settings.label}: the tokens or the keys have no usable kid"
            raise Rejected(Reason.KEYS_UNAVAILABLE, cause, retry_after=1)
        if key is not None:
            return key
        if named and all(each.kid is None for each in named):  # a rotation would not show in the kid
            why = issuer.keys.look_for_new_key(token.kid, now, may_fetch=attempt.fetch_keys)
            key_set = issuer.keys.current(now)
            if why is not NoKey.ABSENT or (key_set is not None and key_set.has_kids):
                return self._without_key(why, token, issuer, now)
        if not any(token.algorithm in each.algorithms for each in named):
            cause = f"alg is {token.algorithm}, for which no key with kid {quoted(token.kid)} can be used"
            raise Rejected(Reason.UNSUPPORTED_ALGORITHM, cause)
        raise Rejected(Reason.BAD_SIGNATURE, f"the signature does not verify; kid is {quoted(token.kid)}")

    @staticmethod
    def _without_key(why: NoKey, token: Jws, issuer: TrustedIssuer, now: float) -> NeedKeys:
        match why:
            case NoKey.FETCH:
                return NeedKeys(issuer.keys, _unverified(token))
            case NoKey.ABSENT:
                raise Rejected(
                    Reason.UNKNOWN_KEY,
                    f"kid is {quoted(token.kid)}, which is not in the key set of {issuer.settings.label}",
                )
            case NoKey.UNAVAILABLE:
                raise Rejected(
                    Reason.KEYS_UNAVAILABLE,
                    f"the keys of {issuer.settings.label} are not available",
                    retry_after=issuer.keys.retry_after(now),
                )


class Validator(SignatureVerifier):
    """Validates the tokens of the trusted issuers."""

    def __init__(self, issuers: Iterable[TrustedIssuer], cache: JwtCache, metrics: Metrics) -> None:
        issuers = tuple(issuers)
        super().__init__(issuers)
        introspectors = [each.introspector for each in issuers if each.introspector is not None]
        self._servers = Servers(introspectors)
        self._query = _query_of(introspectors)
        self._cache = cache
        self._metrics = metrics
        self._headers = jws.KnownHeaders()

    def validate(
        self, token: str, now: float, accepted: frozenset[str] | None, attempt: Attempt
    ) -> ValidatedToken | Need:
        """The validated access token, or what has to be fetched to validate it.

        ``accepted`` names the issuers that an opaque token may come from, None for all.

        Raises:
            Rejected: with the reason why the token is not accepted, and its identity as far as that is known.
        """
        digest = digest_of(token)
        cached = self._cache.get(digest, now)
        if cached is not None:
            self._metrics.record_token_cache_hit()
            return self._if_active(token, digest, cached.token, now, attempt)
        invalid = self._cache.invalid.get(digest, now)
        if invalid is not None:
            self._record_miss(attempt)
            _require_again(invalid, now)
            return self._validated(token, digest, invalid.jwt, now, attempt)
        try:
            parsed = jws.parse(token, self._headers)
        except Rejected:
            if servers := self.servers_for_opaque(token, accepted):
                return self._query(token, digest, servers, now, attempt, None)
            self._record_miss(attempt)
            raise
        self._record_miss(attempt)
        try:
            issuer = self.issuer_of(parsed)
            key = self.verify(parsed, issuer, now, attempt)
        except Rejected as rejected:
            rejected.identity = _unverified(parsed)
            raise
        if isinstance(key, NeedKeys):
            return key
        self._headers.add(token, parsed.header)
        jwt = UnvalidatedJwt(issuer, key, parsed.header, parsed.unverified_claims)
        return self._validated(token, digest, jwt, now, attempt)

    def _record_miss(self, attempt: Attempt) -> None:
        if attempt.fetch_keys:  # a later attempt for the same request is not a second miss
            self._metrics.record_token_cache_miss()

    def _validated(
        self, token: str, digest: bytes, jwt: UnvalidatedJwt, now: float, attempt: Attempt
    ) -> ValidatedToken | NeedIntrospection:
        issuer, key, header, unvalidated = jwt
        requirements = self.requirements_of(issuer)
        try:
            claims = validate_claims(issuer.settings, header, unvalidated, now, requirements, kid=key.kid)
        except Rejected as rejected:
            rejected.identity = identity_of(issuer.settings, unvalidated)
            self._cache.invalid.put(digest, jwt, requirements, now)
            raise
        validated = ValidatedToken(claims)
        self._put(digest, validated, issuer, key, now)
        return self._if_active(token, digest, validated, now, attempt)

    def servers_for_opaque(self, token: str, accepted: frozenset[str] | None) -> tuple[Introspector, ...]:
        """The servers to query about an opaque token; none for a JWT."""
        servers = self._servers.of_issuers(accepted)
        return () if servers and jws.is_jwt(token) else servers

    def _put(self, digest: bytes, token: ValidatedToken, issuer: TrustedIssuer, key: Key, now: float) -> None:
        key_set = issuer.keys.current(now)
        if key_set is not None:
            until = valid_until(issuer.settings, token.claims)
            self._cache.put(digest, CachedJwt(token, until, issuer.keys, key, key_set), now)

    def _if_active(
        self, token: str, digest: bytes, validated: ValidatedToken, now: float, attempt: Attempt
    ) -> ValidatedToken | NeedIntrospection:
        """A validated JWT, if it is active at its issuer's introspection server or need not be.

        The token that was introspected has the claims of the response that the JWT lacks.
        """
        server = self._servers.for_jwts_of(validated.claims.issuer)
        if server is None:
            return validated
        try:
            return self._query(token, digest, (server,), now, attempt, validated.claims)
        except Rejected as rejected:
            rejected.identity = validated.claims.identity
            raise

    def requirements_of(self, issuer: TrustedIssuer) -> Requirements:
        """What the claims of the issuer's JWTs must meet, before introspection if it adds to them."""
        return REQUIREMENTS_BEFORE_INTROSPECTION if self.must_be_active(issuer.settings.label) else REQUIREMENTS

    def must_be_active(self, issuer: str) -> bool:
        """Whether verified JWTs of the issuer with this name also have to be active at its introspection server."""
        return self._servers.for_jwts_of(issuer) is not None


def _query_of(introspectors: Sequence[Introspector]) -> Query:
    if not introspectors:
        return _no_server
    from authz_service.tokens.introspection.query import query

    return query


def _no_server(*_arguments: object) -> NoReturn:
    raise AssertionError("no introspection server is configured")


def _require_again(invalid: InvalidJwt, now: float) -> None:
    """Reject a token that was rejected before, unless its claims may have become valid."""
    issuer, _, header, claims = invalid.jwt
    try:
        for _, require in invalid.repeated:
            require(issuer.settings, header, claims, now)
    except Rejected as rejected:
        rejected.identity = invalid.identity
        raise


def _unverified(token: Jws) -> UnverifiedIdentity:
    return UnverifiedIdentity(token.unverified_claims.get("iss"), token.kid)
