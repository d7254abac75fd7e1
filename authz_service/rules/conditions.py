"""The conditions that a rule can set for a token.

Pure. A condition that cannot be evaluated is not met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from authz_service.core.claim_path import NotAnObjectError
from authz_service.core.confirmation import IGNORED
from authz_service.core.errors import Rejected, quoted, quoted_list
from authz_service.core.members import SCOPE_TOKEN, numeric_date
from authz_service.core.patterns import CAPTURE
from authz_service.core.reasons import Reason
from authz_service.core.scope_hierarchy import FLAT
from authz_service.rules.operators import one_of, operator_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from authz_service.config import model
    from authz_service.core.claim_path import ClaimPath
    from authz_service.core.claims import Claims
    from authz_service.core.scope_hierarchy import ScopeHierarchy
    from authz_service.rules.operators import RequestParts

    Captures = Mapping[str, str]  # the segment that each {name} of the path matched
    Evaluate = Callable[[Claims, RequestParts, float], str | None]


_BINDINGS = {
    "any": "a DPoP key or a client certificate",
    "dpop": "a DPoP key (cnf.jkt)",
    "mtls": "a client certificate (cnf.x5t#S256)",
}
_MAX_CAUSES = 6  # alternatives that a cause names
_MAX_CAUSE = 120  # characters of each


class Condition(NamedTuple):
    """One condition of a rule.

    ``evaluate`` takes claims, parts of the request and the time. It returns None if the condition is met, otherwise the
    cause for the log. It may also raise ``Rejected``, for a claim of the wrong type.
    """

    name: str
    reason: Reason  # of the denial if the condition is not met
    requirement: str  # in the terms of the configuration
    evaluate: Evaluate
    alternatives: tuple[tuple[Condition, ...], ...] = ()  # of ``any_of``, each a list of conditions


class NoAlternativeError(Rejected):
    """No alternative holds. The reason is that of the last one; the cause names why each of them does not."""


def any_of(alternatives: Sequence[Sequence[Condition]]) -> Condition:
    """All conditions of at least one alternative are met. One that cannot be evaluated is not met.

    ``evaluate`` raises ``NoAlternativeError`` otherwise; ``reason`` is not used.
    """
    every = tuple(map(tuple, alternatives))

    def evaluate(claims: Claims, request: RequestParts, now: float) -> None:
        failures: list[Rejected] = []
        for conditions in every:
            failure = _first_failure(conditions, claims, request, now)
            if failure is None:
                return
            failures.append(failure)
        raise NoAlternativeError(failures[-1].reason, _causes(failures))

    requirement = "one of the alternatives" if len(every) > 1 else "the alternative"
    return Condition("any_of", every[-1][-1].reason, requirement, evaluate, every)


def _first_failure(
    conditions: Iterable[Condition], claims: Claims, request: RequestParts, now: float
) -> Rejected | None:
    try:
        for condition in conditions:
            cause = condition.evaluate(claims, request, now)
            if cause is not None:
                return Rejected(condition.reason, cause)
    except Rejected as rejected:
        return rejected
    return None


def _causes(failures: Sequence[Rejected]) -> str:
    """Why each alternative does not hold: bounded, and always with the last one, whose reason is given."""
    texts = [f"any_of[{place}]: {_shortened(failure.cause)}" for place, failure in enumerate(failures)]
    if len(texts) > _MAX_CAUSES:
        texts[_MAX_CAUSES - 1 : -1] = ["..."]
    return "; ".join(texts)


def _shortened(cause: str) -> str:
    return cause if len(cause) <= _MAX_CAUSE else f"{cause[:_MAX_CAUSE]}..."


def issuer_is_one_of(labels: Iterable[str]) -> Condition:
    """The token's issuer is one that the rule allows."""
    allowed = frozenset(labels)

    def evaluate(claims: Claims, _request: RequestParts, _now: float) -> str | None:
        return None if claims.issuer in allowed else f"the rule does not allow issuer {claims.issuer}"

    return Condition("issuer", Reason.ISSUER_NOT_ALLOWED, one_of(sorted(allowed)), evaluate)


def audience_is_accepted(audiences: Mapping[str, frozenset[str]]) -> Condition:
    """One of the token's audiences is accepted for its issuer."""
    nothing: frozenset[str] = frozenset()
    required = {issuer: _one_of_quoted(sorted(accepted)) for issuer, accepted in audiences.items()}

    def evaluate(claims: Claims, _request: RequestParts, _now: float) -> str | None:
        if not audiences.get(claims.issuer, nothing).isdisjoint(claims.audiences):
            return None
        got = quoted_list(sorted(claims.audiences))
        return f"the token's audiences are {got}; required: {required.get(claims.issuer, 'another issuer')}"

    every = sorted(nothing.union(*audiences.values()))
    return Condition("audience", Reason.WRONG_AUDIENCE, one_of(every), evaluate)


def _one_of_quoted(names: Sequence[str]) -> str:
    return quoted(names[0]) if len(names) == 1 else f"one of {quoted_list(names)}"


def client_is_one_of(clients: Iterable[str]) -> Condition:
    """The token was issued to one of these clients."""
    allowed = frozenset(clients)

    def evaluate(claims: Claims, _request: RequestParts, _now: float) -> str | None:
        return None if claims.client_id in allowed else f"the rule does not allow client {quoted(claims.client_id)}"

    return Condition("client", Reason.CLIENT_NOT_ALLOWED, one_of(sorted(allowed)), evaluate)


def claim_holds(path: ClaimPath, condition: model.ClaimCondition) -> Condition:
    """The claim at a path meets the configured condition."""
    requirement, holds = operator_of(condition)

    def evaluate(claims: Claims, request: RequestParts, _now: float) -> str | None:
        try:
            value = path.follow(claims.raw)
        except NotAnObjectError:
            return f"claim {path} cannot be evaluated: the path leads through a value that is not an object"
        return None if holds(value, request) else f"claim {path} is not {requirement}"

    return Condition(f"claim {path}", Reason.CLAIM_MISMATCH, requirement, evaluate)


def bound_to_sender(proof: Literal["any", "dpop", "mtls"]) -> Condition:
    """The token is bound to its sender in this way. That the sender proved it is verified before any condition."""

    def evaluate(claims: Claims, _request: RequestParts, _now: float) -> str | None:
        confirmation = claims.confirmation or IGNORED
        if proof == "any":
            bound = confirmation != IGNORED
        else:
            bound = (confirmation.jkt if proof == "dpop" else confirmation.x5t_s256) is not None
        return None if bound else f"the token is not bound to {_BINDINGS[proof]}"

    return Condition("proof", Reason.UNBOUND_TOKEN, f"bound to {_BINDINGS[proof]}", evaluate)


class RequiredScopes:
    """The scopes of a rule. A scope may contain captures of the path: ``read:{tenant}``.

    A holder of a scope holds those that it implies as well, also where they are forbidden.
    """

    def __init__(self, scopes: model.Scopes, hierarchy: ScopeHierarchy = FLAT) -> None:
        self._all, self._any, self._none = scopes.all, scopes.any, scopes.none
        self._hierarchy = hierarchy
        every = (*scopes.all, *scopes.any, *scopes.none)
        self.captured = frozenset(name for scope in every for name in CAPTURE.findall(scope))
        self._fixed = None if self.captured else self._sets({})

    def _sets(self, captures: Captures) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """All of the first, and any and none of the others, which include the scopes that grant them."""
        granting = self._hierarchy.granting
        all_ = frozenset(_filled(scope, captures) for scope in self._all)
        any_, none = (
            frozenset[str]().union(*(granting(_filled(scope, captures)) for scope in part))
            for part in (self._any, self._none)
        )
        return all_, any_, none

    def condition(self) -> Condition | None:
        """The scopes as a condition; None if the rule requires none."""
        if not (self._all or self._any or self._none):
            return None
        return Condition("scopes", Reason.INSUFFICIENT_SCOPE, self._in_words(), self._evaluate)

    def _evaluate(self, claims: Claims, request: RequestParts, _now: float) -> str | None:
        all_, any_, none = self._fixed or self._sets(request.captures)
        scopes = claims.scopes
        if not all_ <= scopes:
            missing = [scope for scope in all_ - scopes if not self._hierarchy.grants(scope, scopes)]
            if missing:
                return f"missing scopes: {_listed(missing)}"
        if any_ and any_.isdisjoint(scopes):
            return f"missing any scope of: {_listed(_filled(scope, request.captures) for scope in self._any)}"
        if not none.isdisjoint(scopes):
            return f"forbidden scopes: {_listed(none & scopes)}"
        return None

    def _in_words(self) -> str:
        parts = (("all of", self._all), ("any of", self._any), ("none of", self._none))
        return "; ".join(f"{which} {' '.join(map(self._with_holders, scopes))}" for which, scopes in parts if scopes)

    def _with_holders(self, scope: str) -> str:
        holders = sorted(self._hierarchy.granting(scope) - {scope})
        return f"{scope} (implied by {', '.join(holders)})" if holders else scope

    def for_challenge(self, captures: Captures) -> list[str]:
        """The scopes that a challenge names: those required, as far as a token can have them."""
        filled = dict.fromkeys(_filled(scope, captures) for scope in (*self._all, *self._any))
        return list(filter(SCOPE_TOKEN.fullmatch, filled))


def _filled(scope: str, captures: Captures) -> str:
    """The scope with its captures filled in. If the result is not a scope-token, no token can have it."""
    return CAPTURE.sub(lambda name: captures.get(name[1], name[0]), scope)


def _listed(scopes: Iterable[str]) -> str:
    return " ".join(scope if scope.isascii() and scope.isprintable() else quoted(scope) for scope in sorted(scopes))


def authenticated_within(max_auth_age: float, leeways: Mapping[str, float]) -> Condition:
    """The user authenticated at most ``max_auth_age`` seconds ago (RFC 9470 section 4)."""

    def evaluate(claims: Claims, _request: RequestParts, now: float) -> str | None:
        leeway = leeways[claims.issuer]
        at = -1.0 if claims.raw.get("auth_time") is None else numeric_date(claims.raw, "auth_time", -1.0)
        if at < 0:
            return "the token has no auth_time"
        if at > now + leeway:
            return "auth_time is in the future"
        return None if now <= at + max_auth_age + leeway else f"the user authenticated {now - at:.0f} s ago"

    requirement = f"the user authenticated at most {max_auth_age:g} s ago"
    return Condition("authentication time", Reason.STALE_AUTHENTICATION, requirement, evaluate)


def authenticated_as(acr_values: Iterable[str]) -> Condition:
    """The user authenticated in one of these contexts (RFC 9470 section 4)."""
    accepted = frozenset(acr_values)

    def evaluate(claims: Claims, _request: RequestParts, _now: float) -> str | None:
        acr = claims.raw.get("acr")
        return None if isinstance(acr, str) and acr in accepted else f"acr is {quoted(acr)}"

    return Condition("authentication context", Reason.WEAK_AUTHENTICATION, one_of(acr_values), evaluate)
