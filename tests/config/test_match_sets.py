"""The sets of rules that apply to a request agree with a comparison of each rule with each other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz_service.config.match_sets import MatchSets
from authz_service.config.model import RuleSettings

if TYPE_CHECKING:
    from authz_service.config.model import Match
    from authz_service.core.patterns import HostPattern

_HOSTS = ["a.org", "b.a.org", "c.b.a.org", "*.a.org", "*.b.a.org", "*.org", "c.org", "[::1]"]
_MCP_METHODS = ["tools/call", "tools/*", "*", "prompts/get"]
_MCP_NAMES = ["get_a", "get_*", "*", "b", "get_a*"]


def _some(values: list[str]) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


_MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "hosts": _some(_HOSTS),
        "methods": _some(["GET", "POST", "PUT"]),
        "headers": st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2"]), min_size=1),
        "mcp": st.fixed_dictionaries({"methods": _some(_MCP_METHODS)}, optional={"names": _some(_MCP_NAMES)}),
    },
)


def _includes(one: HostPattern | None, other: HostPattern | None) -> bool:
    return one is None or (other is not None and one.includes(other))


def _applies_to_all(match: Match, host: HostPattern | None, method: str | None, other: Match) -> bool:
    return (
        any(_includes(each, host) for each in match.hosts or (None,))
        and (match.methods is None or method in match.methods)
        and (match.headers or {}).items() <= (other.headers or {}).items()
        and (match.mcp is None or (other.mcp is not None and match.mcp.condition.includes(other.mcp.condition)))
    )


def _applies_to_some(match: Match, host: HostPattern | None, method: str | None, other: Match) -> bool:
    headers = match.headers or {}
    return (
        any(_includes(each, host) or _includes(host, each) for each in match.hosts or (None,))
        and (match.methods is None or method is None or method in match.methods)
        and all(headers.get(name, value) == value for name, value in (other.headers or {}).items())
        and (match.mcp is None or other.mcp is None or match.mcp.condition.overlaps(other.mcp.condition))
    )


@given(st.lists(_MATCHES, min_size=1, max_size=8))
@example([{"mcp": {"methods": ["tools/call"], "names": ["get_*"]}}, {"mcp": {"methods": ["*"], "names": ["get_a"]}}])
@example([{"headers": {"x-a": "1"}}, {"headers": {"x-a": "2"}}, {}])
@settings(deadline=None)
def test_the_rules_of_a_set_apply_and_no_others(matches: list[dict[str, Any]]) -> None:
    rules = [RuleSettings.read({"name": f"r{place}", "match": each}) for place, each in enumerate(matches)]
    sets = MatchSets(rules)
    for ours in (rule.match for rule in rules):
        for host in ours.hosts or (None,):
            for method in ours.methods or (None,):
                including, overlapping = sets.including(host, method, ours), sets.overlapping(host, method, ours)
                for place, rule in enumerate(rules):
                    assert bool(including >> place & 1) == _applies_to_all(rule.match, host, method, ours)
                    assert bool(overlapping >> place & 1) == _applies_to_some(rule.match, host, method, ours)
