"""Runs policy test cases and reports where a decision differs from the expected one.

The sidecar's authorizer and key caches decide; only the source of the keys differs. Nothing of a token is reported.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from authz_service.authorizer import Pending
from authz_service.core.bounded import NO_CACHE
from authz_service.core.decision import Allow, Answer, Deny, outcome_label
from authz_service.core.errors import printable
from authz_service.core.reasons import DENIALS
from authz_service.core.upstream_metadata import UpstreamMetadata
from authz_service.policy_tools.ephemeral_client import EphemeralClient
from authz_service.policy_tools.ephemeral_issuer import EphemeralIssuer
from authz_service.policy_tools.request import attributes_of, rule_of, with_token
from authz_service.runtime.assembly import ProofState, authorizer_of, key_cache_of
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.revocation.revocations import RevocationList
from authz_service.tokens.validator import TrustedIssuer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from authz_service.authorizer import Authorizer
    from authz_service.config.model import RuleSettings, Settings
    from authz_service.core.attributes import Attributes
    from authz_service.core.decision import Decision
    from authz_service.policy_tools.cases import Case, Expect
    from authz_service.policy_tools.ephemeral_client import Method


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a case. ``differences`` has lines for each value that differs from the expected one."""

    name: str
    differences: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the decision was as expected."""
        return not self.differences


class CaseRunner:
    """Runs cases with one configuration, with ephemeral issuers in place of its own."""

    def __init__(self, settings: Settings) -> None:
        self._now = time.time()
        metrics = Metrics(transport=settings.server.transport)
        self._issuers = {issuer.label: EphemeralIssuer(issuer, settings) for issuer in settings.issuers}
        trusted = [
            TrustedIssuer(
                issuer,
                key_cache_of(issuer, self._issuers[issuer.label], metrics.issuer(issuer.label), lambda: self._now),
            )
            for issuer in settings.issuers
        ]
        asyncio.run(_fetch(trusted))
        self._metadata = UpstreamMetadata(settings.upstream.metadata)
        state = ProofState.of(_without_nonce_key_file(settings), metrics, None, self._now)
        self._authorizer: Authorizer = authorizer_of(
            settings, trusted, JwtCache(NO_CACHE, 0.0), metrics, state, RevocationList()
        )
        self._by_certificate = frozenset(rule.name for rule in settings.rules if _requires_certificate(rule))
        self._client, self._thief = (EphemeralClient(settings, state.nonces, self._now) for _ in range(2))

    def run(self, case: Case) -> Outcome:
        """Run one case."""
        started = time.perf_counter()
        decision = self._decide(self._attributes(case))
        metadata = {} if decision.claims is None else self._metadata.for_token(decision.claims)
        differences = tuple(_differences(case.expect, decision, metadata))
        return Outcome(case.name, differences, time.perf_counter() - started)

    def _attributes(self, case: Case) -> Attributes:
        request = case.request
        attributes = attributes_of(request.method, request.url, request.headers.items(), request.policy)
        if case.token is None:
            return attributes
        if case.token.raw is not None:
            return with_token(attributes, case.token.raw, self._authorizer.policy)
        issuer, method = self._issuers[case.token.issuer], self._method(case, attributes)
        if method is None:
            text = issuer.token(case.token, self._now)
        else:
            text = issuer.token(case.token, self._now, self._client.confirmation(method))
            sender = self._thief if case.proof == "stolen" else self._client
            attributes = sender.proven(attributes, text, method)
        return with_token(attributes, text, self._authorizer.policy)

    def _method(self, case: Case, attributes: Attributes) -> Method | None:
        """How the token of the case is bound to its sender."""
        if case.proof == "none":
            return None
        if case.proof != "stolen":
            return case.proof
        rule = rule_of(attributes, self._authorizer.policy)
        return "mtls" if rule is not None and rule.name in self._by_certificate else "dpop"

    def _decide(self, attributes: Attributes) -> Decision:
        decision = self._authorizer.begin(attributes, self._now)
        # Pending: the key id is not in the key set, and fetching again would not change that.
        return self._authorizer.finish(decision, self._now) if isinstance(decision, Pending) else decision


def _without_nonce_key_file(settings: Settings) -> Settings:
    """A pipeline does not have the key of the nonces, and needs no other process to accept them."""
    dpop = settings.dpop_or_default.with_values(nonce_key_file=None)
    return settings.with_values(dpop=dpop)


def _requires_certificate(rule: RuleSettings) -> bool:
    return {part.proof for part in rule.require.parts()} - {None} == {"mtls"}


async def _fetch(issuers: list[TrustedIssuer]) -> None:
    for issuer in issuers:
        await issuer.keys.refresh()


def _differences(expect: Expect, decision: Decision, metadata: Mapping[str, Any]) -> Iterator[str]:
    """For each difference, a line with ``-`` (expected) and one with ``+`` (actual); at the end, the cause."""
    found = _found(decision) | {"metadata": metadata}
    differ = False
    for key, wanted in expect.members():
        for name, expected, actual in _compared(key, wanted, found[key]) if key in expect.written else ():
            if expected != actual:
                differ = True
                yield printable(f"- {name}: {_shown(expected)}")
                yield printable(f"+ {name}: {_shown(actual)}")
    if differ and decision.cause:
        yield printable(f"  cause: {decision.cause}")


def _compared(key: str, expected: Any, actual: Any) -> list[tuple[str, Any, Any]]:
    """The name of each value that a key of ``expect`` compares, with the expected and the actual value."""
    match key:
        case "upstream":
            return [(f"upstream {name}", value, actual.get(name.lower())) for name, value in (expected or {}).items()]
        case "metadata":
            return [(f"metadata {name}", value, actual.get(name)) for name, value in (expected or {}).items()]
        case _:
            return [(key, expected, actual)]


def _found(decision: Decision) -> dict[str, Any]:
    """A decision in the terms of ``expect``."""
    return {
        "decision": outcome_label(decision),
        "rule": decision.rule,
        "status": _status(decision),
        "reason": str(decision.reason),
        "mode": decision.mode,
        "challenge": ", ".join(decision.challenges) or None if isinstance(decision, Deny) else None,
        "upstream": dict(decision.headers) if isinstance(decision, Allow) else {},
    }


def _status(decision: Decision) -> int | None:
    match decision:
        case Allow():
            return None
        case Deny():
            return int(DENIALS[decision.reason].status)
        case Answer():
            return int(HTTPStatus.OK)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
