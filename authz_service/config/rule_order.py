"""Effects of the order of rules: rules that no request reaches, and paths that bypass a stricter rule.

Pure. Compares the patterns and requirements of rules with each other, and tries no paths. Its findings are warnings; it
refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.document import Problem
from authz_service.core.patterns import (
    PARAMETERS,
    Folded,
    PathPattern,
    SuffixedCapture,
    common,
    covering,
    decodes_into,
    folded,
    has_case,
    has_parameters,
    overlap,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz_service.config.document import Where
    from authz_service.config.model import Match, McpMatch, RuleSettings
    from authz_service.config.strictness import Strictness
    from authz_service.core.patterns import HostPattern, Segment


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Finding the rules that a path may concern, so that not every rule is compared with every other.


class _Place(NamedTuple):
    """One path of a rule, for one host and one method."""

    host: HostPattern | None
    method: str | None
    path: PathPattern
    number: int  # of the path in the rule's list


class _Entry(NamedTuple):
    """One path of a rule, for all its hosts and methods."""

    rule: int
    match: Match
    path: PathPattern


class _PathTree:
    """The paths of rules by segment, in lower case."""

    def __init__(self) -> None:
        self.children: dict[Segment, _PathTree] = {}
        self.suffixes: list[SuffixedCapture] = []  # those of the children's keys
        self.entries: list[_Entry] = []  # paths that end here, with or without /**

    def add(self, number: int, rule: RuleSettings) -> None:
        """Add the paths of a rule, unless only a policy selects it."""
        for path in () if rule.policy else rule.match.path_patterns:
            node = self
            for segment in map(_lower, path.segments):
                if segment not in node.children:
                    node.children[segment] = _PathTree()
                    if isinstance(segment, SuffixedCapture):
                        node.suffixes.append(segment)
                node = node.children[segment]
            node.entries.append(_Entry(number, rule.match, path))

    def near(self, path: PathPattern, *, partly: bool = False) -> list[_Entry]:
        """The entries that may match all paths that ``path`` matches, or, with ``partly``, some of them.

        The case of literals does not count: a path and its folded form are near the same entries.
        """
        found: list[_Entry] = []
        level = [self]
        for segment in map(_lower, path.segments):
            found += (entry for node in level for entry in node.entries if entry.path.is_prefix)
            level = [child for node in level for child in node.below(segment, partly=partly)]
        while level:
            found += (entry for node in level for entry in node.entries)
            if not path.is_prefix:
                break
            level = [child for node in level for child in node.at(node.children if partly else (None, ""))]
        return sorted(found, key=lambda entry: entry.rule)

    def below(self, segment: Segment, *, partly: bool) -> Iterable[_PathTree]:
        """The children that may match all that a segment of a pattern matches, or, with ``partly``, some of it."""
        if segment is None and partly:
            return self.children.values()
        all_keys = isinstance(segment, SuffixedCapture) and partly
        keys = self.children if all_keys else {segment, None, *self.suffixes}
        return self.at(key for key in keys if _may_match(key, segment))

    def at(self, keys: Iterable[Segment]) -> Iterable[_PathTree]:
        """The children with these keys, where there are any."""
        return [self.children[key] for key in keys if key in self.children]


def _lower(segment: Segment) -> Segment:
    if isinstance(segment, SuffixedCapture):
        return SuffixedCapture(segment.suffix.casefold())
    return segment and segment.casefold()


def _may_match(key: Segment, segment: Segment) -> bool:
    """Whether a segment of a pattern matches some of what another one matches; both are in lower case."""
    if key is None or key == segment:
        return True
    if isinstance(key, SuffixedCapture):
        return key.overlaps(segment) if isinstance(segment, SuffixedCapture) else key.overlaps_literal(segment or "")
    return isinstance(segment, SuffixedCapture) and segment.overlaps_literal(key)


def _places(rule: RuleSettings) -> Iterator[_Place]:
    for number, path in enumerate(rule.match.path_patterns):
        for host in rule.match.hosts or (None,):
            for method in rule.match.methods or (None,):
                yield _Place(host, method, path, number)


def _applies(match: Match, place: _Place, rule: RuleSettings) -> bool:
    """Whether a rule with this ``match`` applies to every request that ``rule`` applies to at a place, paths aside."""
    methods, headers = match.methods, match.headers or {}
    return (
        (methods is None or place.method in methods)
        and headers.items() <= (rule.match.headers or {}).items()
        and _mcp_includes(match.mcp, rule.match.mcp)
        and any(_host_includes(host, place.host) for host in match.hosts or (None,))
    )


def _may_apply(match: Match, place: _Place, rule: RuleSettings) -> bool:
    """Whether a rule with this ``match`` applies to some request that ``rule`` applies to at a place, paths aside."""
    methods, theirs, ours = match.methods, match.headers or {}, rule.match.headers or {}
    return (
        (methods is None or place.method is None or place.method in methods)
        and all(theirs.get(name, value) == value for name, value in ours.items())
        and (match.mcp is None or rule.match.mcp is None or match.mcp.condition.overlaps(rule.match.mcp.condition))
        and any(_host_includes(host, place.host) or _host_includes(place.host, host) for host in match.hosts or (None,))
    )


def _mcp_includes(one: McpMatch | None, other: McpMatch | None) -> bool:
    return one is None or (other is not None and one.condition.includes(other.condition))


def _host_includes(one: HostPattern | None, other: HostPattern | None) -> bool:
    """Whether ``one`` matches every host that ``other`` matches; None matches any host."""
    return one is None or (other is not None and one.includes(other))


# Rules that no request reaches.


def unreachable(rules: Sequence[RuleSettings]) -> Iterator[Problem]:
    """Rules, or paths of rules, that earlier rules hide."""
    earlier = _PathTree()
    for number, rule in enumerate(rules):
        yield from _unreachable(("rules", number), rules, _hiding(rule, earlier))
        earlier.add(number, rule)


def _hiding(rule: RuleSettings, earlier: _PathTree) -> dict[int, set[int] | None]:
    """For each path of the rule, the earlier rules that together decide all of it; None where they do not."""
    hiding: dict[int, set[int] | None] = {}
    for place in _places(rule):
        entries = [entry for entry in earlier.near(place.path) if _applies(entry.match, place, rule)]
        covered = covering(place.path, [entry.path for entry in entries])
        known = hiding.get(place.number, set())
        if covered is None or known is None:
            hiding[place.number] = None
        else:
            hiding[place.number] = known | {entries[index].rule for index in covered}
    return hiding


def _unreachable(
    where: Where, rules: Sequence[RuleSettings], hiding: Mapping[int, set[int] | None]
) -> Iterator[Problem]:
    """One warning for a rule that is hidden as a whole; otherwise one for each of its hidden paths."""
    hidden = {index: numbers for index, numbers in hiding.items() if numbers is not None}
    if len(hidden) == len(hiding):
        deciders = _deciders(rules, set().union(*hidden.values()))
        yield Problem(where, f"is never reached, since {deciders} all that it matches: move it up, or remove it")
        return
    for index, numbers in hidden.items():
        text = f"is never reached in this rule, since {_deciders(rules, numbers)} all that it matches: remove it"
        yield Problem((*where, "match", "paths", index), text)


def _deciders(rules: Sequence[RuleSettings], numbers: set[int]) -> str:
    names = [rules[number].name for number in sorted(numbers)]
    return f"rule {names[0]} decides" if len(names) == 1 else f"rules {listed(names)} together decide"


# Rules that decide requests of one host under one path.


def deciding(
    host: HostPattern, within: PathPattern, apart_from: Sequence[PathPattern], rules: Sequence[RuleSettings]
) -> Iterator[tuple[int, RuleSettings]]:
    """The rules that decide some requests for a path within one pattern, but apart from others; with their indexes.

    ``within`` has literal segments only. Rules that only a policy selects are left out.
    """
    earlier = _PathTree()
    for number, rule in enumerate(rules):
        if rule.policy or not any(_host_includes(each, host) for each in rule.match.hosts or (None,)):
            continue
        shared = [path for path in rule.match.path_patterns if overlap(within, path)]
        places = [
            _Place(host, method, common(within, path), 0) for path in shared for method in rule.match.methods or (None,)
        ]
        if not all(_is_decided(place, rule, earlier, apart_from) for place in places):
            yield number, rule
        earlier.add(number, rule)


def _is_decided(place: _Place, rule: RuleSettings, earlier: _PathTree, apart_from: Sequence[PathPattern]) -> bool:
    before = (entry.path for entry in earlier.near(place.path) if _applies(entry.match, place, rule))
    return covering(place.path, [*apart_from, *before]) is not None


# MCP messages of older revisions, which no rule with match.mcp decides.


def older_mcp_revisions(rules: Sequence[RuleSettings], strictness: Strictness) -> Iterator[Problem]:
    """Rules with ``match.mcp`` whose messages a later, laxer rule decides if the client names an older revision."""
    later = _PathTree()
    for number, rule in reversed(list(enumerate(rules))):
        if rule.match.mcp is None:
            later.add(number, rule)
            continue
        places = _places(rule) if rule.access == "token" else ()
        laxer = (_first_laxer(place, rule, rules, strictness, later) for place in places)
        if (name := next(filter(None, laxer), None)) is not None:
            text = (
                f"rule {name} decides these messages if MCP-Protocol-Version is missing or older than 2026-07-28, and "
                "does not require all that this rule requires: add match.mcp: {methods: ['*']} to "
                f"rule {name}, or require as much there"
            )
            yield Problem(("rules", number, "match", "mcp"), text)


def _first_laxer(
    place: _Place, rule: RuleSettings, rules: Sequence[RuleSettings], strictness: Strictness, later: _PathTree
) -> str | None:
    """The name of the first later rule that requires less, up to one that decides the whole path."""
    for entry in later.near(place.path, partly=True):
        if _may_apply(entry.match, place, rule) and overlap(entry.path, place.path):
            if not strictness.requires_as_much(rules[entry.rule], rule):
                return rules[entry.rule].name
            if _applies(entry.match, place, rule) and covering(place.path, [entry.path]) is not None:
                return None
    return None


# Custom verbs, such as /v1/items/{id}:purge, that the rule of the item decides.


def verbs_of_items(rules: Sequence[RuleSettings], strictness: Strictness) -> Iterator[Problem]:
    """Paths with a suffix of which an earlier, laxer rule decides some requests, because its ``{id}`` takes any."""
    earlier = _PathTree()
    for number, rule in enumerate(rules):
        places = [] if rule.policy else [place for place in _places(rule) if place.path.has_suffixes]
        hiding = _hiding(rule, earlier) if places else {}
        reported: set[tuple[int, int]] = set()
        for place in places if rule.access == "token" else ():
            for entry in earlier.near(place.path, partly=True) if hiding[place.number] is None else ():
                if (
                    (place.number, entry.rule) not in reported
                    and _takes_any_suffix(entry.path, place.path)
                    and _may_apply(entry.match, place, rule)
                    and overlap(entry.path, place.path)
                    and not strictness.requires_as_much(rules[entry.rule], rule)
                ):
                    reported.add((place.number, entry.rule))
                    text = (
                        f"rule {rules[entry.rule].name} comes first, decides some of the requests for this path, and "
                        "does not require all that this rule requires: move this rule up"
                    )
                    yield Problem(("rules", number, "match", "paths", place.number), text)
        earlier.add(number, rule)


def _takes_any_suffix(path: PathPattern, verb: PathPattern) -> bool:
    """Whether a pattern matches a segment of another one, which has a suffix, by a ``{name}`` or its /**."""
    return any(
        index >= len(path.segments) or _is_broader(path.segments[index], segment)
        for index, segment in enumerate(verb.segments)
        if isinstance(segment, SuffixedCapture)
    )


# Encoded slashes. Rules before one with encoded_slash are never bypassed: see ``rules.encoded_slashes``.


def decoded_slashes(rules: Sequence[RuleSettings], strictness: Strictness) -> Iterator[Problem]:
    """Rules with ``encoded_slash`` whose paths, once decoded, are those of a stricter rule after them or any before."""
    slashed = [number for number, rule in enumerate(rules) if rule.match.encoded_slash]
    every = _PathTree()
    for number, rule in enumerate(rules if slashed else ()):
        every.add(number, rule)
    for number in slashed:
        stricter = (_stricter_once_decoded(place, number, rules, strictness, every) for place in _places(rules[number]))
        if (name := next(filter(None, stricter), None)) is not None:
            text = (
                f"an upstream that decodes %2F treats some of these paths as those of rule {name}, which comes later "
                f"and requires more: move rule {name} before this one, which denies these paths, or require as much "
                "here"
            )
            yield Problem(("rules", number, "match", "encoded_slash"), text)
        denying = (_denies_once_decoded(place, number, rules, every) for place in _places(rules[number]))
        if (name := next(filter(None, denying), None)) is not None:
            text = (
                f"has no effect for some of these paths, since rule {name} comes first and matches them once %2F is "
                "decoded, so they are denied: move this rule up"
            )
            yield Problem(("rules", number, "match", "encoded_slash"), text)


def _denies_once_decoded(place: _Place, number: int, rules: Sequence[RuleSettings], every: _PathTree) -> str | None:
    """The first rule before one with ``encoded_slash`` that matches all paths with one slash in some ``{name}``."""
    path = place.path
    for index in path.captures.values():
        decoded = path._replace(segments=(*path.segments[:index], None, *path.segments[index:]))
        for entry in every.near(decoded):
            if entry.rule >= number:
                break
            is_hidden = covering(path, [entry.path]) is not None  # which is a warning of ``unreachable``
            if _applies(entry.match, place, rules[number]) and not is_hidden and covering(decoded, [entry.path]):
                return rules[entry.rule].name
    return None


def _stricter_once_decoded(
    place: _Place, number: int, rules: Sequence[RuleSettings], strictness: Strictness, every: _PathTree
) -> str | None:
    """The first rule that decides a decoded path and requires more than the rule of the encoded one."""
    first = min(place.path.captures.values(), default=None)
    if first is None:
        return None
    decoded = place.path._replace(segments=(*place.path.segments[:first], None), is_prefix=True)
    for entry in every.near(decoded, partly=True):
        if (
            entry.rule > number
            and _may_apply(entry.match, place, rules[number])
            and decodes_into(place.path, entry.path)
            and not strictness.requires_as_much(rules[number], rules[entry.rule])
        ):
            return rules[entry.rule].name
        if _applies(entry.match, place, rules[number]) and covering(decoded, [entry.path]) is not None:
            return None  # it decides all of them, and is no stricter, or comes first and denies them
    return None


# Paths that an upstream may read as those of a strict rule, and that a laxer rule decides.


class _Variant(NamedTuple):
    """Paths that a pattern does not match, and that an upstream may treat as if it did."""

    path: PathPattern
    folded: int | None  # index of the segment in another case; None where a trailing slash differs
    example: str
    reader: str  # the upstream that treats them so
    remedy: str


def bypasses(rules: Sequence[RuleSettings], strictness: Strictness) -> Iterator[Problem]:
    """Paths of a rule, another spelling of which a ``{name}`` or ``/**`` of a laxer rule matches."""
    every, earlier = _PathTree(), _PathTree()
    for number, rule in enumerate(rules):
        every.add(number, rule)
    for number, rule in enumerate(rules):
        reported: set[tuple[str, str]] = set()
        hiding = _hiding(rule, earlier)
        earlier.add(number, rule)
        for place in () if rule.policy or rule.access != "token" else _places(rule):
            if hiding[place.number] is not None:  # a warning of ``unreachable``
                continue
            for variant, laxer in _laxer_rules(place, number, rules, strictness, every):
                if (laxer, variant.reader) in reported:
                    continue
                reported.add((laxer, variant.reader))
                text = (
                    f"an upstream that {variant.reader} treats {variant.example} as this path, but rule {laxer} "
                    f"decides it and does not require all that this rule requires: {variant.remedy}"
                )
                yield Problem(("rules", number, "match", "paths", place.number), text)


def _laxer_rules(
    place: _Place, number: int, rules: Sequence[RuleSettings], strictness: Strictness, every: _PathTree
) -> Iterator[tuple[_Variant, str]]:
    """The variants of a path that a laxer rule decides, each with the name of the first such rule."""
    neighbors = _Neighbors(place, place.path, number, rules, strictness, every)
    for variant in _case_variants(place.path):
        if (laxer := neighbors.laxer_rule(variant)) is not None:
            yield variant, laxer
    for variant in _slash_variants(place.path):
        neighbors = _Neighbors(place, variant.path, number, rules, strictness, every)
        if (laxer := neighbors.laxer_rule(variant)) is not None:
            yield variant, laxer


def _case_variants(path: PathPattern) -> Iterator[_Variant]:
    parts = path.text.split("/")[1:]
    for index, segment in enumerate(path.segments):
        literal = segment.suffix if isinstance(segment, SuffixedCapture) else segment
        if literal and not isinstance(literal, Folded) and has_case(literal) and PARAMETERS not in literal:
            spelled = literal.upper() if literal.upper() != literal else literal.lower()
            example = "/" + "/".join(
                (*parts[:index], parts[index].removesuffix(literal) + spelled, *parts[index + 1 :])
            )
            segments = (*path.segments[:index], folded(segment), *path.segments[index + 1 :])
            remedy = "set match.case_insensitive: true for this rule"
            yield _Variant(path._replace(segments=segments), index, example, "ignores case", remedy)


def _slash_variants(path: PathPattern) -> Iterator[_Variant]:
    if path.is_prefix or not path.segments or has_parameters(path.segments[-1]):
        return
    has_slash = path.segments[-1] == ""
    segments, example = (path.segments[:-1], path.text[:-1]) if has_slash else ((*path.segments, ""), f"{path.text}/")
    if segments:
        remedy = f"add {example} to the paths of this rule"
        yield _Variant(path._replace(segments=segments), None, example, "ignores a trailing slash", remedy)


class _Neighbors:
    """The rules near the variants of one path. Each is compared at most once for all variants, and only when needed."""

    def __init__(
        self,
        place: _Place,
        path: PathPattern,
        number: int,
        rules: Sequence[RuleSettings],
        strictness: Strictness,
        every: _PathTree,
    ) -> None:
        self._place, self._number = place, number
        self._rules, self._strictness = rules, strictness
        near = {id(entry): entry for entry in every.near(path)}
        self._own = [entry.path for entry in near.values() if entry.rule == number]
        self._entries = [entry for entry in every.near(path, partly=True) if entry.rule != number]
        self._deciding = [
            (index, entry.path)
            for index, entry in enumerate(self._entries)
            if id(entry) in near and _applies(entry.match, place, rules[number])
        ]
        self._is_laxer: dict[int, bool] = {}  # by index of an entry
        self._is_as_strict: dict[int, bool] = {}  # by number of a rule

    def laxer_rule(self, variant: _Variant) -> str | None:
        """The first rule that decides some of a variant and requires less than the rule whose variant it is."""
        if covering(variant.path, [path for path in self._own if _may_take(path, variant)]) is not None:
            return None  # one of the rule's own paths, in file order
        for index, entry in enumerate(self._entries):
            if (
                _may_take(entry.path, variant)
                and _is_broad(entry.path, variant)
                and overlap(entry.path, variant.path)
                and self._compare(index, entry)
            ):
                return None if self._is_decided_before(index, variant) else self._rules[entry.rule].name
        return None

    def _is_decided_before(self, index: int, variant: _Variant) -> bool:
        """Whether an entry before an index decides all of a variant."""
        return any(
            covering(variant.path, [path]) is not None
            for other, path in self._deciding
            if other < index and _may_take(path, variant)
        )

    def _compare(self, index: int, entry: _Entry) -> bool:
        """Whether an entry decides a variant without the strict rule's path, and requires less."""
        if index not in self._is_laxer:
            decides_both = entry.rule < self._number and overlap(entry.path, self._place.path)
            self._is_laxer[index] = (
                not decides_both
                and _may_apply(entry.match, self._place, self._rules[self._number])
                and not self._requires_as_much(entry.rule)
            )
        return self._is_laxer[index]

    def _requires_as_much(self, other: int) -> bool:
        if other not in self._is_as_strict:
            rule = self._rules[self._number]
            self._is_as_strict[other] = self._strictness.requires_as_much(self._rules[other], rule)
        return self._is_as_strict[other]


def _may_take(path: PathPattern, variant: _Variant) -> bool:
    """Whether a pattern can match a variant's folded segment in a spelling that no pattern names."""
    if variant.folded is None or variant.folded >= len(path.segments):
        return True
    segment = path.segments[variant.folded]
    if isinstance(segment, SuffixedCapture):
        theirs = variant.path.segments[variant.folded]
        literal = theirs.suffix if isinstance(theirs, SuffixedCapture) else theirs or ""
        return isinstance(segment.suffix, Folded) or has_case(literal[: -len(segment.suffix)])
    return segment is None or isinstance(segment, Folded)


def _is_broad(path: PathPattern, variant: _Variant) -> bool:
    """Whether a pattern matches a variant by a capture or its /**, rather than by literals written for it."""
    pairs = zip(path.segments, variant.path.segments, strict=False)
    return path.is_prefix or any(_is_broader(ours, theirs) for ours, theirs in pairs)


def _is_broader(ours: Segment, theirs: Segment) -> bool:
    if isinstance(ours, SuffixedCapture):
        return isinstance(theirs, str) or (theirs is not None and len(theirs.suffix) > len(ours.suffix))
    return ours is None and theirs is not None
