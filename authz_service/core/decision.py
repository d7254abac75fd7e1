"""The three decisions: let the request through, turn it away, or answer it here.

All are frozen values. Only ``Allow`` reaches the upstream.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from authz_service.core.challenge import challenge
from authz_service.core.credential import BEARER
from authz_service.core.reasons import ALLOWANCES, DENIALS, Reason

if TYPE_CHECKING:
    from authz_service.core.claims import Claims, Identity, UnverifiedIdentity
    from authz_service.core.response_cache import CachedResponse

NO_RULE_NAME = "-"  # the rule name of a decision that no rule made

# The members that the dynamic metadata of every decision have.
METADATA_MEMBERS = frozenset(
    {"decision_id", "decision", "reason", "rule", "mode", "issuer", "subject", "client_id", "scopes"}
)

# Those of a decision about a request that has these ids.
CORRELATION_MEMBERS = frozenset({"request_id", "trace_id", "span_id"})

Mode = Literal["enforce", "shadow"]


class Allow(NamedTuple):
    """Let the request through, with ``headers`` overwritten and ``remove`` removed on the way to the upstream.

    If a rule in shadow mode would have denied it, ``reason``, ``cause`` and ``identity`` are those of the denial.
    """

    reason: Reason
    rule: str
    claims: Claims | None = None
    headers: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    mode: Mode = "enforce"
    cause: str = ""
    response_headers: tuple[tuple[str, str], ...] = ()  # for the client's response
    identity: Identity | UnverifiedIdentity | None = None
    cached: CachedResponse | None = None  # with exactly these headers


class Deny(NamedTuple):
    """Turn the request away.

    ``challenges`` are the values of WWW-Authenticate, one for each scheme. ``response_headers`` are further ones.
    ``cause`` is for the log only. ``retry_after`` is in seconds, and set if a retry may succeed. ``claims`` are those
    of a valid token that did not satisfy the rule; of another token, ``identity`` is what is known.
    """

    reason: Reason
    rule: str = NO_RULE_NAME
    cause: str = ""
    challenges: tuple[str, ...] = ()
    retry_after: int | None = None
    claims: Claims | None = None
    mode: Mode = "enforce"
    response_headers: tuple[tuple[str, str], ...] = ()
    identity: Identity | UnverifiedIdentity | None = None


class Answer(NamedTuple):
    """Answer the request with a public document. The upstream does not get it."""

    reason: Reason
    body: str
    headers: tuple[tuple[str, str], ...]
    rule: str = NO_RULE_NAME
    cause: str = ""
    claims: None = None
    identity: None = None
    mode: Mode = "enforce"


Decision = Allow | Deny | Answer
DecisionLabel = Literal["allow", "deny", "answer"]


def decision_label(decision: Decision) -> DecisionLabel:
    """The decision as logs and metadata report it: that of the rules, even if shadow mode does not enforce it."""
    if isinstance(decision, Answer):
        return "answer"
    passed = isinstance(decision, Allow) and (decision.mode == "enforce" or decision.reason in ALLOWANCES)
    return "allow" if passed else "deny"


def outcome_label(decision: Decision) -> DecisionLabel:
    """What happens to the request, which in shadow mode is not what the rules decided."""
    match decision:
        case Allow():
            return "allow"
        case Deny():
            return "deny"
        case Answer():
            return "answer"


def deny_without_rule(reason: Reason, cause: str) -> Deny:
    """The denial of a request for which no rule was looked up. Its challenge has the realm ``api``."""
    return Deny(reason, cause=cause, challenges=_challenges_without_rule(reason))


@cache
def _challenges_without_rule(reason: Reason) -> tuple[str, ...]:
    denial = DENIALS[reason]
    if not denial.challenged:
        return ()
    return (challenge(BEARER, "api", error=denial.error, description=denial.detail),)


# The denial of last resort, for when the decision itself failed.
INTERNAL_ERROR = Deny(Reason.INTERNAL_ERROR, cause="the decision failed: see the previous log line")
