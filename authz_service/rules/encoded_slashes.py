"""Finds the rule for a path with encoded slashes, which an upstream may read in two ways.

Pure; compiled once, and only if a rule has ``encoded_slash``.

Invariants:

* Only a rule with ``encoded_slash`` decides such a path, and only if a ``{name}`` of its pattern takes each slash.
* It is the first rule, in file order, that matches the path in either reading: with the slashes in segments, or as
  separators. If another rule comes first, no rule decides: the upstream may read the path as what that rule protects.
* A captured string without a slash that its conditions use is the same in either reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.paths import SlashedPath
from authz_service.rules.matcher import NO_RULE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz_service.config.model import RuleSettings
    from authz_service.core.attributes import Attributes
    from authz_service.core.patterns import PathPattern
    from authz_service.rules.matcher import Matcher


_INVALID_PARTS = frozenset({"", ".", ".."})


def captures_slashes(patterns: Sequence[PathPattern], path: SlashedPath) -> bool:
    """Whether a pattern matches the path, and its ``{name}``s take all slashes, rather than its ``/**``."""
    return any(pattern.matches(path) and _captures_slashes(pattern, path) for pattern in patterns)


def _captures_slashes(pattern: PathPattern, path: SlashedPath) -> bool:
    if any("/" in segment for segment in path[len(pattern.segments) :]):
        return False
    # The segments are valid, but what remains of one without a suffix may end in a slash or a dot segment.
    captured = [text.split("/") for text in pattern.captured(path).values() if "/" in text]
    return all(_INVALID_PARTS.isdisjoint(parts) for parts in captured)


def captures_differ(rule: RuleSettings, path: SlashedPath) -> bool:
    """Whether a captured string without a slash, which the rule's conditions use, changes once the path is decoded.

    With ``/{group}/{tenant}`` and ``/{group}/{tenant}/{name}``, ``/a%2Fb/c`` is of the tenant c in one reading, and of
    the tenant b in the other.
    """
    used = rule.require.all_used_captures
    if not used:
        return False
    encoded, decoded = (_captured_by_first(rule.match.path_patterns, each) for each in (path, path.decoded))
    return any(decoded.get(name, text) != text for name, text in encoded.items() if name in used and "/" not in text)


def _captured_by_first(patterns: Sequence[PathPattern], path: Sequence[str]) -> Mapping[str, str]:
    return next((pattern.captured(path) for pattern in patterns if pattern.matches(path)), {})


class EncodedSlashMatcher:
    """A ``Matcher`` that also chooses rules for paths with encoded slashes."""

    def __init__(self, matcher: Matcher, rules: Mapping[int, RuleSettings]) -> None:
        """``rules`` are those with ``encoded_slash``, by index."""
        self._matcher = matcher
        self._rules = rules

    def choose(self, attributes: Attributes, path: Sequence[str], before: int = NO_RULE) -> int | None:
        """The same as ``Matcher.choose``; None for a path with encoded slashes that no rule may decide."""
        place = self._matcher.choose(attributes, path, before)
        if not isinstance(path, SlashedPath):
            return place
        if place is None or not self._allows(place, path):
            return None
        return place if self._matcher.choose(attributes, path.decoded, place) == place else None

    def has_rule_for(self, host: str, path: Sequence[str]) -> bool:
        """Whether a rule may decide this host and path, whatever its methods and header conditions."""
        if not isinstance(path, SlashedPath):
            return self._matcher.has_rule_for(host, path)
        place = self._matcher.first_rule_for(host, path)
        return self._allows(place, path) and self._matcher.first_rule_for(host, path.decoded, place) == place

    def _allows(self, place: int, path: SlashedPath) -> bool:
        rule = self._rules.get(place)
        return rule is not None and captures_slashes(rule.match.path_patterns, path) and not captures_differ(rule, path)
