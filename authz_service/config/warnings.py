"""What is legal and dangerous.

Law: a warning refuses nothing. It says what may happen and what to write instead, and points at the key. What it says
of patterns is found by comparing them (``core.inclusion``), not by trying paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.document import Problem
from authz_service.config.values import https_or_loopback
from authz_service.core import hosts, patterns
from authz_service.core.inclusion import covering, host_covers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from authz_service.config.document import Where
    from authz_service.config.model import Issuer, Match, Rule, Settings
    from authz_service.core.hosts import HostPattern
    from authz_service.core.patterns import PathPattern

_DAY = 86_400.0  # seconds; how long a provider may be away before somebody should have noticed
_EVERY_PATH = "/**"


def warnings(settings: Settings) -> Iterator[Problem]:
    """Everything that is worth a warning."""
    yield from _hidden(settings.rules)
    for place, rule in enumerate(settings.rules):
        yield from _any_audience(("rules", place), rule, settings.issuers)
        yield from _public_everywhere(("rules", place), rule)
        yield from _shadow(("rules", place), rule)
    for place, issuer in enumerate(settings.issuers):
        yield from _long_outage(("issuers", place, "keys", "outage_tolerance"), issuer)
        yield from _plain_http(("issuers", place, "keys", "allow_http"), issuer)


def _any_audience(where: Where, rule: Rule, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    if rule.access == "public" or rule.require.audiences is not None:
        return
    allowed = rule.require.issuers
    shared = [
        issuer.label
        for issuer in issuers
        if len(set(issuer.audiences)) > 1 and (allowed is None or issuer.label in allowed)
    ]
    if shared:
        text = f"accepts a token for any of the audiences of {_listed(shared)}, also one made for another API: "
        yield Problem(where, f"{text}name this API's audience in require.audiences")


def _public_everywhere(where: Where, rule: Rule) -> Iterator[Problem]:
    paths = rule.match.paths
    if rule.access != "public" or rule.policy or (paths is not None and _EVERY_PATH not in paths):
        return
    key = where if paths is None else (*where, "match", "paths", paths.index(_EVERY_PATH))
    yield Problem(
        key, "lets every path through that no earlier rule decides: list the paths that are meant to be public"
    )


def _shadow(where: Where, rule: Rule) -> Iterator[Problem]:
    if rule.mode == "shadow":
        text = "denies nothing: once the decisions that it counts are those that you expect, remove this line"
        yield Problem((*where, "mode"), text)


def _long_outage(where: Where, issuer: Issuer) -> Iterator[Problem]:
    if issuer.keys.outage_tolerance > _DAY:
        text = "is longer than a day: so long may a key that the provider withdrew be believed. Write at most 24h"
        yield Problem(where, text)


def _plain_http(where: Where, issuer: Issuer) -> Iterator[Problem]:
    keys = issuer.keys
    url = keys.jwks_uri or issuer.issuer
    by_network = issuer.has_keys and keys.jwks_file is None
    if keys.allow_http and by_network and not https_or_loopback(url):
        text = "lets the keys come over plain http from another machine, where anybody on the way may replace them: "
        yield Problem(where, f"{text}use https")
    asking = issuer.introspection
    if asking is not None and keys.allow_http and not https_or_loopback(asking.endpoint or issuer.issuer):
        text = "lets tokens and the client's proof go over plain http to another machine, where anybody on the way may "
        yield Problem(where, f"{text}take them, and say that any token is active: use https")


# Rules that earlier ones hide.


class _Place(NamedTuple):
    """One path of a rule, for one host and one method."""

    host: HostPattern | None
    method: str | None
    path: PathPattern
    at: int  # of the path in the rule's list


class _Earlier(NamedTuple):
    """One path of an earlier rule."""

    rule: int
    match: Match
    hosts: Sequence[HostPattern | None]
    path: PathPattern


class _Node:
    """A place in the tree of the paths seen so far, by segment; None stands for a capture."""

    def __init__(self) -> None:
        self.below: dict[str | None, _Node] = {}
        self.here: list[_Earlier] = []  # paths that end here, or go on with any rest

    def enter(self, earlier: _Earlier) -> None:
        node = self
        for segment in earlier.path.segments:
            node = node.below.setdefault(segment, _Node())
        node.here.append(earlier)

    def near(self, path: PathPattern) -> list[_Earlier]:
        """Those that may match what a path matches, so that not all have to be compared with all."""
        found: list[_Earlier] = []
        level = [self]
        for segment in path.segments:
            found += [each for node in level for each in node.here if each.path.rest]
            level = [node.below[key] for node in level for key in {segment, None} if key in node.below]
        while level:
            found += [each for node in level for each in node.here]
            level = [node.below[key] for node in level for key in (None, "") if key in node.below] if path.rest else []
        return sorted(found, key=lambda each: each.rule)


def _hidden(rules: Sequence[Rule]) -> Iterator[Problem]:
    seen = _Node()
    for number, rule in enumerate(rules):
        yield from _told(("rules", number), rules, _hiding(rule, seen))
        for path in () if rule.policy else _paths(rule.match):
            seen.enter(_Earlier(number, rule.match, _hosts(rule.match), path))


def _hiding(rule: Rule, seen: _Node) -> dict[int, set[int] | None]:
    """For each path of the rule, the earlier rules that together decide all of it; None where something is left."""
    hiding: dict[int, set[int] | None] = {}
    for place in _places(rule):
        earlier = [each for each in seen.near(place.path) if _applies(each, place, rule)]
        covered = covering(place.path, [each.path for each in earlier])
        known = hiding.get(place.at, set())
        hiding[place.at] = None if covered is None or known is None else known | {earlier[at].rule for at in covered}
    return hiding


def _told(where: Where, rules: Sequence[Rule], hiding: Mapping[int, set[int] | None]) -> Iterator[Problem]:
    """One warning for a rule that is hidden as a whole; else one for each of its paths that is."""
    found = {at: places for at, places in hiding.items() if places is not None}
    if len(found) == len(hiding):
        deciders = _deciders(rules, set().union(*found.values()))
        yield Problem(where, f"is never reached, since {deciders} all that it matches: move it up, or remove it")
        return
    for at, places in found.items():
        text = f"is never reached in this rule, since {_deciders(rules, places)} all that it matches: remove it"
        yield Problem((*where, "match", "paths", at), text)


def _applies(earlier: _Earlier, place: _Place, rule: Rule) -> bool:
    """Whether an earlier rule applies to every request at a place, its path aside."""
    methods, headers = earlier.match.methods, earlier.match.headers or {}
    return (
        (methods is None or place.method in methods)
        and headers.items() <= (rule.match.headers or {}).items()
        and any(host_covers(host, place.host) for host in earlier.hosts)
    )


def _places(rule: Rule) -> Iterator[_Place]:
    for at, path in enumerate(_paths(rule.match)):
        for host in _hosts(rule.match):
            for method in rule.match.methods or (None,):
                yield _Place(host, method, path, at)


def _paths(match: Match) -> list[PathPattern]:
    return [patterns.parse_pattern(path) for path in match.paths or (_EVERY_PATH,)]


def _hosts(match: Match) -> Sequence[HostPattern | None]:
    return [None] if match.hosts is None else [hosts.parse_pattern(host) for host in match.hosts]


def _deciders(rules: Sequence[Rule], places: set[int]) -> str:
    names = [rules[place].name for place in sorted(places)]
    return f"rule {names[0]} decides" if len(names) == 1 else f"rules {_listed(names)} together decide"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
