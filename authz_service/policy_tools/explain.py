"""Why one request is decided as it is: every step to the decision, each by the very function that serves.

Law: the authorizer decides; the steps are told beside it, by calling what it calls in the order in which it does.
Should the two ever end in different reasons, that is a fault and said as one. Neither the token nor its signature is
ever told.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from authz_service.authorizer import Pending
from authz_service.core import connection_header, credential, paths
from authz_service.core.bounded import NO_CACHE
from authz_service.core.cors import is_preflight
from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason
from authz_service.providers.client import ClientResources
from authz_service.rules import mismatch
from authz_service.rules.policy import no_rule
from authz_service.runtime.assembly import authorizer_of, introspector_of, key_cache_of, source_of
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.attempt import LAST
from authz_service.tokens.introspection.query import NeedIntrospection
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.jwt.claims import REQUIREMENTS, validate_claims
from authz_service.tokens.validator import NeedKeys, TrustedIssuer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.authorizer import Authorizer
    from authz_service.config import model
    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims
    from authz_service.core.decision import Decision
    from authz_service.keys.keyset import Key
    from authz_service.keys.source import KeySource
    from authz_service.rules.conditions import Captures, Condition
    from authz_service.rules.policy import Rule
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.jwt.jws import Jws

_Result = TypeVar("_Result")
# Not a no to this request: asked again in a while, the same request may be allowed.
UNDECIDED = frozenset(
    {
        *(Reason.KEYS_UNAVAILABLE, Reason.INTROSPECTION_UNAVAILABLE),
        *(Reason.DEADLINE_EXCEEDED, Reason.INTERNAL_ERROR),
    }
)


class Step(NamedTuple):
    """One thing that was looked at: ``part`` is path, rule, token or claims; ``passed`` is None for a mere remark."""

    part: str
    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and the way to it."""

    decision: Decision
    steps: tuple[Step, ...]


def explain(settings: model.Settings, attributes: Attributes) -> Explanation:
    """Decide a request by these settings, fetching the keys of its token's issuer if they are needed."""
    return asyncio.run(_explain(settings, attributes))


async def _explain(settings: model.Settings, attributes: Attributes) -> Explanation:
    metrics = Metrics(transport=settings.server.transport)
    resources = ClientResources()
    sources = [source_of(issuer, resources) for issuer in settings.issuers]
    issuers = [
        _trusted(issuer, source, metrics, resources) for issuer, source in zip(settings.issuers, sources, strict=True)
    ]
    authorizer = authorizer_of(settings, issuers, JwtCache(NO_CACHE, 0.0), metrics)
    try:
        now = time.time()
        attempt = LAST
        decision = authorizer.begin(attributes, now)
        if isinstance(decision, Pending):
            await decision.ready()
            now, attempt = time.time(), decision.last_attempt
            decision = authorizer.finish(decision, now)
        return explained(settings, authorizer, attributes, decision, now, attempt)
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
) -> Explanation:
    """The steps to a decision that was made at ``now``, in seconds since the epoch, with the keys that are known.

    ``attempt`` is the last one, with the introspection results that were fetched for it.
    """
    steps = _Steps()
    reason = _last_reason(steps, settings, authorizer, attributes, now, attempt)
    if reason is not decision.reason:
        raise AssertionError(f"the steps end in {reason}, and the decision is {decision.reason}")
    return Explanation(decision, tuple(steps.told))


def _nothing(_result: object) -> str:
    return ""


class _Steps:
    """What was looked at so far."""

    def __init__(self) -> None:
        self.told: list[Step] = []

    def tell(self, part: str, name: str, detail: str, *, passed: bool | None = None) -> None:
        self.told.append(Step(part, name, passed, detail))

    def take(
        self, part: str, name: str, work: Callable[[], _Result], detail: Callable[[_Result], str] = _nothing
    ) -> _Result:
        """Do one step and tell how it ended; a rejection goes on to whoever takes the steps."""
        try:
            result = work()
        except Rejected as rejected:
            self.tell(part, name, f"{rejected.reason}: {rejected.cause}", passed=False)
            raise
        self.tell(part, name, detail(result), passed=True)
        return result


def _last_reason(
    steps: _Steps,
    settings: model.Settings,
    authorizer: Authorizer,
    attributes: Attributes,
    now: float,
    attempt: Attempt,
) -> Reason:
    """Take the steps as the authorizer does; the reason in which they end."""
    try:
        path = steps.take("path", "segments", lambda: paths.split(attributes.path), _segments)
        if "connection" in attributes.headers:
            steps.take("path", "connection", lambda: connection_header.validate(attributes.headers))
        if settings.cors_preflight == "allow" and is_preflight(attributes):
            known = authorizer.policy.has_rule_for(attributes, path)
            detail = "goes through without a token" if known else "there is no rule for this host and path"
            steps.tell("path", "preflight", detail, passed=known or None)
            if known:
                return Reason.PREFLIGHT
        rule = _rule(steps, settings, authorizer, attributes, path)
        if rule is None:
            return no_rule(path).reason
        if rule.access == "public":
            steps.tell("rule", rule.name, "public: a token is ignored")
            return Reason.PUBLIC
        return _by_token(steps, authorizer, attributes, rule, path, now, attempt)
    except Rejected as rejected:
        return rejected.reason


def _segments(path: Sequence[str]) -> str:
    return " / ".join(quoted(segment)[1:-1] for segment in path) or "the root"


def _rule(
    steps: _Steps, settings: model.Settings, authorizer: Authorizer, attributes: Attributes, path: Sequence[str]
) -> Rule | None:
    """The rule that decides; and for each one before it, why it does not."""
    chosen = authorizer.policy.choose(attributes, path)
    why_none = mismatch.of_every_rule(settings.rules, attributes)
    if why_none is not None:
        steps.tell("rule", "-", why_none, passed=False)
        return chosen
    for rule in settings.rules:
        why_not = mismatch.of(rule, attributes, path)
        if why_not is None:
            steps.tell("rule", rule.name, _in_words(rule), passed=True)
            break
        steps.tell("rule", rule.name, why_not)
        if mismatch.ends_search(rule, attributes, path):
            steps.tell("rule", "-", "no later rule applies: it could be what this one asks for", passed=False)
            break
    else:
        steps.tell("rule", "-", no_rule(path).cause, passed=False)
    return chosen


def _in_words(rule: model.RuleSettings) -> str:
    shadow = ", in shadow mode" if rule.mode == "shadow" else ""
    return f"decides; access {rule.access}{shadow}"


def _by_token(
    steps: _Steps,
    authorizer: Authorizer,
    attributes: Attributes,
    rule: Rule,
    path: Sequence[str],
    now: float,
    attempt: Attempt,
) -> Reason:
    sent = attributes.headers.get("authorization")
    if rule.access == "optional" and _is_missing(sent, authorizer.max_token_bytes):
        steps.tell("token", "credential", "there is none, and the rule does without", passed=True)
        return Reason.ANONYMOUS
    text = steps.take("token", "credential", lambda: credential.bearer_token(sent, authorizer.max_token_bytes))
    claims = _claims(steps, authorizer, text, rule, now, attempt)
    captures = rule.captures(path)
    for condition in rule.conditions:
        steps.take("claims", condition.name, _judged(condition, claims, captures, now), _wanted(condition, claims))
    steps.take("upstream", "headers", lambda: authorizer.upstream.for_token(claims), _sent)
    return Reason.OK


def _is_missing(sent: str | None, max_token_bytes: int) -> bool:
    try:
        credential.bearer_token(sent, max_token_bytes)
    except Rejected as rejected:
        return rejected.reason is Reason.MISSING_TOKEN
    return False


def _judged(condition: Condition, claims: Claims, captures: Captures, now: float) -> Callable[[], None]:
    def judged() -> None:
        cause = condition.evaluate(claims, captures, now)
        if cause is not None:
            wanted = "" if condition.requirement in cause else f"; wanted: {condition.requirement}"
            raise Rejected(condition.reason, f"{cause}{wanted}{_held(condition, claims)}")

    return judged


def _wanted(condition: Condition, claims: Claims) -> Callable[[object], str]:
    return lambda _: f"wanted: {condition.requirement}{_held(condition, claims)}"


def _held(condition: Condition, claims: Claims) -> str:
    return f"; held: {claims.scope or 'none'}" if condition.name == "scopes" else ""


def _sent(headers: tuple[Sequence[tuple[str, str]], Sequence[str]]) -> str:
    return ", ".join(name for name, _ in headers[0]) or "none"


def _claims(steps: _Steps, authorizer: Authorizer, text: str, rule: Rule, now: float, attempt: Attempt) -> Claims:
    """The claims of a token, as the validator comes to them."""
    validator = authorizer.validator

    def introspected() -> Claims:
        found = validator.validate(text, now, rule.issuers, attempt)
        if isinstance(found, (NeedKeys, NeedIntrospection)):
            raise AssertionError("the last attempt has something left to fetch")  # noqa: TRY004 - as in _key
        return found.claims

    if validator.servers_for_opaque(text, rule.issuers):
        steps.tell("token", "form", "opaque: whoever issued it is asked", passed=True)
        return steps.take("token", "introspection", introspected, _introspection)
    token = steps.take("token", "form", lambda: jws.parse(text), _form)
    issuer = steps.take("token", "issuer", lambda: validator.issuer_of(token), lambda issuer: issuer.settings.label)
    steps.take("token", "signature", lambda: _key(authorizer, token, issuer, now, attempt), _by_key)
    said = (issuer.settings, token.header, token.unverified_claims, now)
    for name, require in REQUIREMENTS:
        steps.take("token", name, partial(require, *said), _times_of(token) if name == "times" else _nothing)
    claims = steps.take("token", "claims", lambda: validate_claims(*said), _identity)
    if validator.must_be_active(claims.issuer):
        return steps.take("token", "introspection", introspected, _introspection)
    return claims


def _key(authorizer: Authorizer, token: Jws, issuer: TrustedIssuer, now: float, attempt: Attempt) -> Key:
    key = authorizer.validator.verify(token, issuer, now, attempt)
    if isinstance(key, NeedKeys):
        raise AssertionError("the last attempt has something left to fetch")  # noqa: TRY004 - a fault, not a wrong type
    return key


def _form(token: Jws) -> str:
    return f"a JWT: alg {quoted(token.algorithm)}, kid {quoted(token.kid)}, typ {quoted(token.header.get('typ'))}"


def _by_key(key: Key) -> str:
    return f"by key {quoted(key.kid)}"


def _times_of(token: Jws) -> Callable[[object], str]:
    times = {name: token.unverified_claims.get(name) for name in ("iat", "nbf", "exp")}
    told = ", ".join(f"{name} {_moment(at)}" for name, at in times.items() if at is not None)
    return lambda _: told


def _moment(at: Any) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return quoted(at)


def _introspection(claims: Claims) -> str:
    return f"active, says {claims.issuer}: {_identity(claims)}"


def _identity(claims: Claims) -> str:
    return f"subject {quoted(claims.subject)}, client {quoted(claims.client_id)}, scopes {claims.scope or 'none'}"
