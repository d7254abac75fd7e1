"""Finds the first rule that matches a request, without walking the list of rules.

Pure; compiled once. A tree holds every (host, path, method) of every rule, by host, then by segment, then by method.
Each place has the earliest rule that matches there, preceded by earlier rules with header conditions. A search follows
the request's segments through the tree and skips branches that have only later rules than the best one so far, so that
its cost does not grow with the number of rules.

A rule with a header condition that cannot be read in one way neither matches nor is skipped: it ends the search, and no
rule decides. If only the MCP headers cannot be read, the request is rejected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected
from authz_service.core.headers import AmbiguousHeaderError, value_of
from authz_service.core.mcp import McpCondition, McpHeaders
from authz_service.core.patterns import PARAMETERS, Folded, SuffixedCapture, normalize_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz_service.config.model import Match
    from authz_service.core.attributes import Attributes
    from authz_service.core.patterns import PathPattern, Segment

    # The header conditions of a rule: names with values, and at most one match.mcp, last, under its own key.
    Headers = tuple[tuple[str, str | McpCondition], ...]
    # By method: rules in file order. One without header conditions is the last, since none after it could match.
    Ends = dict[str | None, list[tuple[int, Headers]]]

_ANY = ""  # the key for any method: no request with an empty method matches
_IGNORED = None  # the key for each rule without regard to its methods and header conditions
_AMBIGUOUS = ","  # for a header that cannot be read in one way: no unambiguous value has a comma
_MCP = ""  # the key of match.mcp among header conditions: no header has this name
NO_RULE = 1 << 60  # later than every rule


class _ComparedHeaders:
    """The headers of one request as rules compare them, each read at the first comparison."""

    __slots__ = ("_headers", "_values", "ambiguous")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.ambiguous = False  # whether any header that was compared could not be read in one way
        self._headers = headers
        self._values: dict[str, str | None] = {}

    def may_match(self, conditions: Headers) -> bool:
        """Whether they meet the conditions of a rule, or one of them is ambiguous."""
        matches = True
        for name, value in conditions:
            sent = self._value(name)
            if sent is _AMBIGUOUS:
                return True
            matches = matches and sent == value
        return matches

    def match(self, conditions: Headers) -> bool:
        """Whether they meet the conditions of a rule."""
        return all(self._value(name) == value for name, value in conditions)

    def _value(self, name: str) -> str | None:
        if name not in self._values:
            try:
                self._values[name] = value_of(self._headers, name)
            except AmbiguousHeaderError:
                self._values[name] = _AMBIGUOUS
                self.ambiguous = True
        return self._values[name]


class _ComparedMcpHeaders(_ComparedHeaders):
    """The same if any rule has ``match.mcp``."""

    __slots__ = ("_mcp",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._mcp = McpHeaders(headers)

    def may_match(self, conditions: Headers) -> bool:
        """Whether they meet the conditions of a rule, or one of them is ambiguous; for ``mcp``, or missing."""
        others, mcp = _without_mcp(conditions)
        if mcp is None or not super().match(others):
            return super().may_match(others)
        try:
            return self._mcp.why_not(mcp) is None
        except Rejected:
            self.ambiguous = True
            return True

    def match(self, conditions: Headers) -> bool:
        """Whether they meet the conditions of a rule.

        Raises:
            Rejected: if only the MCP headers cannot be read in one way, or one is missing.
        """
        others, mcp = _without_mcp(conditions)
        return super().match(others) and (mcp is None or self._mcp.why_not(mcp) is None)


def _without_mcp(conditions: Headers) -> tuple[Headers, McpCondition | None]:
    mcp = conditions[-1][1]
    return (conditions[:-1], mcp) if isinstance(mcp, McpCondition) else (conditions, None)


_NO_HEADERS = _ComparedHeaders({})  # for searches without header conditions


class _Node:
    """One place in the tree of segments."""

    __slots__ = ("capture", "earliest", "exact", "inexact", "literals", "prefixes")

    def __init__(self) -> None:
        self.earliest = NO_RULE  # the earliest rule here or below
        self.literals: dict[str, _Node] = {}
        self.inexact: _Inexact | None = None  # literals that match in any case, and captures with a suffix
        self.capture: _Node | None = None
        self.exact: Ends = {}  # rules with a pattern that ends here
        self.prefixes: Ends = {}  # rules with a pattern that ends here with /**

    def add(self, pattern: PathPattern, methods: Iterable[str], headers: Headers, rule: int) -> None:
        """Add a pattern of a rule. Rules are added in file order."""
        node = self
        node.earliest = min(node.earliest, rule)
        for segment in pattern.segments:
            node = node._child(segment)
            node.earliest = min(node.earliest, rule)
        ends = node.prefixes if pattern.is_prefix else node.exact
        _add(ends, _IGNORED, (), rule)
        for method in methods:
            _add(ends, method, headers, rule)

    def _child(self, segment: Segment) -> _Node:
        if segment is None:
            self.capture = self.capture or _Node()
            return self.capture
        if isinstance(segment, str) and not isinstance(segment, Folded):
            return self.literals.setdefault(segment, _Node())
        self.inexact = self.inexact or _Inexact()
        return self.inexact.child(segment)

    def find(self, method: str | None, path: Sequence[str], sent: _ComparedHeaders, best: int) -> int:
        """The earliest rule that matches or has an ambiguous header; ``best`` if none is earlier than that."""
        parameters = PARAMETERS in path[-1]
        length = len(path)
        pending: list[tuple[_Node, int]] = []
        node: _Node | None = self
        depth = 0
        while True:
            while node is not None and node.earliest < best:  # down one branch; others wait
                if node.prefixes and not parameters:
                    best = _earliest(node.prefixes, method, sent, best)
                if depth == length:
                    best = _earliest(node.exact, method, sent, best)
                    break
                segment = path[depth]
                depth += 1
                child, capture = node.literals.get(segment), node.capture
                if capture is not None and segment and not (parameters and PARAMETERS in segment):
                    if child is None:
                        child = capture
                    else:
                        pending.append((capture, depth))
                if node.inexact is not None:
                    pending += [(inexact, depth) for inexact in node.inexact.matching(segment)]
                node = child
            if not pending:
                return best
            node, depth = pending.pop()


class _Inexact:
    """The children of a node under segments that are not compared as a whole and exactly."""

    __slots__ = ("folded", "suffixes")

    def __init__(self) -> None:
        self.folded: dict[str, _Node] = {}  # literals that match in any case
        # Captures with a suffix by the length of the suffix, then by the suffix, so that the number of suffixes does
        # not count. A folded suffix is not always as long as its spellings, so it has its own table.
        self.suffixes: dict[bool, dict[int, dict[str, tuple[SuffixedCapture, _Node]]]] = {False: {}, True: {}}

    def child(self, segment: Folded | SuffixedCapture) -> _Node:
        if isinstance(segment, Folded):
            return self.folded.setdefault(segment, _Node())
        suffix = segment.suffix
        suffixes = self.suffixes[isinstance(suffix, Folded)].setdefault(len(suffix), {})
        return suffixes.setdefault(suffix, (segment, _Node()))[1]

    def matching(self, segment: str) -> Iterator[_Node]:
        folded = segment.casefold()
        if (child := self.folded.get(folded)) is not None:
            yield child
        for is_folded, by_length in self.suffixes.items():
            text = folded if is_folded else segment
            for length, suffixes in by_length.items():
                found = suffixes.get(text[-length:])
                if found is not None and found[0].end(segment):
                    yield found[1]


def _add(ends: Ends, method: str | None, headers: Headers, rule: int) -> None:
    rules = ends.setdefault(method, [])
    if not rules or rules[-1][1]:  # after a rule without header conditions, none could match
        rules.append((rule, headers))


def _earliest(ends: Ends, method: str | None, sent: _ComparedHeaders, best: int) -> int:
    for rules in (ends.get(method), ends.get(_ANY)):
        for rule, conditions in rules or ():
            if rule >= best:
                break
            if not conditions or sent.may_match(conditions):
                best = rule
                break
    return best


class Matcher:
    """The compiled ``match`` sections of all rules."""

    def __init__(self, matches: Sequence[Match | None]) -> None:
        """``matches`` are in file order; ``choose`` returns indexes of them. None matches nothing."""
        self._exact: dict[str, _Node] = {}
        self._wildcards: dict[str, _Node] = {}
        self._any_host = _Node()
        self._headers: dict[int, Headers] = {}  # by rule
        self._compared: type[_ComparedHeaders] = _ComparedHeaders
        for index, match in enumerate(matches):
            if match is not None:
                self._add(match, index)

    def _add(self, match: Match, index: int) -> None:
        headers: Headers = tuple((match.headers or {}).items())
        if match.mcp is not None:
            headers += ((_MCP, match.mcp.condition),)
            self._compared = _ComparedMcpHeaders
        if headers:
            self._headers[index] = headers
        for node in self._hosts(match):
            for pattern in match.path_patterns:
                node.add(pattern, match.methods or (_ANY,), headers, index)

    def _hosts(self, match: Match) -> Iterable[_Node]:
        if match.hosts is None:
            yield self._any_host
            return
        for pattern in match.hosts:
            yield (self._wildcards if pattern.is_wildcard else self._exact).setdefault(pattern.name, _Node())

    def choose(self, attributes: Attributes, path: Sequence[str], before: int = NO_RULE) -> int | None:
        """The index of the first rule that matches; ``before`` if there is none before that index.

        ``path`` are the decoded segments. None if the method, the host or a header that the rule compares cannot be
        read in one way, since the upstream may read it as what a rule protects.

        Raises:
            Rejected: ``malformed_request``, if this holds for the MCP headers that the rule compares.
        """
        method = attributes.method
        if method != method.upper():  # Envoy forwards it over HTTP/2, and many upstreams read it as upper case
            return None
        sent = self._compared(attributes.headers) if self._headers else _NO_HEADERS
        best = self._find(attributes.host, method, path, sent, before)
        if sent.ambiguous and best in self._headers and not sent.match(self._headers[best]):
            return None
        return best

    def has_rule_for(self, host: str, path: Sequence[str]) -> bool:
        """Whether any rule matches this host and path, whatever its methods and header conditions."""
        return self.first_rule_for(host, path) != NO_RULE

    def first_rule_for(self, host: str, path: Sequence[str], before: int = NO_RULE) -> int:
        """The index of the first rule that does; ``before`` if there is none before that index."""
        found = self._find(host, _IGNORED, path, _NO_HEADERS, before)
        return NO_RULE if found is None else found

    def _find(
        self, host: str, method: str | None, path: Sequence[str], sent: _ComparedHeaders, best: int
    ) -> int | None:
        if self._any_host.earliest < best:
            best = self._any_host.find(method, path, sent, best)
        if not (self._exact or self._wildcards):
            return best
        if self._wildcards or host not in self._exact:  # the hosts of rules are normalized
            host = normalize_host(host)
            if not host:
                return None
        node = self._exact.get(host)
        if node is not None:
            best = node.find(method, path, sent, best)
        while self._wildcards:
            _, dot, host = host.partition(".")
            if not dot:
                break
            node = self._wildcards.get(host)
            if node is not None:
                best = node.find(method, path, sent, best)
        return best
