"""Deciding one request: path, rule, credential, claims, proof, decision.

Owns the order of these steps; no I/O. ``begin`` is one synchronous call if the keys are known, which they nearly always
are. Otherwise it returns a ``Pending``; once that was awaited, ``finish`` decides with what is known by then.

Invariants:
- ``finish`` returns a decision and never another ``Pending``.
- Every rejection becomes a ``Deny``. Any other exception is a fault, which the transport turns into an explicit denial.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz_service.core import connection_header
from authz_service.core.claims import ValidatedToken
from authz_service.core.cors import is_preflight
from authz_service.core.decision import NO_RULE_NAME, Allow, Decision, Deny, deny_without_rule
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.rules.policy import no_rule
from authz_service.tokens.attempt import AFTER_KEYS, FIRST, Attempt
from authz_service.tokens.validator import NeedKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims
    from authz_service.core.upstream import UpstreamHeaders
    from authz_service.keys.cache import KeyCache
    from authz_service.rules.policy import Policy, Rule
    from authz_service.rules.resources import Resources
    from authz_service.tokens.introspection.query import NeedIntrospection
    from authz_service.tokens.proof.verifier import ProofVerifier
    from authz_service.tokens.revocation.revocations import RevocationList
    from authz_service.tokens.validator import Need, Validator

_RETRY_AFTER_DEADLINE = 1  # seconds: the fetch continues in the background, and the next request finds its result


@dataclass(slots=True)
class Pending:
    """A decision that waits for an issuer's keys, introspection responses, or first the one and then the other."""

    attributes: Attributes
    rule: Rule
    token: str = field(repr=False)
    need: Need  # what it waits for now
    authorizer: Authorizer
    began: float  # seconds since the epoch

    async def ready(self) -> None:
        """Wait until what is missing was fetched, or could not be. Never raises for a failed fetch."""
        await self.need.ready()
        if isinstance(self.need, NeedKeys) and (following := self.authorizer.need_after_keys(self, self.need.keys)):
            self.need = following
            await following.ready()

    @property
    def last_attempt(self) -> Attempt:
        """What ``finish`` decides with."""
        return Attempt(results=() if isinstance(self.need, NeedKeys) else self.need.results)


class Authorizer:
    """Decides requests by one configuration."""

    def __init__(
        self,
        policy: Policy,
        validator: Validator,
        proofs: ProofVerifier,
        upstream: UpstreamHeaders,
        resources: Resources,
        revocations: RevocationList,
        *,
        max_token_bytes: int,
        record_omitted: Callable[[Iterable[str]], None],
        allow_preflight: bool = False,
    ) -> None:
        """``record_omitted`` is called with the headers that a token cannot fill, once for each request.

        ``allow_preflight`` lets CORS preflights through to the upstream, if a rule is for their host and path.
        """
        self.policy = policy
        self.validator = validator
        self.proofs = proofs
        self.upstream = upstream
        self.resources = resources
        self._has_resources = bool(resources)
        self.revocations = revocations
        self.max_token_bytes = max_token_bytes
        self._record_omitted = record_omitted
        self._allow_preflight = allow_preflight

    def begin(self, attributes: Attributes, now: float, attempt: Attempt = FIRST) -> Decision | Pending:
        """Decide, or return what has to be awaited first. ``now`` is in seconds since the epoch."""
        try:
            path = self.policy.split(attributes.path)
            if "connection" in attributes.headers:
                connection_header.validate(attributes.headers)
            if self._has_resources and (answer := self.resources.answer(attributes, path)) is not None:
                return answer
            if self._allow_preflight and self._is_preflight(attributes, path):
                return Allow(Reason.PREFLIGHT, NO_RULE_NAME, remove=self.upstream.without_token(attributes.headers))
            rule = self.policy.choose(attributes, path)
        except Rejected as rejected:
            return deny_without_rule(rejected.reason, rejected.cause)
        if rule is None:
            unmatched = no_rule(path)
            return Deny(unmatched.reason, cause=unmatched.cause)
        if rule.access == "public":
            return self._allow_without_token(Reason.PUBLIC, rule, attributes)
        return self._decide_by_token(rule, attributes, path, now, attempt)

    def need_after_keys(self, pending: Pending, keys: KeyCache) -> NeedIntrospection | None:
        """The introspection that a decision needs after these keys were fetched, if the token verifies with them."""
        if not self.validator.must_be_active(keys.issuer):
            return None
        try:
            found = self.validator.validate(pending.token, pending.began, pending.rule.issuers, AFTER_KEYS)
        except Rejected:
            return None  # ``finish`` rejects it again, and reports it
        return found if not isinstance(found, (ValidatedToken, NeedKeys)) else None

    def finish(self, pending: Pending, now: float) -> Decision:
        """Decide with what is known now, whether or not the missing part was fetched."""
        decision = self.begin(pending.attributes, now, pending.last_attempt)
        if isinstance(decision, Pending):
            raise AssertionError("the last attempt has something left to fetch")  # noqa: TRY004 - a fault, not a wrong type
        return decision

    def too_late(self, pending: Pending) -> Decision:
        """The decision if the missing part did not arrive before the deadline."""
        rejected = Rejected(
            Reason.DEADLINE_EXCEEDED,
            f"{pending.need.what} did not finish before the deadline",
            retry_after=_RETRY_AFTER_DEADLINE,
        )
        rejected.identity = pending.need.identity
        return self._deny_unless_shadow(pending.rule, pending.attributes, pending.rule.deny(rejected))

    def _is_preflight(self, attributes: Attributes, path: Sequence[str]) -> bool:
        return is_preflight(attributes, self.policy.credentials) and self.policy.has_rule_for(attributes, path)

    def _decide_by_token(
        self, rule: Rule, attributes: Attributes, path: Sequence[str], now: float, attempt: Attempt
    ) -> Decision | Pending:
        request = rule.parts_of(attributes.headers, path)
        claims: Claims | None = None
        dpop = False
        nonce_headers: tuple[tuple[str, str], ...] = ()
        try:
            token, dpop = rule.credential.token_of(attributes.headers, self.max_token_bytes)
            found = self.validator.validate(token, now, rule.issuers, attempt)
            if not isinstance(found, ValidatedToken):
                return Pending(attributes, rule, token, found, self, now)
            claims = found.claims
            if self.revocations.any:
                self.revocations.require_none(claims)
            if claims.confirmation is not None or dpop:
                nonce_headers = self.proofs.verify(found, token, attributes, now, dpop=dpop)
            rule.evaluate(claims, request, now)
            allow = self._allow(rule, found, attributes)
            return allow._replace(response_headers=nonce_headers, cached=None) if nonce_headers else allow
        except Rejected as rejected:
            if rejected.reason is Reason.MISSING_TOKEN and rule.access == "optional":
                return self._allow_without_token(Reason.ANONYMOUS, rule, attributes)
            metadata_url = self.resources.metadata_url(attributes.host, path) if self._has_resources else None
            deny = rule.deny(rejected, request, claims, dpop=dpop, metadata_url=metadata_url)
            if nonce_headers := nonce_headers or self.proofs.nonce_headers(deny.challenges, now):
                deny = deny._replace(response_headers=nonce_headers)
            return self._deny_unless_shadow(rule, attributes, deny)

    def _allow(self, rule: Rule, token: ValidatedToken, attributes: Attributes) -> Allow:
        """Let the request through.

        From a token's second request on, the headers for the upstream are made once for each rule: many tokens are used
        for one request only.
        """
        cached = token.responses.get(rule)
        if cached is None:
            overwrite, remove, omissions = self.upstream.for_token(token.claims)
            omitted = tuple([name for name, _ in omissions]) if omissions else ()
            if token.used:
                cached = token.responses.add(rule, overwrite, remove, omitted)
            token.used = True
        else:
            overwrite, remove, omitted = cached.overwrite, cached.remove, cached.omitted
        if omitted:
            self._record_omitted(omitted)
        if spoofed := self.upstream.spoofed(attributes.headers, plain=attributes.plain_names):
            remove, cached = remove + spoofed, None
        return Allow(Reason.OK, rule.name, token.claims, overwrite, remove, rule.mode, cached=cached)

    def _allow_without_token(self, reason: Reason, rule: Rule, attributes: Attributes) -> Allow:
        return Allow(reason, rule.name, remove=self.upstream.without_token(attributes.headers), mode=rule.mode)

    def _deny_unless_shadow(self, rule: Rule, attributes: Attributes, deny: Deny) -> Decision:
        """The denial; under a rule in shadow mode, an allowance with its reason and without identity headers."""
        if rule.mode == "enforce":
            return deny
        remove = self.upstream.without_token(attributes.headers)
        return Allow(
            deny.reason,
            deny.rule,
            deny.claims,
            remove=remove,
            mode="shadow",
            cause=deny.cause,
            response_headers=deny.response_headers,
            identity=deny.identity,
        )
