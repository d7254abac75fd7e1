"""Effects of the order of rules: rules that no request reaches, and paths that bypass a stricter rule.

Pure. Compares the patterns and requirements of rules with each other, and tries no paths. Its findings are warnings; it
refuses nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.document import Problem
from authz_service.config.match_sets import MatchSets
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
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from authz_service.config.kinds import Where
    from authz_service.config.model import RuleSettings
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
    path: PathPattern
    open_at: int  # a bit for the index of each segment that is not one literal in one case, and for those of its /**


class _PathTree:
    """The paths of rules by segment, in lower case."""

    def __init__(self) -> None:
        self.children: dict[Segment, _PathTree] = {}
        self.suffixes: list[SuffixedCapture] = []  # those of the children's keys
        self.entries: list[_Entry] = []  # paths that end here, with or without /**

    def add(self, number: int, rule: RuleSettings, apart_from: Collection[int] = ()) -> None:
        """Add the paths of a rule, apart from those with these indexes, unless only a policy selects it."""
        for index, path in enumerate(() if rule.policy else rule.match.path_patterns):
            if index in apart_from:
                continue
            node = self
            for segment in map(_lower, path.segments):
                if segment not in node.children:
                    node.children[segment] = _PathTree()
                    if isinstance(segment, SuffixedCapture):
                        node.suffixes.append(segment)
                node = node.children[segment]
            node.entries.append(_Entry(number, path, _open_at(path)))

    def near(self, path: PathPattern, rules: int, *, partly: bool = False) -> list[_Entry]:
        """The entries of these rules that may match all paths that ``path`` matches, or, with ``partly``, some of them.

        The case of literals does not count: a path and its folded form are near the same entries.
        """
        found: list[_Entry] = []
        level = [self]
        for segment in map(_lower, path.segments):
            found += (
                entry for node in level for entry in node.entries if entry.path.is_prefix and rules >> entry.rule & 1
            )
            level = [child for node in level for child in node.below(segment, partly=partly)]
        while level:
            found += (entry for node in level for entry in node.entries if rules >> entry.rule & 1)
            if not path.is_prefix:
                break
            level = [child for node in level for child in node.at(node.children if partly else (None, ""))]
        return sorted(found, key=lambda entry: entry.rule)

    def below(self, segment: Segment, *, partly: bool) -> Iterable[_PathTree]:
        """The children that may match all that a segment of a pattern matches, or, with ``partly``, some of it."""
        if segment is None:
            return self.children.values() if partly else self.at((None,))
        if isinstance(segment, str):
            return self.at((segment, None, *(key for key in self.suffixes if key.overlaps_literal(segment))))
        suffix = segment.suffix
        keys = [key for key in self.suffixes if suffix.endswith(key.suffix)]
        if partly:
            keys += [key for key in self.suffixes if len(key.suffix) > len(suffix) and key.suffix.endswith(suffix)]
            literals = (key for key in self.children if isinstance(key, str) and segment.overlaps_literal(key))
            return self.at((None, *keys, *literals))
        return self.at((None, *keys))

    def at(self, keys: Iterable[Segment]) -> list[_PathTree]:
        """The children with these keys, where there are any."""
        children = self.children
        return [children[key] for key in keys if key in children]


def _lower(segment: Segment) -> Segment:
    if isinstance(segment, SuffixedCapture):
        return SuffixedCapture(segment.suffix.casefold())
    return segment and segment.casefold()


def _open_at(path: PathPattern) -> int:
    found = -1 << len(path.segments)
    for index, segment in enumerate(path.segments):
        if not isinstance(segment, str) or isinstance(segment, Folded):
            found |= 1 << index
    return found


def _places(rule: RuleSettings) -> Iterator[_Place]:
    for number, path in enumerate(rule.match.path_patterns):
        for host in rule.match.hosts or (None,):
            for method in rule.match.methods or (None,):
                yield _Place(host, method, path, number)


def _host_includes(one: HostPattern | None, other: HostPattern) -> bool:
    """Whether ``one`` matches every host that ``other`` matches; None matches any host."""
    return one is None or one.includes(other)


class OrderedRules:
    """Rules in file order, with what several comparisons need of them."""

    def __init__(self, rules: Sequence[RuleSettings]) -> None:
        self.rules = rules
        self._sets = MatchSets(rules)

    @cached_property
    def tree(self) -> _PathTree:
        """The paths of all rules."""
        tree = _PathTree()
        for number, rule in enumerate(self.rules):
            tree.add(number, rule)
        return tree

    @cached_property
    def hiding(self) -> list[dict[int, set[int] | None]]:
        """For each path of each rule, the earlier rules that together decide all of it; None where they do not."""
        earlier, found = _PathTree(), []
        for number, rule in enumerate(self.rules):
            found.append(hiding := self._hiding(rule, earlier))
            earlier.add(number, rule, apart_from=[path for path, numbers in hiding.items() if numbers is not None])
        return found

    def _hiding(self, rule: RuleSettings, earlier: _PathTree) -> dict[int, set[int] | None]:
        hiding: dict[int, set[int] | None] = {}
        for place in _places(rule):
            known = hiding.get(place.number, set())
            entries = [] if known is None else earlier.near(place.path, self.including(place, rule))
            covered = None if known is None else covering(place.path, [entry.path for entry in entries])
            if covered is None or known is None:
                hiding[place.number] = None
            else:
                hiding[place.number] = known | {entries[index].rule for index in covered}
        return hiding

    def including(self, place: _Place, rule: RuleSettings) -> int:
        """The rules that apply to every request that ``rule`` applies to at a place, paths aside."""
        return self._sets.including(place.host, place.method, rule.match)

    def overlapping(self, place: _Place, rule: RuleSettings) -> int:
        """The rules that apply to some request that ``rule`` applies to at a place, paths aside."""
        return self._sets.overlapping(place.host, place.method, rule.match)


# Rules that no request reaches.


def unreachable(ordered: OrderedRules) -> Iterator[Problem]:
    """Rules, or paths of rules, that earlier rules hide."""
    for number, hiding in enumerate(ordered.hiding):
        yield from _unreachable(("rules", number), ordered.rules, hiding)


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
    host: HostPattern, within: PathPattern, apart_from: Sequence[PathPattern], ordered: OrderedRules
) -> Iterator[tuple[int, RuleSettings]]:
    """The rules that decide some requests for a path within one pattern, but apart from others; with their indexes.

    ``within`` has literal segments only. Rules that only a policy selects are left out.
    """
    earlier = _PathTree()
    for number, rule in enumerate(ordered.rules):
        if rule.policy or not any(_host_includes(each, host) for each in rule.match.hosts or (None,)):
            continue
        shared = [path for path in rule.match.path_patterns if overlap(within, path)]
        places = [
            _Place(host, method, common(within, path), 0) for path in shared for method in rule.match.methods or (None,)
        ]
        if not all(_is_decided(place, rule, ordered, earlier, apart_from) for place in places):
            yield number, rule
        earlier.add(number, rule)


def _is_decided(
    place: _Place, rule: RuleSettings, ordered: OrderedRules, earlier: _PathTree, apart_from: Sequence[PathPattern]
) -> bool:
    before = (entry.path for entry in earlier.near(place.path, ordered.including(place, rule)))
    return covering(place.path, [*apart_from, *before]) is not None


# MCP messages of older revisions, which no rule with match.mcp decides.


def older_mcp_revisions(ordered: OrderedRules, strictness: Strictness) -> Iterator[Problem]:
    """Rules with ``match.mcp`` whose messages a later, laxer rule decides if the client names an older revision."""
    later = _PathTree()
    for number, rule in reversed(list(enumerate(ordered.rules))):
        if rule.match.mcp is None:
            later.add(number, rule)
            continue
        places = _places(rule) if rule.access == "token" else ()
        laxer = (_first_laxer(place, rule, ordered, strictness, later) for place in places)
        if (name := next(filter(None, laxer), None)) is not None:
            text = (
                f"rule {name} decides these messages if MCP-Protocol-Version is missing or older than 2026-07-28, and "
                "does not require all that this rule requires: add match.mcp: {methods: ['*']} to "
                f"rule {name}, or require as much there"
            )
            yield Problem(("rules", number, "match", "mcp"), text)


def _first_laxer(
    place: _Place, rule: RuleSettings, ordered: OrderedRules, strictness: Strictness, later: _PathTree
) -> str | None:
    """The name of the first later rule that requires less, up to one that decides the whole path."""
    rules, including = ordered.rules, ordered.including(place, rule)
    for entry in later.near(place.path, ordered.overlapping(place, rule), partly=True):
        if overlap(entry.path, place.path):
            if not strictness.requires_as_much(rules[entry.rule], rule):
                return rules[entry.rule].name
            if including >> entry.rule & 1 and covering(place.path, [entry.path]) is not None:
                return None
    return None


# Custom verbs, such as /v1/items/{id}:purge, that the rule of the item decides.


def verbs_of_items(ordered: OrderedRules, strictness: Strictness) -> Iterator[Problem]:
    """Paths with a suffix of which an earlier, laxer rule decides some requests, because its ``{id}`` takes any."""
    rules = ordered.rules
    earlier = _PathTree()
    for number, rule in enumerate(rules):
        is_strict = rule.access == "token" and not rule.policy
        reported: set[tuple[int, int]] = set()
        for place in _places(rule) if is_strict and any(path.has_suffixes for path in rule.match.path_patterns) else ():
            if not place.path.has_suffixes or ordered.hiding[number][place.number] is not None:
                continue
            for entry in earlier.near(place.path, ordered.overlapping(place, rule), partly=True):
                if (
                    (place.number, entry.rule) not in reported
                    and _takes_any_suffix(entry.path, place.path)
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


def decoded_slashes(ordered: OrderedRules, strictness: Strictness) -> Iterator[Problem]:
    """Rules with ``encoded_slash`` whose paths, once decoded, are those of a stricter rule after them or any before."""
    for number, rule in enumerate(ordered.rules):
        if not rule.match.encoded_slash:
            continue
        stricter = (_stricter_once_decoded(place, number, ordered, strictness) for place in _places(rule))
        if (name := next(filter(None, stricter), None)) is not None:
            text = (
                f"an upstream that decodes %2F treats some of these paths as those of rule {name}, which comes later "
                f"and requires more: move rule {name} before this one, which denies these paths, or require as much "
                "here"
            )
            yield Problem(("rules", number, "match", "encoded_slash"), text)
        denying = (_denies_once_decoded(place, number, ordered) for place in _places(rule))
        if (name := next(filter(None, denying), None)) is not None:
            text = (
                f"has no effect for some of these paths, since rule {name} comes first and matches them once %2F is "
                "decoded, so they are denied: move this rule up"
            )
            yield Problem(("rules", number, "match", "encoded_slash"), text)


def _denies_once_decoded(place: _Place, number: int, ordered: OrderedRules) -> str | None:
    """The first rule before one with ``encoded_slash`` that matches all paths with one slash in some ``{name}``."""
    path, rules = place.path, ordered.rules
    including = ordered.including(place, rules[number])
    for index in path.captures.values():
        decoded = path._replace(segments=(*path.segments[:index], None, *path.segments[index:]))
        for entry in ordered.tree.near(decoded, including):
            if entry.rule >= number:
                break
            is_hidden = covering(path, [entry.path]) is not None  # which is a warning of ``unreachable``
            if not is_hidden and covering(decoded, [entry.path]):
                return rules[entry.rule].name
    return None


def _stricter_once_decoded(place: _Place, number: int, ordered: OrderedRules, strictness: Strictness) -> str | None:
    """The first rule that decides a decoded path and requires more than the rule of the encoded one."""
    first = min(place.path.captures.values(), default=None)
    if first is None:
        return None
    rules, including = ordered.rules, ordered.including(place, ordered.rules[number])
    decoded = place.path._replace(segments=(*place.path.segments[:first], None), is_prefix=True)
    for entry in ordered.tree.near(decoded, ordered.overlapping(place, rules[number]), partly=True):
        if (
            entry.rule > number
            and decodes_into(place.path, entry.path)
            and not strictness.requires_as_much(rules[number], rules[entry.rule])
        ):
            return rules[entry.rule].name
        if entry.path.is_prefix and including >> entry.rule & 1 and covering(decoded, [entry.path]) is not None:
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


def bypasses(ordered: OrderedRules, strictness: Strictness) -> Iterator[Problem]:
    """Paths of a rule, another spelling of which a ``{name}`` or ``/**`` of a laxer rule matches."""
    for number, rule in enumerate(ordered.rules):
        reported: set[tuple[str, str]] = set()
        for place in () if rule.policy or rule.access != "token" else _places(rule):
            if ordered.hiding[number][place.number] is not None:  # a warning of ``unreachable``
                continue
            for variant, laxer in _laxer_rules(place, number, ordered, strictness):
                if (laxer, variant.reader) in reported:
                    continue
                reported.add((laxer, variant.reader))
                text = (
                    f"an upstream that {variant.reader} treats {variant.example} as this path, but rule {laxer} "
                    f"decides it and does not require all that this rule requires: {variant.remedy}"
                )
                yield Problem(("rules", number, "match", "paths", place.number), text)


def _laxer_rules(
    place: _Place, number: int, ordered: OrderedRules, strictness: Strictness
) -> Iterator[tuple[_Variant, str]]:
    """The variants of a path that a laxer rule decides, each with the name of the first such rule."""
    if variants := list(_case_variants(place.path)):
        neighbors = _Neighbors(place, place.path, number, ordered, strictness)
        for variant in variants:
            if (laxer := neighbors.laxer_rule(variant)) is not None:
                yield variant, laxer
    for variant in _slash_variants(place.path):
        neighbors = _Neighbors(place, variant.path, number, ordered, strictness)
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
        self, place: _Place, path: PathPattern, number: int, ordered: OrderedRules, strictness: Strictness
    ) -> None:
        self._place, self._number = place, number
        self._rules, self._strictness = ordered.rules, strictness
        rule = ordered.rules[number]
        including = {id(entry): entry for entry in ordered.tree.near(path, ordered.including(place, rule))}
        self._own = [entry.path for entry in including.values() if entry.rule == number]
        overlapping = ordered.tree.near(path, ordered.overlapping(place, rule), partly=True)
        self._entries = [entry for entry in overlapping if entry.rule != number]
        self._deciding = [(index, entry.path) for index, entry in enumerate(self._entries) if id(entry) in including]
        self._is_laxer: dict[int, bool] = {}  # by index of an entry
        self._is_as_strict: dict[int, bool] = {}  # by number of a rule

    def laxer_rule(self, variant: _Variant) -> str | None:
        """The first rule that decides some of a variant and requires less than the rule whose variant it is."""
        if covering(variant.path, [path for path in self._own if _may_take(path, variant)]) is not None:
            return None  # one of the rule's own paths, in file order
        for index, entry in enumerate(self._entries):
            if (
                (variant.folded is None or entry.open_at >> variant.folded & 1)
                and self._compare(index, entry)
                and _may_take(entry.path, variant)
                and _is_broad(entry.path, variant)
                and overlap(entry.path, variant.path)
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
            self._is_laxer[index] = not decides_both and not self._requires_as_much(entry.rule)
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
