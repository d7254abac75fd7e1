"""Which scopes grant which others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.scope_hierarchy import FLAT, ScopeHierarchy

SCOPES = "abcde"


def test_a_scope_is_granted_by_itself_and_transitively_by_those_that_imply_it() -> None:
    hierarchy = ScopeHierarchy({"admin": ["write"], "write": ["read", "list"], "audit": ["read"]})
    assert hierarchy.granting("read") == {"read", "write", "admin", "audit"}
    assert hierarchy.granting("write") == {"write", "admin"}
    assert hierarchy.granting("admin") == {"admin"}
    assert hierarchy.granting("other") == FLAT.granting("other") == {"other"}


def test_scopes_of_a_cycle_grant_each_other() -> None:
    hierarchy = ScopeHierarchy({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["d"]})
    assert all(hierarchy.granting(scope) == {"a", "b", "c"} for scope in "abc")
    assert hierarchy.granting("d") == {"d"}


def _expanded(held: set[str], implies: dict[str, list[str]]) -> set[str]:
    """The scopes that a holder holds: those implied are added until nothing changes."""
    further = held.union(*(implies.get(scope, []) for scope in held))
    return held if further == held else _expanded(further, implies)


@given(
    st.dictionaries(st.sampled_from(SCOPES), st.lists(st.sampled_from(SCOPES), min_size=1)),
    st.sets(st.sampled_from(SCOPES)),
)
def test_a_holder_holds_exactly_the_scopes_that_its_own_imply(implies: dict[str, list[str]], held: set[str]) -> None:
    hierarchy = ScopeHierarchy(implies)
    assert {scope for scope in SCOPES if hierarchy.grants(scope, frozenset(held))} == _expanded(held, implies)
