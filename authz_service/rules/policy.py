"""The compiled rules: which one decides a request, and whether a token's claims meet it.

Pure; compiled once from the settings. A rule refuses claims by raising ``Rejected``.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.challenge import challenge
from authz_service.core.credential import AUTHORIZATION, BEARER, DPOP, CredentialHeader
from authz_service.core.decision import Deny
from authz_service.core.errors import ProofRejected, Rejected
from authz_service.core.headers import cgi_name
from authz_service.core.paths import SlashedPath, split, split_with_encoded_slashes
from authz_service.core.patterns import PARAMETERS
from authz_service.core.reasons import DENIALS, Reason
from authz_service.core.scope_hierarchy import FLAT, ScopeHierarchy
from authz_service.rules import conditions
from authz_service.rules.conditions import Condition, NoAlternativeError, RequiredScopes
from authz_service.rules.encoded_slashes import EncodedSlashMatcher
from authz_service.rules.matcher import NO_RULE, Matcher
from authz_service.rules.operators import NO_PARTS, RequestParts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz_service.config import model
    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims
    from authz_service.core.patterns import PathPattern
    from authz_service.rules.conditions import Captures

_ALWAYS_POSSIBLE = (Reason.INTERNAL_ERROR, Reason.DEADLINE_EXCEEDED)
# Reasons of decisions before a rule matches.
_WITHOUT_RULE = frozenset({Reason.RESOURCE_METADATA, Reason.PREFLIGHT, Reason.AMBIGUOUS_PATH, Reason.NO_RULE})
# Reasons that only a condition can cause. A rule without that condition cannot have them.
_OF_CONDITIONS = frozenset(
    {
        *(Reason.ISSUER_NOT_ALLOWED, Reason.CLIENT_NOT_ALLOWED, Reason.CLAIM_MISMATCH, Reason.INSUFFICIENT_SCOPE),
        *(Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION),
    }
)
_OF_CONFIRMATION = frozenset({Reason.UNSUPPORTED_CONFIRMATION, Reason.MISSING_PROOF, Reason.INVALID_PROOF})
_OF_DPOP = frozenset({Reason.REPLAYED_PROOF, Reason.NONCE_REQUIRED})
_OF_INTROSPECTION = frozenset({Reason.INACTIVE, Reason.INTROSPECTION_UNAVAILABLE})
_DPOP_ERRORS = frozenset({"invalid_dpop_proof", "use_dpop_nonce"})
_STEP_UP = frozenset({Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION})


class Rule:
    """One compiled rule."""

    def __init__(
        self,
        rule: model.RuleSettings,
        issuers: Sequence[model.Issuer],
        hierarchy: ScopeHierarchy = FLAT,
        dpop: DpopOffer | None = None,
    ) -> None:
        """``issuers`` are all configured ones."""
        require = rule.require
        self.name = rule.name
        self.access = rule.access
        self.mode = rule.mode
        self.issuers = require.accepted_issuers()  # None: any
        self.credential = CredentialHeader(rule.credential.header, rule.credential.scheme)
        allowed = [issuer for issuer in issuers if require.allows_issuer(issuer.label)]
        accepted = [issuer for issuer in allowed if self.issuers is None or issuer.label in self.issuers]
        self._introspects = any(issuer.introspection is not None for issuer in accepted)
        self._verifies_proofs = any(issuer.confirmation == "verify" for issuer in accepted)
        scopes = [RequiredScopes(part.scopes, hierarchy) for part in require.parts()]
        self.conditions = tuple(_conditions(require, allowed, scopes))  # in the order of evaluation
        self._paths = _paths_with_captures(rule, scopes)
        self._uses_headers = any(condition.header is not None for condition in require.claim_conditions())
        last = (require.any_of or (require,))[-1]
        named = (require.audiences or (), last.audiences or (), *(issuer.audiences for issuer in accepted))
        realm = next(itertools.chain.from_iterable(named), rule.name)
        dpop = dpop or DpopOffer()
        self._challenge = _Challenge(realm, require, scopes[:1], dpop.schemes(self.credential, require.proof), dpop)
        # Where no alternative holds, the last one's challenge is sent, and without a token none holds.
        schemes = dpop.schemes(self.credential, require.proof or last.proof)
        self._last_challenge = _Challenge(realm, last, [scopes[0], scopes[-1]], schemes, dpop)

    def parts_of(self, headers: Mapping[str, str], path: Sequence[str]) -> RequestParts:
        """The parts of a request that conditions use: captures are those of the first matching pattern."""
        for pattern in self._paths:
            if pattern.matches(path):
                return RequestParts(pattern.captured(path), headers)
        return RequestParts({}, headers) if self._uses_headers else NO_PARTS

    def evaluate(self, claims: Claims, request: RequestParts, now: float) -> None:
        """Evaluate the conditions with validated claims. ``now`` is in seconds since the epoch.

        Raises:
            Rejected: if a condition is not met.
        """
        for condition in self.conditions:
            cause = condition.evaluate(claims, request, now)
            if cause is not None:
                raise Rejected(condition.reason, cause)

    def deny(
        self,
        rejected: Rejected,
        request: RequestParts = NO_PARTS,
        claims: Claims | None = None,
        *,
        dpop: bool = False,
        metadata_url: str | None = None,
    ) -> Deny:
        """The denial for a rejection, with the challenges of this rule.

        ``dpop``: the request used this scheme. ``metadata_url`` is that of the resource to which it belongs.
        """
        of_last = _leads_to_login(rejected.reason, metadata_url) or isinstance(rejected, NoAlternativeError)
        challenges = self._last_challenge if of_last else self._challenge
        return Deny(
            rejected.reason,
            rule=self.name,
            cause=rejected.cause,
            challenges=challenges.for_rejection(rejected, request.captures, dpop=dpop, metadata_url=metadata_url),
            retry_after=rejected.retry_after,
            claims=claims,
            mode=self.mode,
            identity=rejected.identity,
        )

    def possible_reasons(self) -> Iterable[Reason]:
        """Every reason that a decision by this rule can have; its metrics are initialized with them."""
        if self.access == "public":
            return (Reason.PUBLIC, *_ALWAYS_POSSIBLE)
        impossible = {Reason.PUBLIC, *_WITHOUT_RULE}
        impossible.add(Reason.ANONYMOUS if self.access == "token" else Reason.MISSING_TOKEN)
        impossible |= _OF_CONDITIONS - set(_reasons(self.conditions))
        impossible |= set() if self._introspects else _OF_INTROSPECTION
        if not self._verifies_proofs:
            impossible |= _OF_CONFIRMATION
        if not (self._verifies_proofs and self.credential.accepts_dpop):
            impossible |= _OF_DPOP
        if not self.credential.accepts_dpop and Reason.UNBOUND_TOKEN not in _reasons(self.conditions):
            impossible.add(Reason.UNBOUND_TOKEN)
        return [reason for reason in Reason if reason not in impossible]


class DpopOffer(NamedTuple):
    """What challenges say about DPoP."""

    algorithms: str = ""  # of proofs, separated by spaces
    beside_bearer: bool = False  # where a rule accepts both

    def schemes(self, credential: CredentialHeader, proof: str | None) -> tuple[str, ...]:
        """The schemes with which a request can meet a rule with this credential and this ``require.proof``."""
        if not credential.accepts_dpop or proof == "mtls":
            return (BEARER,)
        if proof == "dpop" or credential.scheme == DPOP:
            return (DPOP,)
        return (BEARER, DPOP) if self.beside_bearer else (BEARER,)


def _leads_to_login(reason: Reason, metadata_url: str | None) -> bool:
    """Whether the client needs another token, and requests it with the scopes that the challenge names.

    Where the challenge also names the metadata by which the client finds its authorization server, that may follow any
    invalid token.
    """
    return reason is Reason.MISSING_TOKEN or (metadata_url is not None and DENIALS[reason].error == "invalid_token")


class _Challenge:
    """The parameters of the challenges that a part of ``require`` causes."""

    def __init__(
        self,
        realm: str,
        part: model.Alternative,
        scopes: Sequence[RequiredScopes],
        schemes: tuple[str, ...],
        dpop: DpopOffer,
    ) -> None:
        self._realm = realm
        self._scopes = scopes
        self._schemes = schemes
        self._algorithms = dpop.algorithms or None
        self._max_age = None if part.max_auth_age is None else str(int(part.max_auth_age))
        self._acr_values = None if part.acr_values is None else " ".join(part.acr_values)
        self._has_captures = any(each.captured for each in scopes)
        # Challenges that do not depend on the request, by what selects them: a bounded number for each configuration.
        self._prepared: dict[tuple[Reason, str, str | None], str] = {}

    def for_rejection(
        self, rejected: Rejected, captures: Captures, *, dpop: bool, metadata_url: str | None
    ) -> tuple[str, ...]:
        """The challenges of a denial; none if there are none for its reason."""
        if not DENIALS[rejected.reason].challenged:
            return ()
        schemes = self._schemes
        if isinstance(rejected, ProofRejected):
            schemes = (rejected.scheme,)
        elif dpop and DPOP not in schemes:
            schemes = (*schemes, DPOP)
        return tuple([self._of_scheme(scheme, rejected.reason, captures, metadata_url) for scheme in schemes])

    def _of_scheme(self, scheme: str, reason: Reason, captures: Captures, metadata_url: str | None) -> str:
        if self._has_captures:
            return self._make(reason, scheme, metadata_url, captures)
        key = reason, scheme, metadata_url
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepared[key] = self._make(*key, captures)
        return prepared

    def _make(self, reason: Reason, scheme: str, metadata_url: str | None, captures: Captures) -> str:
        denial = DENIALS[reason]
        step_up = reason in _STEP_UP
        is_bearer = scheme == BEARER
        names_scopes = reason is Reason.INSUFFICIENT_SCOPE or _leads_to_login(reason, metadata_url)
        return challenge(
            scheme,
            self._realm,
            error="invalid_token" if is_bearer and denial.error in _DPOP_ERRORS else denial.error,
            description=denial.detail if denial.error else None,
            scope=self._scope(captures) if names_scopes else None,
            max_age=self._max_age if step_up else None,
            acr_values=self._acr_values if step_up else None,
            algs=None if is_bearer else self._algorithms,
            resource_metadata=metadata_url if denial.error != "invalid_request" else None,
        )

    def _scope(self, captures: Captures) -> str | None:
        return " ".join(dict.fromkeys(scope for part in self._scopes for scope in part.for_challenge(captures))) or None


def _reasons(conditions: Iterable[Condition]) -> Iterator[Reason]:
    for condition in conditions:
        if condition.alternatives:
            yield from _reasons(condition.alternatives[-1])
        else:
            yield condition.reason


def _conditions(
    require: model.Require, allowed: Sequence[model.Issuer], scopes: Sequence[RequiredScopes]
) -> Iterator[Condition]:
    """The conditions of a rule. ``scopes`` are the compiled ones of each part of ``require``.

    First the conditions that no new token would meet, then scopes, then alternatives, then those that a new login would
    meet. Where an alternative names audiences and the rule does not, each alternative has the condition on them.
    """
    alternatives = require.any_of or ()
    in_alternatives = require.audiences is None and any(each.audiences is not None for each in alternatives)
    yield from _first_conditions(require, allowed, scopes[0], with_audience=not in_alternatives)
    if alternatives:
        yield conditions.any_of(
            [
                [
                    *_first_conditions(
                        each,
                        accepted := [issuer for issuer in allowed if each.allows_issuer(issuer.label)],
                        scopes_of_each,
                        with_audience=in_alternatives or each.audiences is not None,
                    ),
                    *_login_conditions(each, accepted),
                ]
                for each, scopes_of_each in zip(alternatives, scopes[1:], strict=True)
            ]
        )
    yield from _login_conditions(require, allowed)


def _first_conditions(
    part: model.Alternative, allowed: Sequence[model.Issuer], scopes: RequiredScopes, *, with_audience: bool
) -> Iterator[Condition]:
    if part.issuers is not None:
        yield conditions.issuer_is_one_of(issuer.label for issuer in allowed)
    if with_audience:
        yield conditions.audience_is_accepted(
            {issuer.label: frozenset(part.audiences or issuer.audiences) for issuer in allowed}
        )
    if part.proof is not None:
        yield conditions.bound_to_sender(part.proof)
    if part.clients is not None:
        yield conditions.client_is_one_of(part.clients)
    for path, condition in (part.claims or {}).items():
        yield conditions.claim_holds(path, condition)
    if (required_scopes := scopes.condition()) is not None:
        yield required_scopes


def _login_conditions(part: model.Alternative, allowed: Sequence[model.Issuer]) -> Iterator[Condition]:
    if part.max_auth_age is not None:
        leeways = {issuer.label: issuer.leeway for issuer in allowed}
        yield conditions.authenticated_within(part.max_auth_age, leeways)
    if part.acr_values is not None:
        yield conditions.authenticated_as(part.acr_values)


def _paths_with_captures(rule: model.RuleSettings, scopes: Iterable[RequiredScopes]) -> tuple[PathPattern, ...]:
    """The rule's patterns if a condition uses their captures, otherwise none."""
    compared = any(condition.capture is not None for condition in rule.require.claim_conditions())
    if not (compared or any(each.captured for each in scopes)):
        return ()
    return rule.match.path_patterns


class Policy:
    """All rules in file order."""

    def __init__(
        self,
        rules: Sequence[model.RuleSettings],
        issuers: Sequence[model.Issuer],
        scope_implies: Mapping[str, Sequence[str]] | None = None,
        dpop: DpopOffer | None = None,
    ) -> None:
        hierarchy = ScopeHierarchy(scope_implies) if scope_implies else FLAT
        self.rules = tuple(Rule(rule, issuers, hierarchy, dpop) for rule in rules)
        self.credentials = frozenset(
            cgi_name(name) for name in (AUTHORIZATION, *(rule.credential.name for rule in self.rules))
        )
        self.split = split  # reads the path of a request for these rules
        self._matcher: Matcher | EncodedSlashMatcher = Matcher([None if rule.policy else rule.match for rule in rules])
        slashed = {place: rule for place, rule in enumerate(rules) if rule.match.encoded_slash}
        if slashed:
            self.split = split_with_encoded_slashes
            self._matcher = EncodedSlashMatcher(self._matcher, slashed)
        self._named = {rule.policy: place for place, rule in enumerate(rules) if rule.policy}

    def choose(self, attributes: Attributes, path: Sequence[str]) -> Rule | None:
        """The first rule that matches, or None. ``path`` are the decoded segments.

        A policy that no rule has matches no rule: the route requires one that does not exist. Neither does a path with
        parameters, unless a pattern has them literally, or with encoded slashes, unless ``encoded_slash`` allows them.
        """
        named = self._named.get(attributes.policy) if attributes.policy else NO_RULE
        if named is None:
            return None
        place = self._matcher.choose(attributes, path, named)
        if place is None or place == NO_RULE or (place == named and PARAMETERS in path[-1]):
            return None
        return self.rules[place]

    def has_rule_for(self, attributes: Attributes, path: Sequence[str]) -> bool:
        """Whether any rule is for the request's policy, or its host and path, whatever its method and headers."""
        if attributes.policy:
            plain = PARAMETERS not in path[-1] and not isinstance(path, SlashedPath)
            return plain and attributes.policy in self._named
        return self._matcher.has_rule_for(attributes.host, path)


def no_rule(path: Sequence[str]) -> Rejected:
    """The rejection of a request with these decoded segments that no rule matches."""
    if isinstance(path, SlashedPath):
        return Rejected(Reason.AMBIGUOUS_PATH, "an encoded slash, and no rule with encoded_slash matches first")
    if PARAMETERS in path[-1]:
        return Rejected(Reason.AMBIGUOUS_PATH, "the last segment has parameters, and no pattern has them literally")
    return Rejected(Reason.NO_RULE, "no rule matches")
