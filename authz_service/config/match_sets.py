"""Which rules apply to a request by everything in ``match`` apart from paths.

Pure. A set of rules is an integer with a bit for the index of each, so that one rule is compared with a thousand in a
few operations. Rules that only a policy selects are in the sets as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.patterns import HostPattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz_service.config.model import Match, RuleSettings
    from authz_service.core.mcp import McpCondition


class MatchSets:
    """The hosts, methods, headers and MCP messages of all rules."""

    def __init__(self, rules: Sequence[RuleSettings]) -> None:
        self._all = (1 << len(rules)) - 1
        self._hosts: dict[HostPattern | None, int] = {}
        self._below: dict[HostPattern, int] = {}  # for each wildcard that was compared: the rules with a host below it
        self._methods: dict[str | None, int] = {}
        self._headers: dict[str, dict[str, int]] = {}  # by name, then by value
        self._mcp = _McpSets()
        for number, rule in enumerate(rules):
            self._add(rule.match, 1 << number)
        self._with_header = {name: _union(values.values()) for name, values in self._headers.items()}

    def _add(self, match: Match, bit: int) -> None:
        for host in match.hosts or (None,):
            self._hosts[host] = self._hosts.get(host, 0) | bit
        for method in match.methods or (None,):
            self._methods[method] = self._methods.get(method, 0) | bit
        for name, value in (match.headers or {}).items():
            values = self._headers.setdefault(name, {})
            values[value] = values.get(value, 0) | bit
        self._mcp.add(None if match.mcp is None else match.mcp.condition, bit)

    def including(self, host: HostPattern | None, method: str | None, match: Match) -> int:
        """The rules that apply to every request to which a rule with this ``match`` applies, at one host and method."""
        found = self._including_host(host) & (self._methods.get(None, 0) | self._methods.get(method, 0))
        headers = match.headers or {}
        for name, values in self._headers.items():
            found &= ~self._with_header[name] | (values.get(headers[name], 0) if name in headers else 0)
        return found & self._mcp.including(None if match.mcp is None else match.mcp.condition)

    def overlapping(self, host: HostPattern | None, method: str | None, match: Match) -> int:
        """The rules that apply to some request to which a rule with this ``match`` applies, at one host and method."""
        found = self._overlapping_host(host)
        if method is not None:
            found &= self._methods.get(None, 0) | self._methods.get(method, 0)
        for name, value in (match.headers or {}).items():
            if name in self._headers:
                found &= ~self._with_header[name] | self._headers[name].get(value, 0)
        return found if match.mcp is None else found & self._mcp.overlapping(match.mcp.condition)

    def _including_host(self, host: HostPattern | None) -> int:
        found = self._hosts.get(None, 0)
        if host is not None:
            found |= self._hosts.get(host, 0)
            _, dot, above = host.name.partition(".")
            while dot:
                found |= self._hosts.get(HostPattern(above, is_wildcard=True), 0)
                _, dot, above = above.partition(".")
        return found

    def _overlapping_host(self, host: HostPattern | None) -> int:
        if host is None:
            return self._all
        found = self._including_host(host)
        if host.is_wildcard:
            if host not in self._below:
                hosts = self._hosts.items()
                self._below[host] = _union(rules for each, rules in hosts if each is not None and host.includes(each))
            found |= self._below[host]
        return found


class _McpSets:
    """The rules by ``match.mcp``."""

    def __init__(self) -> None:
        self._without = 0
        self._any_name = 0
        self._methods = _PatternSets()
        self._names = _PatternSets()

    def add(self, condition: McpCondition | None, bit: int) -> None:
        """Add a rule with this condition."""
        if condition is None:
            self._without |= bit
            return
        for method in condition.methods:
            self._methods.add(method, bit)
        if condition.names is None:
            self._any_name |= bit
        for name in condition.names or ():
            self._names.add(name, bit)

    def including(self, condition: McpCondition | None) -> int:
        """The rules that match every message that this condition matches."""
        if condition is None:
            return self._without
        found = ~0
        for method in condition.methods:
            found &= self._methods.covering(method)
        for name in condition.names or ():
            found &= self._names.covering(name) | self._any_name
        return self._without | (found if condition.names is not None else found & self._any_name)

    def overlapping(self, condition: McpCondition) -> int:
        """The rules that match some message that this condition matches."""
        found = _union(map(self._methods.overlapping, condition.methods))
        if condition.names is not None:
            found &= _union(map(self._names.overlapping, condition.names)) | self._any_name
        return self._without | found


class _PatternSets:
    """The rules by patterns in which a ``*`` at the end stands for any further characters."""

    def __init__(self) -> None:
        self._rules: dict[str, int] = {}
        self._starts: dict[str, int] = {}  # by what is before a *

    def add(self, pattern: str, bit: int) -> None:
        """Add a rule with this pattern."""
        self._rules[pattern] = self._rules.get(pattern, 0) | bit
        if pattern.endswith("*"):
            self._starts[pattern[:-1]] = self._starts.get(pattern[:-1], 0) | bit

    def covering(self, pattern: str) -> int:
        """The rules with a pattern that matches whatever this one matches."""
        start = pattern.removesuffix("*")
        above = (rules for each, rules in self._starts.items() if start.startswith(each))
        return self._rules.get(pattern, 0) | _union(above)

    def overlapping(self, pattern: str) -> int:
        """The rules with a pattern that matches something that this one matches."""
        found = self.covering(pattern)
        if pattern.endswith("*"):
            start = pattern[:-1]
            found |= _union(rules for each, rules in self._rules.items() if each.removesuffix("*").startswith(start))
        return found


def _union(sets: Iterable[int]) -> int:
    found = 0
    for each in sets:
        found |= each
    return found
