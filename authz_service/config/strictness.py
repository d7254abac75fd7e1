"""Whether one rule is as strict as another.

Pure. Invariant: a rule counts as strict as another only if that is provable from what is written. In doubt it does not:
a requirement that this module does not know is as strict as an equal one only.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from authz_service.config.model import Alternative
from authz_service.core.patterns import overlap
from authz_service.core.scalars import scalar_key, scalar_keys
from authz_service.core.scope_hierarchy import FLAT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from authz_service.config.model import ClaimCondition, Issuer, Require, RuleSettings
    from authz_service.core.patterns import PathPattern
    from authz_service.core.scope_hierarchy import ScopeHierarchy

    Way = tuple[Alternative, ...]  # requirements that together admit a token: the rule's own, and one alternative


class Strictness:
    """Compares rules of one configuration."""

    def __init__(self, issuers: Sequence[Issuer], hierarchy: ScopeHierarchy = FLAT) -> None:
        """``issuers`` are all configured ones."""
        self._issuers = issuers
        self._hierarchy = hierarchy

    def requires_as_much(self, rule: RuleSettings, other: RuleSettings) -> bool:
        """Whether ``rule`` admits no token that ``other`` refuses."""
        if other.access != "token" or other.mode == "shadow":  # lets requests without a token through
            return True
        if rule.access != "token" or rule.mode == "shadow":
            return False
        differing = _differing_captures(rule, other)
        theirs = [way for way in _ways(other.require) if not any(differing & part.used_captures() for part in way)]
        return all(any(self._within(way, their_way) for their_way in theirs) for way in _ways(rule.require))

    def _within(self, ours: Way, theirs: Way) -> bool:
        """Whether each token that meets ``ours`` meets ``theirs``."""
        accepted = [issuer for issuer in self._issuers if all(part.allows_issuer(issuer.label) for part in ours)]
        return (
            all(part.allows_issuer(issuer.label) for part in theirs for issuer in accepted)
            and all(_audiences_within(ours, theirs, issuer) for issuer in accepted)
            and self._scopes_within(ours, theirs)
            and all(_claims_within(ours, part) for part in theirs)
            and all(_others_within(ours, part) for part in theirs)
        )

    def _scopes_within(self, ours: Way, theirs: Way) -> bool:
        required = [self._hierarchy.granting(scope) for part in ours for scope in part.scopes.all]
        one_of = [self._granting_any(part.scopes.any) for part in ours if part.scopes.any]
        forbidden = self._granting_any(scope for part in ours for scope in part.scopes.none)
        wanted = [self._hierarchy.granting(scope) for part in theirs for scope in part.scopes.all]
        wanted += [self._granting_any(part.scopes.any) for part in theirs if part.scopes.any]
        return all(any(held <= each for held in (*required, *one_of)) for each in wanted) and all(
            self._hierarchy.granting(scope) <= forbidden for part in theirs for scope in part.scopes.none
        )

    def _granting_any(self, scopes: Iterable[str]) -> frozenset[str]:
        return frozenset[str]().union(*map(self._hierarchy.granting, scopes))


def _ways(require: Require) -> list[Way]:
    return [(require, each) for each in require.any_of] if require.any_of else [(require,)]


def _differing_captures(rule: RuleSettings, other: RuleSettings) -> set[str]:
    """The names that stand for different text in a path of one rule and in the same path, or a variant, of the other.

    A variant is a path in another case, or with or without a trailing slash.
    """
    used = rule.require.all_used_captures | other.require.all_used_captures
    if not used or rule is other:
        return set()
    return {
        name
        for ours, theirs in itertools.product(rule.match.path_patterns, other.match.path_patterns)
        for name in used & ours.captures.keys() & theirs.captures.keys()
        if ours.captured_place(name) != theirs.captured_place(name) and overlap(_broadest(ours), _broadest(theirs))
    }


def _broadest(path: PathPattern) -> PathPattern:
    """A pattern in any case, and without a trailing slash."""
    path = path.folded()
    return path._replace(segments=path.segments[:-1]) if path.segments[-1:] == ("",) else path


def _audiences_within(ours: Way, theirs: Way, issuer: Issuer) -> bool:
    accepted = _audiences(ours, issuer)
    return all(any(one <= other for one in accepted) for other in _audiences(theirs, issuer))


def _audiences(way: Way, issuer: Issuer) -> list[set[str]]:
    """The sets of audiences of each of which a token must name one."""
    return [set(part.audiences) for part in way if part.audiences is not None] or [set(issuer.audiences)]


def _claims_within(ours: Way, theirs: Alternative) -> bool:
    return all(
        any(part.claims and path in part.claims and condition_implies(part.claims[path], condition) for part in ours)
        for path, condition in (theirs.claims or {}).items()
    )


def _others_within(ours: Way, theirs: Alternative) -> bool:
    for name, default in Alternative.defaults().items():
        wanted = getattr(theirs, name)
        if name in _COMPARED or wanted == default:
            continue
        as_strict = _AS_STRICT.get(name, _equal)
        if not any(value is not None and as_strict(value, wanted) for value in (getattr(part, name) for part in ours)):
            return False
    return True


def _equal(ours: object, theirs: object) -> bool:
    return ours == theirs


def _among(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return set(ours) <= set(theirs)


def _no_longer(ours: float, theirs: float) -> bool:
    return ours <= theirs


def _proves(ours: str, theirs: str) -> bool:
    return theirs in {"any", ours}


_COMPARED = frozenset({"issuers", "audiences", "scopes", "claims"})  # by functions of their own
_AS_STRICT: Mapping[str, Callable[[Any, Any], bool]] = {
    "clients": _among,
    "acr_values": _among,
    "max_auth_age": _no_longer,
    "proof": _proves,
}


def condition_implies(ours: ClaimCondition, theirs: ClaimCondition) -> bool:
    """Whether each claim that meets ``ours`` meets ``theirs``, whatever the request."""
    if _key(ours) == _key(theirs):
        return True
    if theirs.present:
        return not ours.absent
    if (accepted := _accepted(ours)) and accepted <= _accepted(theirs):
        return True
    if theirs.contains_path is not None:
        return ours.equals_path == theirs.contains_path
    if theirs.contains_header is not None:
        return ours.equals_header == theirs.contains_header
    return _items_imply(ours, theirs)


def _items_imply(ours: ClaimCondition, theirs: ClaimCondition) -> bool:
    """The same for operators that find something in a list, for which a string is a list of one."""
    every, some = _items(ours)
    if theirs.contains_all is not None:
        return scalar_keys(theirs.contains_all) <= every
    if theirs.prefix is not None:
        prefix = theirs.prefix
        longer = ours.prefix is not None and ours.prefix.startswith(prefix)
        return longer or _one_meets(every, some, lambda text: text.startswith(prefix))
    if theirs.suffix is not None:
        suffix = theirs.suffix
        longer = ours.suffix is not None and ours.suffix.endswith(suffix)
        return longer or _one_meets(every, some, lambda text: text.endswith(suffix))
    wanted = _wanted(theirs)
    return bool(every & wanted) or (bool(some) and some <= wanted)


_Keys = frozenset[tuple[str, Any]]
_NO_KEYS: _Keys = frozenset()


def _key(condition: ClaimCondition) -> tuple[str, object]:
    """The condition, by JSON values: two that are equal to Python may differ, such as 1 and true."""
    name, value = condition.operator
    return name, tuple(map(scalar_key, value)) if isinstance(value, tuple) else scalar_key(value)


def _accepted(condition: ClaimCondition) -> _Keys:
    """The values that a claim must equal; none if it may equal others."""
    return scalar_keys(condition.in_ or (() if condition.equals is None else (condition.equals,)))


def _wanted(condition: ClaimCondition) -> _Keys:
    """The values of which a claim must contain one; none if the condition is of another kind."""
    return scalar_keys(condition.contains_any or (() if condition.contains is None else (condition.contains,)))


def _items(condition: ClaimCondition) -> tuple[_Keys, _Keys]:
    """The values that a claim contains all of, and those that it contains one of."""
    some = _wanted(condition)
    if accepted := _accepted(condition):
        some = accepted if all(kind == "string" for kind, _ in accepted) else _NO_KEYS
    if condition.contains_all is not None:
        return scalar_keys(condition.contains_all), _NO_KEYS
    return (some if len(some) == 1 else _NO_KEYS), some


def _one_meets(every: _Keys, some: _Keys, meets: Callable[[str], bool]) -> bool:
    def is_met(key: tuple[str, Any]) -> bool:
        return key[0] == "string" and meets(key[1])

    return any(map(is_met, every)) or (bool(some) and all(map(is_met, some)))
