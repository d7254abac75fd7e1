"""Path and host patterns: parsing them, matching requests with them, and comparing them with each other.

Pure. A path pattern consists of literal segments, ``{name}`` for exactly one non-empty segment, ``{name}:purge`` for
one that ends in a literal suffix, and optionally a final ``/**`` for any number of further segments, including none. It
is written decoded (``/café``, not ``/caf%C3%A9``), since it is compared with decoded segments.

Invariants:

* A pattern that no accepted path or host can match is an error, not a rule that never applies.
* Only a literal matches a segment with ``;``. An upstream that strips parameters reads ``/admin;x`` as ``/admin``, so
  ``/{name}`` must not match it where a rule for ``/admin`` exists.
* A host that is not plainly one name or address is not a host. If any rule names hosts, such a request matches no rule,
  since the upstream may read it as a host that a rule protects.
* Comparisons are exact over the paths that ``core.paths`` accepts: only the last segment may be empty.

Regular expressions that few configurations or requests need are strings, which ``re`` compiles at first use and caches.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.errors import shown
from authz_service.core.paths import MAX_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
PARAMETERS = ";"  # separates a segment from its parameters
_NEVER_IN_A_PATH = re.compile("[\x00-\x20\x7f-\x9f\\\\#?%]")

# Anchors, classes, repetitions, alternatives and groups, as far as they are unlikely in a path.
_REGULAR_EXPRESSION = r"""(?x)
    ^\^ | \$$ | \\[./dsw] | \.[*+] | \([^()/]*\| | \(\? | \[\^ | \[[^]/]*-[^]/]*\] | [])][*+?{]"""
_FRAMEWORK_PARAMETER = r"/:([A-Za-z_]\w*)(?=/|$)|/<(?:\w+:)?([A-Za-z_]\w*)>(?=/|$)"

# A registered name or an address as Envoy passes it on: with an optional port and an optional trailing dot.
_HOST = re.compile(r"((?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\])\.?(?::[0-9]{0,5})?")
_HOST_NAME = r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\]"
_MAX_HOST_NAME = 253  # bytes (RFC 1035)
_MAX_HOST = _MAX_HOST_NAME + len(".:65535")


class Folded(str):
    """A literal segment that matches in any case, in the form that ``str.casefold`` returns."""

    __slots__ = ()


class SuffixedCapture(NamedTuple):
    """A ``{name}`` with a literal suffix, such as ``{id}:purge``. A ``Folded`` suffix matches in any case."""

    suffix: str

    def end(self, segment: str) -> int:
        """Where the captured text ends, which is not empty; 0 if the segment does not match."""
        start = len(segment)
        if isinstance(self.suffix, Folded):
            missing = len(self.suffix)
            while missing > 0 and start:
                start -= 1
                missing -= len(segment[start].casefold())
            matches = segment[start:].casefold() == self.suffix
        else:
            start -= len(self.suffix)
            matches = segment.endswith(self.suffix)
        return start if matches and PARAMETERS not in segment else 0

    def overlaps(self, other: SuffixedCapture) -> bool:
        """Whether some segment matches both."""
        one, two = _comparable(self.suffix, other.suffix)
        return one.endswith(two) or two.endswith(one)

    def overlaps_literal(self, literal: str) -> bool:
        """Whether this matches a literal segment in one of its spellings."""
        suffix, segment = _comparable(self.suffix, literal)
        return len(segment) > len(suffix) and segment.endswith(suffix) and PARAMETERS not in segment


def _comparable(one: str, other: str) -> tuple[str, str]:
    """Two literals as they are compared: in any case if either of them is folded."""
    if isinstance(one, Folded) or isinstance(other, Folded):
        return one.casefold(), other.casefold()
    return one, other


def has_case(text: str) -> bool:
    """Whether a string has a spelling in another case."""
    return text.upper() != text.lower()


Segment = str | SuffixedCapture | None  # a literal, possibly Folded; a capture with a suffix; None for a plain capture


def segment_matches(pattern: Segment, segment: str) -> bool:
    """Whether one segment of a pattern matches a decoded segment of a path."""
    if pattern is None:
        return bool(segment) and PARAMETERS not in segment
    if isinstance(pattern, Folded):
        return pattern == segment.casefold()
    return pattern == segment or (isinstance(pattern, SuffixedCapture) and pattern.end(segment) > 0)


class PathPattern(NamedTuple):
    """A parsed path pattern."""

    text: str  # as written
    segments: tuple[Segment, ...]
    is_prefix: bool  # ends in /**
    captures: dict[str, int]  # name of a capture: its index in ``segments``
    has_suffixes: bool  # whether any capture has a literal suffix

    def __str__(self) -> str:
        return self.text

    def matches(self, path: Sequence[str]) -> bool:
        """Whether the pattern matches a path with these decoded segments."""
        if len(path) < len(self.segments) or (len(path) > len(self.segments) and not self.is_prefix):
            return False
        if self.is_prefix and PARAMETERS in path[-1]:
            return False
        return all(segment_matches(ours, segment) for ours, segment in zip(self.segments, path, strict=False))

    def captured(self, path: Sequence[str]) -> dict[str, str]:
        """The text that each ``{name}`` matched in a path that the pattern matches."""
        if self.has_suffixes:
            return {name: _captured(self.segments[index], path[index]) for name, index in self.captures.items()}
        return {name: path[index] for name, index in self.captures.items()}

    def captured_place(self, name: str) -> tuple[int, Segment]:
        """Which text of a path a ``{name}`` captures: that of a segment, perhaps without a suffix."""
        index = self.captures[name]
        return index, self.segments[index]

    def folded(self) -> PathPattern:
        """The same pattern, with literals that match in any case."""
        return self._replace(segments=tuple(map(folded, self.segments)))


def _captured(capture: Segment, segment: str) -> str:
    return segment[: capture.end(segment)] if isinstance(capture, SuffixedCapture) else segment


def folded(segment: Segment) -> Segment:
    """The same segment, with a literal that matches in any case."""
    if segment is None:
        return None
    if isinstance(segment, SuffixedCapture):
        return SuffixedCapture(_folded_literal(segment.suffix))
    return _folded_literal(segment)


def _folded_literal(literal: str) -> str:
    return Folded(literal.casefold()) if has_case(literal) else literal


def foreign_syntax(text: str) -> str | None:
    """What a path pattern looks like, with the remedy, if it is in another language; None if not."""
    if re.search(_REGULAR_EXPRESSION, text):
        return (
            "looks like a regular expression, whose characters are literal here: write {name} for one segment, a final "
            "/** for any number of them, and each alternative as a path of its own"
        )
    parameter = re.search(_FRAMEWORK_PARAMETER, text)
    if parameter is not None:
        name = parameter[1] or parameter[2]
        return f"has {parameter[0][1:]}, which is literal here: write {{{name}}} for exactly one segment"
    return None


def parse_path_pattern(text: str) -> PathPattern:
    """Parse a path pattern of the configuration.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    try:
        return _parsed(text)
    except ValueError:
        if re.search(_REGULAR_EXPRESSION, text):
            raise ValueError(f"{shown(text)} {foreign_syntax(text)}") from None
        raise


def _parsed(text: str) -> PathPattern:
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} must start with /")
    is_prefix = text.endswith("/**")
    parts = text.removesuffix("/**").split("/")[1:] if is_prefix else text[1:].split("/")
    segments: list[Segment] = []
    captures: dict[str, int] = {}
    for index, part in enumerate(parts):
        capture = CAPTURE.match(part)
        if capture is None:
            _require_literal(text, part, is_last=index == len(parts) - 1 and not is_prefix)
            segments.append(part)
        else:
            if capture[1] in captures:
                raise ValueError(f"{shown(text)} captures {{{capture[1]}}} twice: give each capture its own name")
            captures[capture[1]] = index
            suffix = part[capture.end() :]
            _require_suffix(text, suffix)
            segments.append(SuffixedCapture(suffix) if suffix else None)
    if sum(len(CAPTURE.sub("x", part)) + len("/") for part in parts) > MAX_PATH:
        raise ValueError(f"{shown(text)} is longer than any accepted path, which has at most {MAX_PATH} characters")
    has_suffixes = any(isinstance(segment, SuffixedCapture) for segment in segments)
    return PathPattern(text, tuple(segments), is_prefix, captures, has_suffixes)


def _require_suffix(text: str, suffix: str) -> None:
    _require_decoded_text(text, suffix)
    if PARAMETERS in suffix:
        raise ValueError(f"{shown(text)} has ;parameters after a {{name}}, which no {{name}} matches: remove them")


def _require_literal(text: str, part: str, *, is_last: bool) -> None:
    if not part and not is_last:
        raise ValueError(f"{shown(text)} has an empty segment, which no accepted path has: write a single /")
    _require_decoded_text(text, part)
    if part.partition(PARAMETERS)[0] in {".", ".."} or (PARAMETERS in part and not is_last):
        raise ValueError(
            f"{shown(text)} has a dot segment or ;parameters before its last segment, which no accepted path has"
        )


def _require_decoded_text(text: str, part: str) -> None:
    if "*" in part:
        raise ValueError(f"{shown(text)}: * is allowed only in a final /**: write {{name}} for exactly one segment")
    if "{" in part or "}" in part:
        raise ValueError(
            f"{shown(text)}: {{name}} must be a whole segment, or begin one and be followed by a literal suffix; the "
            "name consists of letters, digits and _"
        )
    if _NEVER_IN_A_PATH.search(part):
        raise ValueError(
            f"{shown(text)} contains a character that no decoded path has: write it decoded, without a query"
        )


EVERY_PATH = parse_path_pattern("/**")


# Hosts.


def normalize_host(host: str) -> str:
    """The host of a request in lower case, without port and trailing dot; empty if it is not plainly a host."""
    if len(host) > _MAX_HOST or not host.isascii():  # some non-ASCII letters have an ASCII lower case
        return ""
    match = _HOST.fullmatch(host.lower())
    return match[1] if match else ""


class HostPattern(NamedTuple):
    """``api.example.com`` matches only itself; ``*.example.org`` one or more labels before ``.example.org``."""

    name: str
    is_wildcard: bool

    def __str__(self) -> str:
        return f"*.{self.name}" if self.is_wildcard else self.name

    def matches(self, host: str) -> bool:
        """Whether the pattern matches a normalized host."""
        return host.endswith(f".{self.name}") and host[0] != "." if self.is_wildcard else host == self.name

    def includes(self, other: HostPattern) -> bool:
        """Whether this pattern matches every host that the other one matches."""
        return self == other or (self.is_wildcard and other.name.endswith(f".{self.name}"))


def parse_host_pattern(text: str) -> HostPattern:
    """Parse a host pattern of the configuration.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    name = text.lower()
    is_wildcard = name.startswith("*.")
    name = name.removeprefix("*.")
    is_name = text.isascii() and len(name) <= _MAX_HOST_NAME and re.fullmatch(_HOST_NAME, name)
    if not is_name or (is_wildcard and name[0] == "["):
        raise ValueError(
            f"{shown(text)} is not a host: write a name such as api.example.com, or *.example.com for any name below "
            "it; without scheme, port or path"
        )
    return HostPattern(name, is_wildcard)


# Containment of path patterns.
#
# Only the hardest paths are tried, those that the fewest other patterns match: whatever covers them covers every path.
# Where a pattern has a capture or its /**, the hardest segment is one that no pattern names. Other patterns match it
# only by a capture or /**, which match a named segment as well. For a capture with a suffix, it is an unnamed text with
# this suffix. For a folded literal, several spellings can be the hardest: /a and /A together cover it.

_UNNAMED = "\x00"  # a non-empty segment that no pattern names: patterns contain no control characters
_MAX_WALKS = 100  # sets of patterns that match the first segments of a path, in all their spellings
_MAX_SPELLINGS = 1000  # of the ends of a literal
CHARACTERS_WITH_CASE = range(0x20000)  # contains all of them, and others
MAX_FOLDED = 3  # characters that str.casefold returns for one character


def covering(pattern: PathPattern, others: Sequence[PathPattern]) -> frozenset[int] | None:
    """Indexes of those ``others`` that together match all that ``pattern`` matches; None if they do not.

    Exact, unless case-sensitive ``others`` distinguish more than ``_MAX_SPELLINGS`` or ``_MAX_WALKS`` spellings of a
    folded pattern: then the result may be None although they match all of them.
    """
    walks = {frozenset(range(len(others)))}
    for place, segment in enumerate(pattern.segments):
        further: set[_Walk] = set()
        for walk in walks:
            theirs = (others[index].segments[place] for index in walk if place < len(others[index].segments))
            spellings = _spellings(_hardest_literal(segment), theirs)
            further.update(_step(place, walk, others, spelling) for spelling in spellings)
            if frozenset() in further or len(further) > _MAX_WALKS:
                return None
        walks = {walk for walk in further if not any(other < walk for other in further)}
    found: set[int] = set()
    for walk in walks:
        for index in _matching(pattern, walk, others):
            if index is None:
                return None
            found.add(index)
    return frozenset(found)


_Walk = frozenset[int]  # indexes of the patterns that match the segments so far


def _step(place: int, walk: _Walk, others: Sequence[PathPattern], segment: str) -> _Walk:
    """The patterns that still match after one more segment."""
    return frozenset(index for index in walk if _matches_at(place, others[index], segment))


def _matches_at(place: int, pattern: PathPattern, segment: str) -> bool:
    if place < len(pattern.segments):
        return segment_matches(pattern.segments[place], segment)
    return pattern.is_prefix and PARAMETERS not in segment


def _matching(pattern: PathPattern, walk: _Walk, others: Sequence[PathPattern]) -> Iterator[int | None]:
    """For the hardest paths after a walk through all segments of ``pattern``, the first match of each, or None.

    If ``pattern`` ends in /**, the last is the first pattern that matches all longer paths, or None.
    """
    place = len(pattern.segments)
    if pattern.segments:
        yield _first_match(place, walk, others)
    while pattern.is_prefix:
        prefixes = frozenset(index for index in walk if others[index].is_prefix)
        if (prefix := _first_match(place, prefixes, others)) is not None:
            yield prefix
            return
        yield _first_match(place + 1, _step(place, walk, others, ""), others)
        walk = _step(place, walk, others, _UNNAMED)
        place += 1
        yield _first_match(place, walk, others)


def _first_match(size: int, walk: _Walk, others: Sequence[PathPattern]) -> int | None:
    """The first pattern of a walk that matches a path which ends here, after this number of segments."""
    return min((index for index in walk if len(others[index].segments) <= size), default=None)


def _hardest_literal(segment: Segment) -> str:
    """A literal for a pattern's segment, with unnamed text where it has a capture."""
    if segment is None:
        return _UNNAMED
    if isinstance(segment, SuffixedCapture):
        return type(segment.suffix)(_UNNAMED + segment.suffix)
    return segment


def _spellings(literal: str, patterns: Iterable[Segment]) -> list[str]:
    """Spellings of a literal, one for each set of these segments of patterns that match the same spelling."""
    if not isinstance(literal, Folded):
        return [literal]
    case_sensitive = (pattern for pattern in patterns if not isinstance(pattern, Folded))
    texts = (pattern.suffix if isinstance(pattern, SuffixedCapture) else pattern for pattern in case_sensitive)
    named = [text for text in texts if text and literal.endswith(text.casefold())]
    found: list[str] = []
    seen: set[tuple[int, tuple[bool, ...]]] = set()
    ends = [("", len(literal))]  # ends of spellings, and how many characters of the literal are before each
    while ends:
        end, size = ends.pop()
        if not size or not any(_continues(text, end) for text in named):
            found.append(literal[:size] + end)
            continue
        for character in _characters_before(literal, size):
            longer, left = character + end, size - len(character.casefold())
            state = left, tuple(_continues(text, longer) or _is_suffix(text, longer) for text in named)
            if state not in seen:
                seen.add(state)
                ends.append((longer, left))
        if len(seen) > _MAX_SPELLINGS:
            return [literal + _UNNAMED]  # only a capture or /** matches it
    return found


def _continues(text: str, end: str) -> bool:
    """Whether a suffix or literal equals the end of a spelling, or ends with it."""
    return text.endswith(end.casefold() if isinstance(text, Folded) else end)


def _is_suffix(text: str, end: str) -> bool:
    return SuffixedCapture(text).end(_UNNAMED + end) > 0


def _characters_before(literal: str, size: int) -> Iterator[str]:
    """The characters that end the first ``size`` characters of a folded literal in one of their spellings."""
    yield literal[size - 1]
    for length in range(1, min(size, MAX_FOLDED) + 1):
        yield from _other_cases().get(literal[size - length : size], ())


@cache
def _other_cases() -> dict[str, list[str]]:
    """The characters that ``str.casefold`` changes, by its result: ``ß`` and ``ẞ`` by ``ss``."""
    found: dict[str, list[str]] = {}
    for character in map(chr, CHARACTERS_WITH_CASE):
        if (folded := character.casefold()) != character:
            found.setdefault(folded, []).append(character)
    return found


def has_parameters(segment: Segment) -> bool:
    """Whether a segment of a pattern matches only segments with parameters."""
    return isinstance(segment, str) and PARAMETERS in segment


def overlap(one: PathPattern, other: PathPattern) -> bool:
    """Whether some path matches both patterns."""
    shorter, longer = (one, other) if len(one.segments) <= len(other.segments) else (other, one)
    if len(shorter.segments) < len(longer.segments) and not shorter.is_prefix:
        return False
    if shorter.is_prefix and longer.segments and has_parameters(longer.segments[-1]):
        return False
    for ours, theirs in zip(shorter.segments, longer.segments, strict=False):
        if ours != theirs and not _segments_overlap(ours, theirs):
            return False
    return True


def common(within: PathPattern, path: PathPattern) -> PathPattern:
    """The paths that match both of two overlapping patterns, of which the first has literal segments only."""
    segments = (*within.segments, *path.segments[len(within.segments) :])
    return PathPattern(path.text, segments, within.is_prefix and path.is_prefix, {}, has_suffixes=path.has_suffixes)


def decodes_into(pattern: PathPattern, other: PathPattern) -> bool:
    """Whether ``other`` matches a path that ``pattern`` matches with encoded slashes in a ``{name}``, once decoded."""
    if not (pattern.is_prefix or other.is_prefix or _segments_overlap(pattern.segments[-1], other.segments[-1])):
        return False  # a slash more or less before them changes nothing
    matched = {(0, False)}  # how many of the other pattern's segments, and whether a {name} has taken several
    for segment in pattern.segments:
        further = set()
        for index, has_slash in matched:
            if isinstance(segment, str):
                further |= {(after, has_slash) for after in _after(other, index, segment)}
                continue
            further |= {(after, has_slash) for after in _after(other, index, segment)}
            for begun in _after_several(other, index):
                further |= {(after, True) for after in _after(other, begun, segment)}
        matched = further
    return any(
        has_slash and (index == len(other.segments) or (pattern.is_prefix and not has_parameters(other.segments[-1])))
        for index, has_slash in matched
    )


def _after(pattern: PathPattern, index: int, segment: Segment) -> Iterator[int]:
    """How many of the pattern's segments have matched after one more segment; none if it does not match."""
    if index == len(pattern.segments):
        if pattern.is_prefix and not has_parameters(segment):
            yield index
    elif _segments_overlap(pattern.segments[index], segment):
        yield index + 1


def _after_several(pattern: PathPattern, index: int) -> Iterator[int]:
    """The same after one or more segments without parameters."""
    for after in _after(pattern, index, None):
        yield after
        if after > index:
            yield from _after_several(pattern, after)


def _segments_overlap(one: Segment, other: Segment) -> bool:
    if one is None or other is None:
        known = other if one is None else one
        return not isinstance(known, str) or (bool(known) and PARAMETERS not in known)
    if isinstance(one, SuffixedCapture):
        return one.overlaps(other) if isinstance(other, SuffixedCapture) else one.overlaps_literal(other)
    if isinstance(other, SuffixedCapture):
        return other.overlaps_literal(one)
    return segment_matches(one, other) or segment_matches(other, one)
