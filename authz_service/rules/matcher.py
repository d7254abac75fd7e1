"""Finding the first rule that matches a request, without walking the list of rules.

Law: pure; compiled once. Every (host, path, method) of every rule is entered into a tree by host, then by segment, then
by method. Each place keeps the earliest rule that claims it, since no later one could ever be chosen there; rules that
want certain headers stand before it, as far as they are earlier. Choosing follows the request's own segments through
the tree, so it costs the same for one rule or for a thousand, and branches that hold only later rules than the one
already found are not entered.

A rule whose headers cannot be read in one way is neither matched nor passed over: it ends the search, and no rule
decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.headers import AmbiguousHeaderError, value_of
from authz_service.core.patterns import PARAMETERS, Folded, normalize_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from authz_service.config.model import Match
    from authz_service.core.attributes import Attributes
    from authz_service.core.patterns import PathPattern, Segment

    Headers = tuple[tuple[str, str], ...]  # the headers that a rule wants, with their values
    # By method: rules in file order, the last of them perhaps without wanted headers, so that none could follow it.
    Ends = dict[str | None, list[tuple[int, Headers]]]

_ANY = ""  # stands for every method, and for every host: no request has an empty one that could be matched
_WHATEVER = None  # under this method each rule is entered, with all its methods and headers left aside
_AMBIGUOUS = ","  # stands for a header's value that cannot be read in one way: no value that can has a comma
NOWHERE = 1 << 60  # the place of no rule: later than every rule's


class _Sent:
    """The headers of one request as rules compare them, each read when a rule first asks for it."""

    __slots__ = ("_headers", "_values", "ambiguous")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.ambiguous = False  # whether any that was asked for could not be read in one way
        self._headers = headers
        self._values: dict[str, str | None] = {}

    def may_fit(self, wanted: Headers) -> bool:
        """Whether they are as a rule wants them, or whether that cannot be said, since one of them is ambiguous."""
        fits = True
        for name, value in wanted:
            sent = self._value(name)
            if sent is _AMBIGUOUS:
                return True
            fits = fits and sent == value
        return fits

    def fit(self, wanted: Headers) -> bool:
        """Whether they are as a rule wants them."""
        return all(self._value(name) == value for name, value in wanted)

    def _value(self, name: str) -> str | None:
        if name not in self._values:
            try:
                self._values[name] = value_of(self._headers, name)
            except AmbiguousHeaderError:
                self._values[name] = _AMBIGUOUS
                self.ambiguous = True
        return self._values[name]


_NOT_LOOKED_AT = _Sent({})  # where no rule wants any


class _Node:
    """One place in the tree of segments."""

    __slots__ = ("capture", "earliest", "folded", "here", "literals", "rest")

    def __init__(self) -> None:
        self.earliest = NOWHERE  # the earliest rule at this place or below
        self.literals: dict[str, _Node] = {}
        self.folded: dict[str, _Node] = {}  # literals that match in any case
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
        ends = node.rest if pattern.is_prefix else node.here
        _enter(ends, _WHATEVER, (), rule)
        for method in methods:
            _enter(ends, method, headers, rule)

    def _child(self, segment: Segment) -> _Node:
        if segment is None:
            self.capture = self.capture or _Node()
            return self.capture
        return (self.folded if isinstance(segment, Folded) else self.literals).setdefault(segment, _Node())

    def find(self, method: str | None, path: Sequence[str], sent: _Sent, best: int) -> int:
        """The earliest rule that matches, or that cannot be said not to, or ``best`` when none is earlier."""
        parameters = PARAMETERS in path[-1]
        pending: list[tuple[_Node, int]] = [(self, 0)]
        while pending:
            node, depth = pending.pop()
            if node.earliest >= best:
                continue
            if node.rest and not parameters:
                best = _earliest(node.rest, method, sent, best)
            if depth == len(path):
                best = _earliest(node.here, method, sent, best)
                continue
            segment = path[depth]
            if node.capture is not None and segment and not (parameters and PARAMETERS in segment):
                pending.append((node.capture, depth + 1))
            if node.folded and (folded := node.folded.get(segment.casefold())) is not None:
                pending.append((folded, depth + 1))
            literal = node.literals.get(segment)
            if literal is not None:
                pending.append((literal, depth + 1))
        return best


def _enter(ends: Ends, method: str | None, headers: Headers, rule: int) -> None:
    rules = ends.setdefault(method, [])
    if not rules or rules[-1][1]:  # behind one that wants no headers, no other could be chosen
        rules.append((rule, headers))


def _earliest(ends: Ends, method: str | None, sent: _Sent, best: int) -> int:
    for rules in (ends.get(method, ()), ends.get(_ANY, ())):
        for rule, wanted in rules:
            if rule >= best:
                break
            if not wanted or sent.may_fit(wanted):
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
        self._headers: dict[int, Headers] = {}  # of the rules that want some
        for place, match in enumerate(matches):
            if match is not None:
                self._enter(match, place)

    def _enter(self, match: Match, place: int) -> None:
        headers = tuple((match.headers or {}).items())
        if headers:
            self._headers[place] = headers
        for node in self._hosts(match):
            for pattern in match.path_patterns:
                node.enter(pattern, match.methods or (_ANY,), headers, place)

    def _hosts(self, match: Match) -> Iterable[_Node]:
        if match.hosts is None:
            yield self._any_host
            return
        for pattern in match.hosts:
            yield (self._wildcards if pattern.is_wildcard else self._exact).setdefault(pattern.name, _Node())

    def choose(self, attributes: Attributes, path: Sequence[str], before: int = NOWHERE) -> int | None:
        """The place of the first rule that matches, or ``before`` when none does before that place.

        ``path`` are the decoded segments. None when method or host cannot be read plainly, or a header that the rule
        wants: the upstream may read in it what a rule protects.
        """
        method = attributes.method
        if method != method.upper():  # Envoy passes it on over HTTP/2, and many an upstream reads it as upper case
            return None
        sent = _Sent(attributes.headers) if self._headers else _NOT_LOOKED_AT
        best = self._find(attributes.host, method, path, sent, before)
        if sent.ambiguous and best in self._headers and not sent.fit(self._headers[best]):
            return None
        return best

    def knows(self, host: str, path: Sequence[str]) -> bool:
        """Whether any rule is for this host and path, whatever it wants of method and headers."""
        return self._find(host, _WHATEVER, path, _NOT_LOOKED_AT, NOWHERE) not in {NOWHERE, None}

    def _find(self, host: str, method: str | None, path: Sequence[str], sent: _Sent, best: int) -> int | None:
        best = self._any_host.find(method, path, sent, best)
        if not (self._exact or self._wildcards):
            return best
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
