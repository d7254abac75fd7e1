"""What the order of rules comes to: rules that earlier ones hide, and paths that slip past a stricter rule.

Owns what is found by comparing the patterns of several rules (``core.inclusion``), not by trying paths. What it finds
are warnings: it refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.document import Problem
from authz_service.config.strictness import wants_as_much
from authz_service.core.patterns import PARAMETERS, Folded, covering, overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz_service.config.document import Where
    from authz_service.config.model import Issuer, Match, Rule
    from authz_service.core.patterns import HostPattern, PathPattern


class _Place(NamedTuple):
    """One path of a rule, for one host and one method."""

    host: HostPattern | None
    method: str | None
    path: PathPattern
    at: int  # of the path in the rule's list


class _Entry(NamedTuple):
    """One path of a rule, for all its hosts and methods."""

    rule: int
    match: Match
    hosts: Sequence[HostPattern | None]
    path: PathPattern


class _Node:
    """A place in the tree of the paths seen so far, by segment in lower case; None stands for a capture."""

    def __init__(self) -> None:
        self.below: dict[str | None, _Node] = {}
        self.here: list[_Entry] = []  # paths that end here, or go on with any rest

    def enter(self, number: int, rule: Rule) -> None:
        """Enter the paths of a rule, unless it is chosen by its policy alone."""
        for path in () if rule.policy else rule.match.path_patterns:
            node = self
            for segment in path.segments:
                node = node.below.setdefault(segment and segment.casefold(), _Node())
            node.here.append(_Entry(number, rule.match, _hosts(rule.match), path))

    def next(self, keys: set[str | None] | None) -> Iterable[_Node]:
        """What is below under these keys, or under any."""
        return self.below.values() if keys is None else [self.below[key] for key in keys if key in self.below]

    def near(self, path: PathPattern, *, partly: bool = False) -> list[_Entry]:
        """Those that may match what a path matches, or ``partly`` some of it: so not all are compared with all."""
        found: list[_Entry] = []
        level = [self]
        for segment in path.segments:
            found += [each for node in level for each in node.here if each.path.is_prefix]
            keys = {segment and segment.casefold(), None}
            level = [below for node in level for below in node.next(None if segment is None and partly else keys)]
        while level:
            found += [each for node in level for each in node.here]
            level = (
                [below for node in level for below in node.next(None if partly else {None, ""})]
                if path.is_prefix
                else []
            )
        return sorted(found, key=lambda each: each.rule)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Rules that earlier ones hide.


def hidden(rules: Sequence[Rule]) -> Iterator[Problem]:
    """Rules, or paths of them, that no request reaches."""
    seen = _Node()
    for number, rule in enumerate(rules):
        yield from _told(("rules", number), rules, _hiding(rule, seen))
        seen.enter(number, rule)


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


def _applies(entry: _Entry, place: _Place, rule: Rule) -> bool:
    """Whether another rule applies to every request of this one at a place, its path aside."""
    methods, headers = entry.match.methods, entry.match.headers or {}
    return (
        (methods is None or place.method in methods)
        and headers.items() <= (rule.match.headers or {}).items()
        and any(_host_includes(host, place.host) for host in entry.hosts)
    )


def _places(rule: Rule) -> Iterator[_Place]:
    for at, path in enumerate(rule.match.path_patterns):
        for host in _hosts(rule.match):
            for method in rule.match.methods or (None,):
                yield _Place(host, method, path, at)


def _hosts(match: Match) -> Sequence[HostPattern | None]:
    return [None] if match.hosts is None else match.hosts


def _host_includes(one: HostPattern | None, other: HostPattern | None) -> bool:
    """Whether every host that ``other`` matches is one that ``one`` matches; None matches any host."""
    return one is None or (other is not None and one.includes(other))


def _deciders(rules: Sequence[Rule], places: set[int]) -> str:
    names = [rules[place].name for place in sorted(places)]
    return f"rule {names[0]} decides" if len(names) == 1 else f"rules {listed(names)} together decide"


# Paths that an upstream may read as a stricter rule's, and that a laxer one decides.


class _Variant(NamedTuple):
    """Paths that are not those of a pattern, and that an upstream may take for them."""

    path: PathPattern
    at: int | None  # of the segment in another case; None where a slash differs
    example: str
    reader: str  # who takes them for those
    remedy: str


def slipping(rules: Sequence[Rule], issuers: Sequence[Issuer]) -> Iterator[Problem]:
    """Paths of a rule beside which a laxer rule decides another spelling: its ``{name}`` or ``/**`` takes it."""
    every, seen = _Node(), _Node()
    for number, rule in enumerate(rules):
        every.enter(number, rule)
    for number, rule in enumerate(rules):
        said: set[tuple[str, str]] = set()
        hiding = _hiding(rule, seen)
        seen.enter(number, rule)
        for place in () if rule.policy or rule.access != "token" else _places(rule):
            if hiding[place.at] is not None:  # which is said already
                continue
            for variant in _variants(place.path):
                name = _laxer(place, variant, number, rules, issuers, every)
                if name is None or (name, variant.reader) in said:
                    continue
                said.add((name, variant.reader))
                text = f"an upstream that {variant.reader} takes {variant.example} for this path, and rule {name}, "
                where = ("rules", number, "match", "paths", place.at)
                yield Problem(
                    where, f"{text}which does not want all that this rule wants, decides it: {variant.remedy}"
                )


def _variants(path: PathPattern) -> Iterator[_Variant]:
    texts = path.text.split("/")[1:]
    for at, segment in enumerate(path.segments):
        if segment and not isinstance(segment, Folded) and segment.swapcase() != segment and PARAMETERS not in segment:
            spelled = segment.upper() if segment.upper() != segment else segment.lower()
            example = "/" + "/".join((*texts[:at], spelled, *texts[at + 1 :]))
            segments = (*path.segments[:at], Folded(segment.casefold()), *path.segments[at + 1 :])
            remedy = "set match.case_insensitive: true for this rule"
            yield _Variant(path._replace(segments=segments), at, example, "ignores case", remedy)
    if path.is_prefix or not path.segments or PARAMETERS in (path.segments[-1] or ""):
        return
    slash = path.segments[-1] == ""
    segments, example = (path.segments[:-1], path.text[:-1]) if slash else ((*path.segments, ""), f"{path.text}/")
    if segments:
        remedy = f"add {example} to the paths of this rule"
        variant = path._replace(segments=segments)
        yield _Variant(variant, None, example, "ignores a slash at the end", remedy)


def _laxer(
    place: _Place, variant: _Variant, number: int, rules: Sequence[Rule], issuers: Sequence[Issuer], every: _Node
) -> str | None:
    """The first rule that decides some of a variant and wants less than the rule whose variant it is."""
    rule = rules[number]
    own = [entry.path for entry in every.near(variant.path) if entry.rule == number]
    if covering(variant.path, own) is not None:  # it is one of the rule's own, in file order
        return None
    for entry in every.near(variant.path, partly=True):
        if entry.rule == number or not (_meets(entry, place, rule) and _takes(entry.path, variant)):
            continue
        decides_both = entry.rule < number and overlap(entry.path, place.path)
        is_laxer = not decides_both and not wants_as_much(rules[entry.rule], rule, issuers)
        if is_laxer and _is_broad(entry.path, variant):
            return rules[entry.rule].name
        if _applies(entry, place, rule) and covering(variant.path, [entry.path]) is not None:
            return None
    return None


def _takes(path: PathPattern, variant: _Variant) -> bool:
    """Whether a pattern matches some path of a variant; of another case, one in a spelling that no pattern names."""
    own = None if variant.at is None or variant.at >= len(path.segments) else path.segments[variant.at]
    return overlap(path, variant.path) and (own is None or isinstance(own, Folded))


def _is_broad(path: PathPattern, variant: _Variant) -> bool:
    """Whether a pattern takes a variant by a capture or its rest, rather than by literals that somebody meant so."""
    pairs = zip(path.segments, variant.path.segments, strict=False)
    return path.is_prefix or any(ours is None and theirs is not None for ours, theirs in pairs)


def _meets(entry: _Entry, place: _Place, rule: Rule) -> bool:
    """Whether another rule applies to some request that this one would apply to at a place, its path aside."""
    methods, wanted, headers = entry.match.methods, entry.match.headers or {}, rule.match.headers or {}
    return (
        (methods is None or place.method is None or place.method in methods)
        and all(headers.get(name, value) == value for name, value in wanted.items())
        and any(_host_includes(host, place.host) or _host_includes(place.host, host) for host in entry.hosts)
    )
