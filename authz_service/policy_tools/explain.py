"""Explains one decision: every step to it, each taken by the function that the sidecar calls.

The authorizer decides. The steps repeat its calls in its order; if they end in another reason, that is a fault, which
raises AssertionError. Nothing of a token's or proof's text is ever part of an explanation.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from authz_service.authorizer import Pending
from authz_service.config.key_hints import closest
from authz_service.config.resources import WELL_KNOWN
from authz_service.core import connection_header
from authz_service.core.bounded import NO_CACHE
from authz_service.core.claims import ValidatedToken
from authz_service.core.confirmation import IGNORED
from authz_service.core.cors import is_preflight
from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason
from authz_service.core.upstream_metadata import UpstreamMetadata
from authz_service.core.utc import utc
from authz_service.policy_tools.proof_findings import findings
from authz_service.policy_tools.saved_events import read_saved_events
from authz_service.providers.client_resources import ClientResources
from authz_service.providers.discovery import difference
from authz_service.rules import mismatch
from authz_service.rules.policy import no_rule
from authz_service.runtime.assembly import (
    ProofState,
    authorizer_of,
    introspector_of,
    key_cache_of,
    revocation_list_of,
    source_of,
)
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.attempt import LAST
from authz_service.tokens.introspection.query import NeedIntrospection
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.jwt.claims import validate_claims
from authz_service.tokens.validator import NeedKeys, TrustedIssuer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz_service.authorizer import Authorizer
    from authz_service.config import model
    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims
    from authz_service.core.credential import CredentialHeader
    from authz_service.core.decision import Decision
    from authz_service.core.upstream import TokenHeaders
    from authz_service.keys.jwk import Key
    from authz_service.keys.source import KeySource
    from authz_service.policy_tools.saved_events import SavedEvents
    from authz_service.rules.conditions import Condition
    from authz_service.rules.operators import RequestParts
    from authz_service.rules.policy import Rule
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.jwt.jws import Jws

_Result = TypeVar("_Result")
_MAX_LISTED_ISSUERS = 10
_MAX_COMPARED = 300  # characters of an unknown issuer
# Reasons that deny a request for now: the same request may be allowed later.
UNDECIDED = frozenset(
    {
        *(Reason.KEYS_UNAVAILABLE, Reason.INTROSPECTION_UNAVAILABLE),
        *(Reason.DEADLINE_EXCEEDED, Reason.INTERNAL_ERROR),
    }
)


class Step(NamedTuple):
    """One step: ``part`` is path, rule, token, claims or upstream; ``passed`` is None for a remark."""

    part: str
    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and the steps to it."""

    decision: Decision
    steps: tuple[Step, ...]
    metadata: UpstreamMetadata


def explain(settings: model.Settings, attributes: Attributes) -> Explanation:
    """Decide a request by these settings, fetching the keys of its token's issuer if they are needed.

    Raises:
        ConfigError: if the file with the key of the nonces is unusable.
    """
    return asyncio.run(_explain(settings, attributes))


async def _explain(settings: model.Settings, attributes: Attributes) -> Explanation:
    metrics = Metrics(transport=settings.server.transport)
    resources = ClientResources()
    sources = [source_of(issuer, resources) for issuer in settings.issuers]
    issuers = [
        _trusted(issuer, source, metrics, resources) for issuer, source in zip(settings.issuers, sources, strict=True)
    ]
    proof_state = ProofState.of(settings, metrics, None, time.time())
    events = {
        issuer.label: read_saved_events(issuer, issuer.security_events, time.time())
        for issuer in settings.issuers
        if issuer.security_events is not None
    }
    revocations = revocation_list_of(settings, {label: each.store for label, each in events.items()})
    authorizer = authorizer_of(settings, issuers, JwtCache(NO_CACHE, 0.0), metrics, proof_state, revocations)
    try:
        now = time.time()
        attempt = LAST
        decision = authorizer.begin(attributes, now)
        if isinstance(decision, Pending):
            await decision.ready()
            now, attempt = time.time(), decision.last_attempt
            decision = authorizer.finish(decision, now)
        return explained(settings, authorizer, attributes, decision, now, attempt, events)
    finally:
        for issuer in issuers:
            if issuer.introspector is not None:
                await issuer.introspector.close()
        for source in sources:
            await source.close()


def _trusted(issuer: model.Issuer, source: KeySource, metrics: Metrics, resources: ClientResources) -> TrustedIssuer:
    keys = key_cache_of(issuer, source, metrics.issuer(issuer.label), time.time)
    if issuer.introspection is None:
        return TrustedIssuer(issuer, keys)
    introspector = introspector_of(
        issuer,
        issuer.introspection,
        keys,
        metrics.introspection(issuer.label),
        clock=time.time,
        timer=time.monotonic,
        cache_bounds=NO_CACHE,
        resources=resources,
    )
    return TrustedIssuer(issuer, keys, introspector)


def explained(
    settings: model.Settings,
    authorizer: Authorizer,
    attributes: Attributes,
    decision: Decision,
    now: float,
    attempt: Attempt = LAST,
    events: Mapping[str, SavedEvents] = MappingProxyType({}),
) -> Explanation:
    """The steps to a decision that was made at ``now``, in seconds since the epoch, with the keys that are cached.

    ``attempt`` is the last one, with the introspection results that were fetched for it. ``events`` are the
    security events that were read, by their issuer's label.
    """
    steps = _Steps(settings, authorizer, attributes, now, attempt, events)
    reason = steps.repeat_decision()
    if reason is not decision.reason:
        raise AssertionError(f"the steps end in {reason}, and the decision is {decision.reason}")
    return Explanation(decision, tuple(steps.recorded), UpstreamMetadata(settings.upstream.metadata))


def _no_detail(_result: object) -> str:
    return ""


class _Steps:
    """Repeats a decision and records its steps."""

    def __init__(
        self,
        settings: model.Settings,
        authorizer: Authorizer,
        attributes: Attributes,
        now: float,
        attempt: Attempt,
        events: Mapping[str, SavedEvents],
    ) -> None:
        self.recorded: list[Step] = []
        self._settings = settings
        self._authorizer = authorizer
        self._attributes = attributes
        self._now = now
        self._attempt = attempt
        self._events = events

    def repeat_decision(self) -> Reason:
        """Call what the authorizer calls, in the same order; returns the reason of the last step."""
        attributes, policy = self._attributes, self._authorizer.policy
        try:
            path = self._take("path", "segments", lambda: policy.split(attributes.path), _segments)
            if "connection" in attributes.headers:
                self._take("path", "connection", lambda: connection_header.validate(attributes.headers))
            if self._authorizer.resources.answer(attributes, path) is not None:
                self._record("path", "metadata", "of a protected resource: answered here, without a token", passed=True)
                return Reason.RESOURCE_METADATA
            if self._settings.resources:
                self._record_resource(path)
            if self._settings.cors_preflight == "allow" and is_preflight(attributes, policy.credentials):
                has_rule = policy.has_rule_for(attributes, path)
                detail = "allowed without a token" if has_rule else "no rule is for this host and path"
                self._record("path", "preflight", detail, passed=has_rule or None)
                if has_rule:
                    return Reason.PREFLIGHT
            rule = self._choose_rule(path)
            if rule is None:
                return no_rule(path).reason
            if rule.access == "public":
                self._record("rule", rule.name, "public: tokens are ignored")
                return Reason.PUBLIC
            return self._decide_by_token(rule, path)
        except Rejected as rejected:
            return rejected.reason

    def _record(self, part: str, name: str, detail: str, *, passed: bool | None = None) -> None:
        self.recorded.append(Step(part, name, passed, detail))

    def _take(
        self,
        part: str,
        name: str,
        work: Callable[[], _Result],
        detail: Callable[[_Result], str] = _no_detail,
        *,
        conclusive: bool = True,
    ) -> _Result:
        """Do one step and record its result, as a remark unless it is conclusive. A rejection is raised again."""
        try:
            result = work()
        except Rejected as rejected:
            self._record(part, name, f"{rejected.reason}: {rejected.cause}", passed=False)
            raise
        self._record(part, name, detail(result), passed=conclusive or None)
        return result

    def _record_resource(self, path: Sequence[str]) -> None:
        """Record which protected resource the request belongs to, since its challenges depend on that."""
        url = self._authorizer.resources.metadata_url(self._attributes.host, path)
        none = "none has this host and path, so challenges name no metadata"
        if tuple(path[:2]) == WELL_KNOWN:
            none = "none has its metadata at this host and path"
        self._record("path", "resource", none if url is None else f"metadata: {url}", passed=url is not None or None)

    def _choose_rule(self, path: Sequence[str]) -> Rule | None:
        """The rule that decides. Records, for each rule before it, why it does not match."""
        attributes, rules = self._attributes, self._settings.rules
        why_none = mismatch.of_every_rule(rules, attributes)
        if why_none is not None:
            self._record("rule", "-", why_none, passed=False)
            return self._authorizer.policy.choose(attributes, path)
        for rule in rules:
            why_not = mismatch.of(rule, attributes, path)
            if why_not is None:
                self._record("rule", rule.name, _decides(rule), passed=True)
                break
            self._record("rule", rule.name, why_not)
            if mismatch.ends_search(rule, attributes, path):
                self._record("rule", "-", "no later rule matches: the upstream may read it as a match", passed=False)
                break
        else:
            self._record("rule", "-", no_rule(path).cause, passed=False)
        return self._authorizer.policy.choose(attributes, path)  # raises what the steps above show

    def _decide_by_token(self, rule: Rule, path: Sequence[str]) -> Reason:
        headers, max_bytes = self._attributes.headers, self._authorizer.max_token_bytes
        if rule.access == "optional" and _is_missing(rule.credential, headers, max_bytes):
            self._record("token", "credential", "none, and the rule does not require one", passed=True)
            return Reason.ANONYMOUS
        token, dpop = self._take(
            "token", "credential", lambda: rule.credential.token_of(headers, max_bytes), _found_in(rule)
        )
        claims = self._validate(token, rule)
        self._require_no_revocation(claims)
        if claims.confirmation is not None or dpop:
            self._record_findings(token, claims)
            self._take("token", "proof", lambda: self._verify_proof(token, claims, dpop=dpop), partial(_proof, claims))
        request = rule.parts_of(self._attributes.headers, path)
        for condition in rule.conditions:
            if condition.alternatives and self._meets_alternative(condition, claims, request):
                continue
            evaluate = partial(_evaluate, condition, claims, request, self._now)
            self._take("claims", condition.name, evaluate, partial(_requirement, condition, claims))
        self._take("upstream", "headers", lambda: self._authorizer.upstream.for_token(claims), _header_names)
        if members := self._settings.upstream.metadata:
            values = UpstreamMetadata(members).for_token(claims)
            missing = [f"{name} is absent or left out" for name in members if name not in values]
            self._record("upstream", "metadata", "; ".join((", ".join(values) or "none", *missing)), passed=True)
        return Reason.OK

    def _require_no_revocation(self, claims: Claims) -> None:
        revocations, events = self._authorizer.revocations, self._events.get(claims.issuer)
        if revocations.any or events is not None:
            detail = "not revoked" if events is None else events.when_none
            self._take(
                *("token", "revocations", lambda: revocations.require_none(claims), lambda _: detail),
                conclusive=events is None or events.available,
            )

    def _record_findings(self, text: str, claims: Claims) -> None:
        """Record each part of a proof; one that does not hold is a remark, since the verifier decides."""
        if claims.confirmation in {None, IGNORED}:
            return
        issuer = next(issuer for issuer in self._settings.issuers if issuer.label == claims.issuer)
        for each in findings(self._settings, issuer, claims.confirmation, text, self._attributes, self._now):
            self._record("token", f"proof: {each.name}", each.detail, passed=each.holds or None)

    def _verify_proof(self, text: str, claims: Claims, *, dpop: bool) -> object:
        """Verify the proof again, as if it had not been seen: the decision has used it up."""
        proofs = self._authorizer.proofs.without_history()
        return proofs.verify(ValidatedToken(claims), text, self._attributes, self._now, dpop=dpop)

    def _meets_alternative(self, any_of: Condition, claims: Claims, request: RequestParts) -> bool:
        """Whether an alternative holds. Records the conditions of each one up to the first that does not hold."""
        for place, alternative in enumerate(any_of.alternatives):
            if all(self._holds(f"any_of[{place}]", condition, claims, request) for condition in alternative):
                return True
        return False

    def _holds(self, alternative: str, condition: Condition, claims: Claims, request: RequestParts) -> bool:
        """Whether a condition of an alternative holds. If it does not, that is a remark: another one may hold."""
        name = f"{alternative} {condition.name}"
        try:
            _evaluate(condition, claims, request, self._now)
        except Rejected as rejected:
            self._record("claims", name, f"does not hold: {rejected.reason}: {rejected.cause}")
            return False
        self._record("claims", name, _requirement(condition, claims, None), passed=True)
        return True

    def _validate(self, text: str, rule: Rule) -> Claims:
        """The claims of a token, in the steps of the validator."""
        validator = self._authorizer.validator

        def introspect() -> Claims:
            found = validator.validate(text, self._now, rule.issuers, self._attempt)
            if isinstance(found, (NeedKeys, NeedIntrospection)):
                raise AssertionError("the last attempt has something left to fetch")  # noqa: TRY004 - as in _verify
            return found.claims

        if validator.servers_for_opaque(text, rule.issuers):
            self._record("token", "form", "opaque: validated by introspection", passed=True)
            return self._take("token", "introspection", introspect, _introspection)
        token = self._take("token", "form", lambda: jws.parse(text), _form)
        find = partial(self._issuer_of, token)
        issuer = self._take("token", "issuer", find, lambda issuer: issuer.settings.label)
        try:
            key = self._take("token", "signature", lambda: self._verify(token, issuer), _by_key)
        except Rejected:
            self._record_refused_keys(issuer)
            raise
        parts = (issuer.settings, token.header, token.unverified_claims, self._now)
        requirements = validator.requirements_of(issuer)
        for name, require in requirements:
            self._take("token", name, partial(require, *parts), _times_of(token) if name == "times" else _no_detail)
        claims = self._take("token", "claims", lambda: validate_claims(*parts, requirements, kid=key.kid), _identity)
        if validator.must_be_active(claims.issuer):
            return self._take("token", "introspection", introspect, _introspection)
        return claims

    def _issuer_of(self, token: Jws) -> TrustedIssuer:
        """As the validator, with the configured issuers in the cause, which is shown to the operator only."""
        try:
            return self._authorizer.validator.issuer_of(token)
        except Rejected as rejected:
            if rejected.reason is not Reason.UNKNOWN_ISSUER:
                raise
            configured = _configured(self._settings.issuers, token.unverified_claims.get("iss"))
            raise Rejected(rejected.reason, f"{rejected.cause}; {configured}") from None

    def _record_refused_keys(self, issuer: TrustedIssuer) -> None:
        key_set = issuer.keys.current(self._now)
        for line in () if key_set is None else key_set.refused:
            self._record("token", "key set", f"not used: {line}")

    def _verify(self, token: Jws, issuer: TrustedIssuer) -> Key:
        key = self._authorizer.validator.verify(token, issuer, self._now, self._attempt)
        if isinstance(key, NeedKeys):
            raise AssertionError("the last attempt has something left to fetch")  # noqa: TRY004 - not a wrong type
        return key


def _segments(path: Sequence[str]) -> str:
    return " / ".join(quoted(segment)[1:-1] for segment in path) or "the root"


def _decides(rule: model.RuleSettings) -> str:
    shadow = ", in shadow mode" if rule.mode == "shadow" else ""
    return f"decides; access {rule.access}{shadow}"


def _found_in(rule: Rule) -> Callable[[tuple[str, bool]], str]:
    def detail(found: tuple[str, bool]) -> str:
        _, dpop = found
        return f"in {rule.credential}" + (", sent with the scheme DPoP" if dpop else "")

    return detail


def _proof(claims: Claims, _headers: object) -> str:
    confirmation = claims.confirmation or IGNORED
    if confirmation == IGNORED:
        return "not required: confirmation is ignore"
    parts = {"DPoP (cnf.jkt)": confirmation.jkt, "client certificate (cnf.x5t#S256)": confirmation.x5t_s256}
    return " and ".join(name for name, digest in parts.items() if digest is not None)


def _is_missing(credential: CredentialHeader, headers: Mapping[str, str], max_token_bytes: int) -> bool:
    try:
        credential.token_of(headers, max_token_bytes)
    except Rejected as rejected:
        return rejected.reason is Reason.MISSING_TOKEN
    return False


def _evaluate(condition: Condition, claims: Claims, request: RequestParts, now: float) -> None:
    cause = condition.evaluate(claims, request, now)
    if cause is not None:
        requirement = (
            "" if condition.requirement in cause or "; required: " in cause else f"; required: {condition.requirement}"
        )
        raise Rejected(condition.reason, f"{cause}{requirement}{_token_scopes(condition, claims)}")


def _requirement(condition: Condition, claims: Claims, _result: object) -> str:
    return f"required: {condition.requirement}{_token_scopes(condition, claims)}"


def _token_scopes(condition: Condition, claims: Claims) -> str:
    return f"; the token has: {claims.scope or 'none'}" if condition.name == "scopes" else ""


def _header_names(headers: TokenHeaders) -> str:
    names = ", ".join(name for name, _ in headers.overwrite) or "none"
    return "; ".join((names, *(f"{name} is left out: {cause}" for name, cause in headers.omitted)))


def _form(token: Jws) -> str:
    return f"a JWT: alg {quoted(token.algorithm)}, kid {quoted(token.kid)}, typ {quoted(token.header.get('typ'))}"


def _configured(issuers: Sequence[model.Issuer], iss: object) -> str:
    """The configured issuers, with the one that is most like ``iss``."""
    known = {issuer.issuer: f"{issuer.issuer} ({issuer.label})" for issuer in issuers}
    listed = ", ".join([*known.values()][:_MAX_LISTED_ISSUERS])
    more = f", and {len(known) - _MAX_LISTED_ISSUERS} more" if len(known) > _MAX_LISTED_ISSUERS else ""
    nearest = closest(iss[:_MAX_COMPARED], known) if isinstance(iss, str) else None
    hint = "" if nearest is None else f"; the nearest is {nearest} ({difference(str(iss), nearest)})"
    return f"configured: {listed}{more}{hint}"


def _by_key(key: Key) -> str:
    return "by a key without kid" if key.kid is None else f"by key {quoted(key.kid)}"


def _times_of(token: Jws) -> Callable[[object], str]:
    times = {name: token.unverified_claims.get(name) for name in ("iat", "nbf", "exp")}
    detail = ", ".join(f"{name} {_date(value)}" for name, value in times.items() if value is not None)
    return lambda _: detail


def _date(value: Any) -> str:
    return utc(value, quoted(value)) if isinstance(value, (int, float)) else quoted(value)


def _introspection(claims: Claims) -> str:
    return f"active at {claims.issuer}: {_identity(claims)}"


def _identity(claims: Claims) -> str:
    return f"subject {quoted(claims.subject)}, client {quoted(claims.client_id)}, scopes {claims.scope or 'none'}"
