"""What goes out: let the request through, or turn it away.

Law: frozen values. There are exactly two, and no third one that a caller could take for an allowance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from authz_service.core.challenge import bearer_challenge
from authz_service.core.reasons import ALLOWANCES, DENIALS, Reason

if TYPE_CHECKING:
    from authz_service.core.claims import Claims
    from authz_service.core.response_cache import CachedResponse

NO_RULE_NAME = "-"  # stands for the rule where none was reached

Mode = Literal["enforce", "shadow"]


@dataclass(frozen=True, slots=True)
class Allow:
    """Let the request through, with ``headers`` overwritten and ``remove`` taken off on the way to the upstream.

    Where a rule in shadow mode would have denied it, ``reason`` and ``cause`` are those of the denial.
    """

    reason: Reason
    rule: str
    claims: Claims | None = None
    headers: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    mode: Mode = "enforce"
    cause: str = ""
    cached: CachedResponse | None = field(default=None, compare=False, repr=False)  # with just these headers


@dataclass(frozen=True, slots=True)
class Deny:
    """Turn the request away.

    ``cause`` is for the log alone. ``retry_after`` is in seconds, where waiting may help. ``claims`` are those of a
    token that was good in itself and did not suffice.
    """

    reason: Reason
    rule: str = NO_RULE_NAME
    cause: str = ""
    challenge: str | None = None
    retry_after: int | None = None
    claims: Claims | None = None
    mode: Mode = "enforce"


Decision = Allow | Deny


def verdict(decision: Decision) -> Literal["allow", "deny"]:
    """What the rules say, as logs and metadata tell it; of a rule in shadow mode it is not what is done."""
    passed = isinstance(decision, Allow) and (decision.mode == "enforce" or decision.reason in ALLOWANCES)
    return "allow" if passed else "deny"


def deny_without_rule(reason: Reason, cause: str) -> Deny:
    """The denial of a request for which no rule was looked up. No rule names a realm for its challenge."""
    denial = DENIALS[reason]
    challenged = denial.challenged
    challenge = bearer_challenge("api", error=denial.error, description=denial.detail) if challenged else None
    return Deny(reason, cause=cause, challenge=challenge)


# The answer of last resort, for when deciding itself failed.
INTERNAL_ERROR = Deny(Reason.INTERNAL_ERROR, cause="deciding failed: see the line before this one")
