"""Path patterns: literal segments, ``{name}`` for exactly one non-empty segment, a final ``/**`` for any rest.

Law: pure. A pattern is written decoded (``/café``, not ``/caf%C3%A9``), since it is compared with decoded segments. A
pattern that no accepted path could ever match is an error, not a rule that sleeps.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NEVER_IN_A_PATH = re.compile("[\x00-\x20\x7f-\x9f\\\\#?%]")


class PathPattern(NamedTuple):
    """A pattern, compiled. A segment is a text to equal, or None for a capture, whose name stands in ``captures``."""

    segments: tuple[str | None, ...]
    rest: bool  # a final /**: whatever follows, also nothing
    captures: dict[str, int]  # name of a capture: its place in ``segments``

    def matches(self, path: Sequence[str]) -> bool:
        """Whether the pattern stands for a path of these decoded segments."""
        if len(path) < len(self.segments) or (len(path) > len(self.segments) and not self.rest):
            return False
        pairs = zip(self.segments, path, strict=False)
        return all(segment == wanted if wanted is not None else segment for wanted, segment in pairs)


def parse_pattern(pattern: str) -> PathPattern:
    """Read a path pattern of the configuration.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"{pattern!r} must start with /")
    rest = pattern.endswith("/**")
    texts = pattern.removesuffix("/**").split("/")[1:] if rest else pattern[1:].split("/")
    segments: list[str | None] = []
    captures: dict[str, int] = {}
    for place, text in enumerate(texts):
        capture = CAPTURE.fullmatch(text)
        if capture:
            if capture[1] in captures:
                raise ValueError(f"{pattern!r} captures {{{capture[1]}}} twice: give each capture its own name")
            captures[capture[1]] = place
            segments.append(None)
        else:
            _require_literal(pattern, text, last=place == len(texts) - 1 and not rest)
            segments.append(text)
    return PathPattern(tuple(segments), rest, captures)


def _require_literal(pattern: str, text: str, *, last: bool) -> None:
    if not text and not last:
        raise ValueError(f"{pattern!r} has an empty segment, which no accepted path has: write a single /")
    if "*" in text:
        raise ValueError(f"{pattern!r}: * stands only in a final /**; write {{name}} for exactly one segment")
    if "{" in text or "}" in text:
        raise ValueError(f"{pattern!r}: {{name}} stands for a whole segment, and its name is letters, digits and _")
    if _NEVER_IN_A_PATH.search(text):
        raise ValueError(f"{pattern!r} holds a character that no decoded path has; write the pattern decoded, no query")
    if text.partition(";")[0] in {".", ".."} or (";" in text and not last):
        raise ValueError(f"{pattern!r} has a dot segment or ;parameters before the end, which no accepted path has")
