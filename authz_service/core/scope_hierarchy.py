"""Which scopes grant which others, by ``scope_implies``. Computed once, so that a request costs nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ScopeHierarchy:
    """The scopes that grant a scope. Granting is transitive; the scopes of a cycle grant each other."""

    def __init__(self, implies: Mapping[str, Sequence[str]]) -> None:
        """``implies`` maps a scope to the scopes that its holder holds too."""
        holders: dict[str, list[str]] = {}
        for holder, implied in implies.items():
            for scope in implied:
                holders.setdefault(scope, []).append(holder)
        self._granting = {scope: _reachable(scope, holders) for scope in holders}

    def granting(self, scope: str) -> frozenset[str]:
        """The scopes each of which grants this one: itself, and those that imply it."""
        return self._granting.get(scope) or frozenset((scope,))

    def grants(self, scope: str, held: frozenset[str]) -> bool:
        """Whether a holder of these scopes holds ``scope``."""
        return not self.granting(scope).isdisjoint(held)


def _reachable(start: str, edges: Mapping[str, Sequence[str]]) -> frozenset[str]:
    found, pending = {start}, [start]
    while pending:
        further = [each for each in edges.get(pending.pop(), ()) if each not in found]
        found.update(further)
        pending += further
    return frozenset(found)


FLAT = ScopeHierarchy({})  # no scope implies another
