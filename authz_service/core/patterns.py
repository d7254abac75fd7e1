"""Path patterns: literal segments, ``{name}`` for exactly one non-empty segment, a final ``/**`` for any rest.

Law: pure. A pattern is written decoded (``/café``, not ``/caf%C3%A9``), since it is compared with decoded segments. A
pattern that no accepted path could ever match is an error, not a rule that sleeps. A segment with ``;`` matches a
literal alone: an upstream that cuts parameters off would take ``/admin;x`` for ``/admin``, beside which ``/{name}``
stands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.errors import shown
from authz_service.core.paths import MAX_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
EVERY_PATH = "/**"
PARAMETERS = ";"  # what begins a segment's parameters
_NEVER_IN_A_PATH = re.compile("[\x00-\x20\x7f-\x9f\\\\#?%]")


class Folded(str):
    """A literal segment that matches in any case, as ``str.casefold`` writes it."""

    __slots__ = ()


Segment = str | None  # a string to equal, or Folded; None for a capture


def fits(wanted: Segment, segment: str) -> bool:
    """Whether a decoded segment of a path is one that a pattern's segment stands for."""
    if wanted is None:
        return bool(segment) and PARAMETERS not in segment
    return wanted == (segment.casefold() if isinstance(wanted, Folded) else segment)


class PathPattern(NamedTuple):
    """A pattern, compiled. The names of captures stand in ``captures``."""

    segments: tuple[Segment, ...]
    rest: bool  # a final /**: whatever follows, also nothing
    captures: dict[str, int]  # name of a capture: its place in ``segments``

    def matches(self, path: Sequence[str]) -> bool:
        """Whether the pattern stands for a path of these decoded segments."""
        if len(path) < len(self.segments) or (len(path) > len(self.segments) and not self.rest):
            return False
        if self.rest and PARAMETERS in path[-1]:
            return False
        return all(fits(wanted, segment) for wanted, segment in zip(self.segments, path, strict=False))


def parse_pattern(pattern: str, *, case_insensitive: bool = False) -> PathPattern:
    """Read a path pattern of the configuration. ``case_insensitive`` is for its literal segments.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"{shown(pattern)} must start with /")
    rest = pattern.endswith("/**")
    texts = pattern.removesuffix("/**").split("/")[1:] if rest else pattern[1:].split("/")
    segments: list[Segment] = []
    captures: dict[str, int] = {}
    for place, text in enumerate(texts):
        capture = CAPTURE.fullmatch(text)
        if capture:
            if capture[1] in captures:
                raise ValueError(f"{shown(pattern)} captures {{{capture[1]}}} twice: give each capture its own name")
            captures[capture[1]] = place
            segments.append(None)
        else:
            _require_literal(pattern, text, last=place == len(texts) - 1 and not rest)
            has_case = text.upper() != text.lower()
            segments.append(Folded(text.casefold()) if case_insensitive and has_case else text)
    if sum(len(CAPTURE.sub("x", text)) + len("/") for text in texts) > MAX_PATH:
        raise ValueError(f"{shown(pattern)} is longer than any accepted path, which has at most {MAX_PATH} characters")
    return PathPattern(tuple(segments), rest, captures)


def _require_literal(pattern: str, text: str, *, last: bool) -> None:
    if not text and not last:
        raise ValueError(f"{shown(pattern)} has an empty segment, which no accepted path has: write a single /")
    if "*" in text:
        raise ValueError(f"{shown(pattern)}: * stands only in a final /**; write {{name}} for exactly one segment")
    if "{" in text or "}" in text:
        raise ValueError(
            f"{shown(pattern)}: {{name}} stands for a whole segment, and its name is letters, digits and _"
        )
    if _NEVER_IN_A_PATH.search(text):
        raise ValueError(
            f"{shown(pattern)} holds a character that no decoded path has; write the pattern decoded, no query"
        )
    if text.partition(";")[0] in {".", ".."} or (";" in text and not last):
        raise ValueError(
            f"{shown(pattern)} has a dot segment or ;parameters before the end, which no accepted path has"
        )
