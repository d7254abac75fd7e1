"""Finding the first rule that matches a request, without walking the list of rules.

Law: pure; compiled once. Every (host, path, method) of every rule is entered into a tree by host, then by segment, then
by method. Each place keeps the earliest rule that claims it, since no later one could ever be chosen there; rules that
want certain headers stand before it, as far as they are earlier. Choosing follows the request's own segments through
the tree, so it costs the same for one rule or for a thousand, and branches that hold only later rules than the one
already found are not entered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core import hosts, patterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from authz_service.config.model import Match
    from authz_service.core.attributes import Attributes
    from authz_service.core.patterns import PathPattern

    Headers = tuple[tuple[str, str], ...]  # the headers that a rule wants, with their exact values
    # By method: rules in file order, the last of them perhaps without wanted headers, so that none could follow it.
    Ends = dict[str, list[tuple[int, Headers]]]

_ANY = ""  # stands for every method, and for every host: no request has an empty one that could be matched
NOWHERE = 1 << 60  # the place of no rule: later than every rule's


class _Node:
    """One place in the tree of segments."""

    __slots__ = ("capture", "earliest", "here", "literals", "rest")

    def __init__(self) -> None:
        self.earliest = NOWHERE  # the earliest rule at this place or below
        self.literals: dict[str, _Node] = {}
        self.capture: _Node | None = None
        self.here: Ends = {}  # the rules whose pattern ends here
        self.rest: Ends = {}  # the rules whose pattern goes on with /**

    def enter(self, pattern: PathPattern, methods: Iterable[str], headers: Headers, rule: int) -> None:
        """Enter a rule. Rules come in file order, so what is there already is earlier."""
        node = self
        node.earliest = min(node.earliest, rule)
        for segment in pattern.segments:
            node = node._child(segment)
            node.earliest = min(node.earliest, rule)
        ends = node.rest if pattern.rest else node.here
        for method in methods:
            rules = ends.setdefault(method, [])
            if not rules or rules[-1][1]:  # behind one that wants no headers, no other could be chosen
                rules.append((rule, headers))

    def _child(self, segment: str | None) -> _Node:
        if segment is None:
            self.capture = self.capture or _Node()
            return self.capture
        return self.literals.setdefault(segment, _Node())

    def find(self, method: str, segments: Sequence[str], headers: Mapping[str, str], best: int) -> int:
        """The earliest rule for these segments, or ``best`` when none is earlier."""
        pending: list[tuple[_Node, int]] = [(self, 0)]
        while pending:
            node, depth = pending.pop()
            if node.earliest >= best:
                continue
            if node.rest:
                best = _earliest(node.rest, method, headers, best)
            if depth == len(segments):
                best = _earliest(node.here, method, headers, best)
                continue
            segment = segments[depth]
            if node.capture is not None and segment:
                pending.append((node.capture, depth + 1))
            literal = node.literals.get(segment)
            if literal is not None:
                pending.append((literal, depth + 1))
        return best


def _earliest(ends: Ends, method: str, headers: Mapping[str, str], best: int) -> int:
    for rules in (ends.get(method, ()), ends.get(_ANY, ())):
        for rule, wanted in rules:
            if rule >= best:
                break
            if not wanted or all(headers.get(name) == value for name, value in wanted):
                best = rule
                break
    return best


class Matcher:
    """The ``match`` parts of all rules, compiled."""

    def __init__(self, matches: Sequence[Match | None]) -> None:
        """``matches`` are in file order; ``choose`` answers with their places in it, and never with that of None."""
        self._exact: dict[str, _Node] = {}
        self._wildcards: dict[str, _Node] = {}
        self._any_host = _Node()
        for place, match in enumerate(matches):
            if match is not None:
                self._enter(match, place)

    def _enter(self, match: Match, place: int) -> None:
        paths = [patterns.parse_pattern(path) for path in match.paths or ("/**",)]
        headers = tuple((match.headers or {}).items())
        for node in self._hosts(match):
            for path in paths:
                node.enter(path, match.methods or (_ANY,), headers, place)

    def _hosts(self, match: Match) -> Iterable[_Node]:
        if match.hosts is None:
            yield self._any_host
            return
        for text in match.hosts:
            pattern = hosts.parse_pattern(text)
            yield (self._wildcards if pattern.wildcard else self._exact).setdefault(pattern.name, _Node())

    def choose(self, attributes: Attributes, path: Sequence[str]) -> int | None:
        """The place of the first rule that matches, or ``NOWHERE``; ``path`` are the decoded segments.

        None when method or host can not be read plainly, so that the upstream may read in it what a rule protects.
        """
        method = attributes.method
        if method != method.upper():  # Envoy passes it on over HTTP/2, and many an upstream reads it as upper case
            return None
        best = self._any_host.find(method, path, attributes.headers, NOWHERE)
        if self._exact or self._wildcards:
            host = hosts.normalised(attributes.host)
            if not host:
                return None
            best = self._choose_by_host(host, attributes, path, best)
        return best

    def _choose_by_host(self, host: str, attributes: Attributes, path: Sequence[str], best: int) -> int:
        method, headers = attributes.method, attributes.headers
        node = self._exact.get(host)
        if node is not None:
            best = node.find(method, path, headers, best)
        while self._wildcards:
            _, dot, host = host.partition(".")
            if not dot:
                break
            node = self._wildcards.get(host)
            if node is not None:
                best = node.find(method, path, headers, best)
        return best
