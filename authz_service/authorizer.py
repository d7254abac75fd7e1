"""The story of one decision: path, rule, credential, claims, answer.

Law: ``begin`` runs from start to end in one synchronous call wherever the keys are known, which is nearly always. Where
the network has to be asked first it returns a ``Pending``, and once that was awaited ``finish`` decides with what is
known then. Both end in Allow or Deny; what is raised on the way is not an answer, and the transport turns it into an
explicit denial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz_service.core import connection, credential, paths
from authz_service.core.cors import is_preflight
from authz_service.core.decision import NO_RULE_NAME, Allow, Decision, Deny, deny_without_rule
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.rules.policy import no_rule
from authz_service.tokens.introspection.opaque import NeedIntrospection
from authz_service.tokens.validator import NeedKeys

if TYPE_CHECKING:
    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims, ValidatedToken
    from authz_service.core.upstream import UpstreamHeaders
    from authz_service.rules.conditions import Captures
    from authz_service.rules.policy import Policy, Rule
    from authz_service.tokens.introspection.opaque import Answers
    from authz_service.tokens.validator import Need, Validator

_RETRY_AFTER_DEADLINE = 1  # seconds: the fetch goes on by itself, and the next request finds its result


@dataclass(frozen=True, slots=True)
class Pending:
    """A decision that waits for an issuer's keys, or for what an issuer says of a token."""

    attributes: Attributes
    rule: Rule
    need: Need

    async def ready(self) -> None:
        """Wait until the missing part was fetched, or could not be. Never raises for a failed fetch."""
        await self.need.ready()


class Authorizer:
    """Decides requests by one configuration."""

    def __init__(
        self,
        policy: Policy,
        validator: Validator,
        upstream: UpstreamHeaders,
        *,
        max_token_bytes: int,
        allow_preflight: bool = False,
    ) -> None:
        """``allow_preflight`` lets CORS preflights through to the upstream, which answers them, where a rule is."""
        self.policy = policy
        self.validator = validator
        self.upstream = upstream
        self.max_token_bytes = max_token_bytes
        self._allow_preflight = allow_preflight

    def begin(self, attributes: Attributes, now: float) -> Decision | Pending:
        """Decide, or say what is missing. ``now`` is in seconds since the epoch."""
        return self._decide(attributes, now, may_fetch=True)

    def finish(self, pending: Pending, now: float) -> Decision:
        """Decide with what is known now, the missing part fetched or not to be had."""
        decision = self._decide(pending.attributes, now, may_fetch=False, answers=pending.need.answers)
        if isinstance(decision, Pending):
            raise AssertionError("a decision that may not fetch wants to")  # noqa: TRY004 - a fault, not a wrong type
        return decision

    def too_late(self, pending: Pending) -> Decision:
        """The decision when its missing part did not come in time."""
        rejected = Rejected(
            Reason.DEADLINE_EXCEEDED,
            f"{pending.need.what} did not come in time",
            retry_after=_RETRY_AFTER_DEADLINE,
        )
        return self._refuse(pending.rule, pending.attributes, pending.rule.deny(rejected))

    def _decide(
        self, attributes: Attributes, now: float, *, may_fetch: bool, answers: Answers = ()
    ) -> Decision | Pending:
        try:
            path = paths.split(attributes.path)
            connection.validate(attributes.headers)
        except Rejected as rejected:
            return deny_without_rule(rejected.reason, rejected.cause)
        if self._allow_preflight and is_preflight(attributes) and self.policy.knows(attributes, path):
            return Allow(Reason.PREFLIGHT, NO_RULE_NAME, remove=self.upstream.without_claims(attributes.headers))
        rule = self.policy.choose(attributes, path)
        if rule is None:
            unmatched = no_rule(path)
            return Deny(unmatched.reason, cause=unmatched.cause)
        if rule.access == "public":
            return self._allow_without_token(Reason.PUBLIC, rule, attributes)
        return self._decide_by_token(rule, attributes, rule.captures(path), now, may_fetch=may_fetch, answers=answers)

    def _decide_by_token(
        self, rule: Rule, attributes: Attributes, captures: Captures, now: float, *, may_fetch: bool, answers: Answers
    ) -> Decision | Pending:
        claims: Claims | None = None
        try:
            token = credential.bearer_token(attributes.headers.get("authorization"), self.max_token_bytes)
            found = self.validator.claims_of(token, now, rule.issuers, may_fetch=may_fetch, answers=answers)
            if isinstance(found, (NeedKeys, NeedIntrospection)):
                return Pending(attributes, rule, found)
            claims = found.claims
            rule.judge(claims, captures, now)
            return self._allow(rule, found, attributes)
        except Rejected as rejected:
            if rejected.reason is Reason.MISSING_TOKEN and rule.access == "optional":
                return self._allow_without_token(Reason.ANONYMOUS, rule, attributes)
            return self._refuse(rule, attributes, rule.deny(rejected, captures, claims))

    def _allow(self, rule: Rule, token: ValidatedToken, attributes: Attributes) -> Allow:
        """Let the request through. The headers for the upstream are made once for a token and a rule."""
        claims = token.claims
        cached = token.responses.get(rule) or token.responses.add(rule, *self.upstream.from_claims(claims))
        if disguised := self.upstream.disguised(attributes.headers):
            return Allow(Reason.OK, rule.name, claims, cached.overwrite, cached.remove + disguised, rule.mode)
        return Allow(Reason.OK, rule.name, claims, cached.overwrite, cached.remove, rule.mode, cached=cached)

    def _allow_without_token(self, reason: Reason, rule: Rule, attributes: Attributes) -> Allow:
        return Allow(reason, rule.name, remove=self.upstream.without_claims(attributes.headers), mode=rule.mode)

    def _refuse(self, rule: Rule, attributes: Attributes, deny: Deny) -> Decision:
        """The denial; or, by a rule in shadow mode, an allowance that tells of it and says nothing of who calls."""
        if rule.mode == "enforce":
            return deny
        remove = self.upstream.without_claims(attributes.headers)
        return Allow(deny.reason, deny.rule, deny.claims, remove=remove, mode="shadow", cause=deny.cause)
