"""Comparing patterns with each other, rather than with samples: what one matches, do others match as well?

Law: pure and exact, over the paths that ``paths`` lets through: segments that are not empty, but for the last one.

One walk is enough. Where a pattern has a capture or its rest, a path may have any segment there, and only others with a
capture or a rest go along with a segment that nobody names; those would go along with a named one too. So the hardest
path is followed, in which such a segment is one that no pattern names, and with it every other path is followed. A
literal in any case is followed likewise, in a spelling that no pattern names exactly; that others name every one of
its spellings is not noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.patterns import PARAMETERS, Folded, fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.hosts import HostPattern
    from authz_service.core.patterns import PathPattern, Segment

    Walk = list[tuple[int, PathPattern, int]]  # which of the others, and how many of its segments were matched

_UNNAMED = "\x00"  # a segment that is not empty and that no pattern names: patterns hold no controls
_EMPTY = ""


def covering(pattern: PathPattern, others: Sequence[PathPattern]) -> frozenset[int] | None:
    """Places of those among ``others`` that together match whatever ``pattern`` matches; None when they do not."""
    walk: Walk = [(place, other, 0) for place, other in enumerate(others)]
    covered_by: set[int] = set()

    def ends_covered(walk: Walk) -> bool:
        first = next((place for place, other, matched in walk if matched == len(other.segments)), None)
        if first is not None:
            covered_by.add(first)
        return first is not None

    for segment in pattern.segments:
        walk = _along(walk, _UNNAMED if segment is None else segment)
    if pattern.segments and not ends_covered(walk):
        return None
    while pattern.rest:
        rests = [place for place, other, matched in walk if other.rest and matched == len(other.segments)]
        if rests:
            covered_by.add(rests[0])
            break
        if not ends_covered(_along(walk, _EMPTY)):
            return None
        walk = _along(walk, _UNNAMED)
        if not ends_covered(walk):
            return None
    return frozenset(covered_by)


def _along(walk: Walk, segment: str) -> Walk:
    """Who goes along with one more segment."""
    further: Walk = []
    for place, other, matched in walk:
        if matched == len(other.segments):
            if other.rest and PARAMETERS not in segment:
                further.append((place, other, matched))
        elif _covers(other.segments[matched], segment):
            further.append((place, other, matched + 1))
    return further


def _covers(wanted: Segment, segment: str) -> bool:
    """Whether a segment of a pattern stands for this one, in all its spellings."""
    if isinstance(segment, Folded) and wanted is not None:
        return isinstance(wanted, Folded) and wanted == segment
    return fits(wanted, segment)


def share_a_path(one: PathPattern, other: PathPattern) -> bool:
    """Whether some path is matched by both."""
    shorter, longer = sorted((one, other), key=lambda pattern: len(pattern.segments))
    if len(shorter.segments) < len(longer.segments) and not shorter.rest:
        return False
    if shorter.rest and longer.segments and PARAMETERS in (longer.segments[-1] or ""):
        return False
    return all(_share(a, b) for a, b in zip(shorter.segments, longer.segments, strict=False))


def _share(one: Segment, other: Segment) -> bool:
    """Whether some segment is one that both stand for."""
    if one is None or other is None:
        return one == other or fits(None, one or other or "")
    return fits(one, other) or fits(other, one)


def host_covers(one: HostPattern | None, other: HostPattern | None) -> bool:
    """Whether every host that ``other`` stands for is one that ``one`` stands for; None stands for all."""
    if one is None or other is None:
        return one is None
    below = one.wildcard and other.name.endswith(f".{one.name}")
    return below or one == other
