"""Scans the layout of a YAML string: what nests in what, and what is still open at a place.

Owns the scan of a string that cannot be read as YAML. The position of a mistake, or of the place at which a document
nests too deeply, must not depend on a parser alone: its limits and messages change with its version.

Recognizes the indicators of YAML 1.1 as libyaml and PyYAML do, but no values. Reports no errors: for a string that is
not YAML, it reports what would be open if the remainder were. Looks at each character a bounded number of times.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_KEY_LENGTH = 1024  # characters of a key without a question mark (YAML 1.1 section 7.3.3)
BREAKS = "\r\n\x85\u2028\u2029"

_ENDS = rf"(?=[ \t{BREAKS}]|\Z)"  # what follows - ? and : as indicators
# A plain string up to the end of its line; within brackets, it also ends at brackets and commas.
_PLAIN = {
    in_brackets: re.compile(rf"(?:[^ \t:{stops}{BREAKS}]++|:(?=[^ \t{stops}{BREAKS}])|[ \t]++(?=[^ \t#{BREAKS}]))++")
    for in_brackets, stops in ((False, ""), (True, r",\[\]{}"))
}
_MARKER = rf"(?<![^{BREAKS}])(?:---|\.\.\.){_ENDS}"
_TOKEN = {
    in_brackets: re.compile(
        rf"""(?P<marker>{_MARKER})
        |(?P<directive>(?<![^{BREAKS}])%[^{BREAKS}]*+)
        |(?P<quoted>'[^']*+'|"(?:[^"\\]++|\\.)*+")
        |(?P<unclosed>['"])
        |(?P<open>[\[{{])
        |(?P<close>[\]}}])
        |(?P<comma>,)
        |(?P<dash>-{_ENDS})
        |(?P<question>\?{ends})
        |(?P<colon>:{ends})
        |(?P<property>[&*][A-Za-z0-9_-]*+|![^ \t,\[\]{{}}{BREAKS}]*+)
        |(?P<block>{block}[^{BREAKS}]*+)""",
        re.VERBOSE | re.DOTALL,
    )
    for in_brackets, ends, block in ((False, _ENDS, "[|>]"), (True, "", "(?!)"))
}
_NO_MARKER = re.compile(rf"(?!{_MARKER})")
_BLANK = re.compile(r"[ \t]*+")
_INDENTATION_INDICATOR = re.compile("[|>][+-]?([1-9])")
_INDENTATION = re.compile(" *+")
_COMMENT = re.compile(rf"#[^{BREAKS}]*+")
_LINE = re.compile(rf"[^{BREAKS}]*+[{BREAKS}]?+")
_LINE_BREAK = re.compile(rf"\r\n|[{BREAKS}]")


class Token(NamedTuple):
    """An indicator or a whole string; for a block scalar, its first line."""

    kind: str  # a group of _TOKEN, or plain
    start: int
    end: int


class Block(NamedTuple):
    """An open block collection: the column of its keys or dashes."""

    column: int
    kind: str  # dash, question or colon: the indicator that began it


class Layout:
    """What is open at the end of the scan."""

    def __init__(self) -> None:
        self.brackets: list[int] = []  # places of the open [ and {
        self.blocks: list[Block] = []
        self.quote: int | None = None  # place of the quote that is not closed
        self.key: int | None = None  # place of what a colon would make a key
        self.last: Token | None = None
        self.too_deep: int | None = None  # place at which the maximum depth is exceeded

    @property
    def levels(self) -> int:
        """The number of open collections that began with a bracket or a column of their own."""
        return len(self.blocks) + len(self.brackets)


def scan(text: str, end: int | None = None, max_levels: int | None = None) -> Layout:
    """Scan a string up to ``end``, or up to the place where it exceeds ``max_levels`` levels."""
    scanner = _Scanner(text, len(text) if end is None else end, max_levels)
    scanner.scan()
    return scanner.layout


def line_of(text: str, place: int) -> int:
    """The line of a place, counted from 1."""
    return sum(1 for _ in _LINE_BREAK.finditer(text, 0, place)) + 1


class _Scanner:
    def __init__(self, text: str, end: int, max_levels: int | None) -> None:
        self.layout = Layout()
        self._text = text
        self._end = end
        self._max_levels = len(text) if max_levels is None else max_levels
        self._line = 0  # start of the line
        self._fresh = True  # whether a key or an item may begin here
        self._running = False  # whether a plain string may continue here

    def scan(self) -> None:
        layout, at = self.layout, self._next(0)
        while at < self._end and layout.quote is None and layout.too_deep is None:
            at = self._next(self._take(at))

    def _next(self, at: int) -> int:
        """The place of the next token, after spaces, comments and line breaks."""
        text, end = self._text, self._end
        while (at := self._past(_BLANK, at)) < end:
            if text[at] == "#":
                self._running = False
                at = self._past(_COMMENT, at)
            elif text[at] in BREAKS:
                at += 1
                self._line = at
                self._fresh |= not self.layout.brackets
            else:
                break
        return at

    def _take(self, at: int) -> int:
        """Take the token that begins here; returns the place after it."""
        layout = self.layout
        layout.last = token = self._continued_string(at) or self._token(at)
        self._running = token.kind == "plain"
        match token.kind:
            case "unclosed":
                layout.quote = at
            case "close" if layout.brackets:
                layout.brackets.pop()
            case "open":
                self._may_be_key(at)
                layout.brackets.append(at)
                self._check_depth(at)
            case _ if layout.brackets:
                pass  # no blocks begin in brackets
            case "marker":
                layout.blocks.clear()
                self._fresh = False
            case "dash" | "question" | "colon":
                self._indicator(token)
            case "quoted" | "property" | "plain":
                self._may_be_key(at)
            case "block":
                return self._past_block_scalar(token)
        return token.end

    def _continued_string(self, at: int) -> Token | None:
        """The whole plain string, if it continues here."""
        text, end, layout = self._text, self._end, self.layout
        in_brackets = bool(layout.brackets)
        if not self._running or layout.last is None or not (in_brackets or at - self._line > self._indentation()):
            return None
        continued = _NO_MARKER.match(text, at, end) and _PLAIN[in_brackets].match(text, at, end)
        if not continued:
            return None
        self._fresh = False
        return Token("plain", layout.last.start, continued.end())

    def _token(self, at: int) -> Token:
        layout = self.layout
        while layout.blocks and layout.blocks[-1].column > at - self._line and not layout.brackets:
            layout.blocks.pop()
        in_brackets = bool(layout.brackets)
        found = _TOKEN[in_brackets].match(self._text, at, self._end)
        if found:
            return Token(str(found.lastgroup), at, found.end())
        return Token("plain", at, self._past(_PLAIN[in_brackets], at))

    def _may_be_key(self, at: int) -> None:
        if self._fresh and not self.layout.brackets:
            self.layout.key = at
        self._fresh = False

    def _indicator(self, token: Token) -> None:
        """Take a dash, question mark or colon, which begins a block unless its column continues one."""
        key = self.layout.key
        if token.kind == "colon" and key is not None and self._line <= key and token.start - key <= MAX_KEY_LENGTH:
            self._begin_block(key, "colon")
        elif self._fresh:
            self._begin_block(token.start, token.kind)
        self.layout.key = None

    def _begin_block(self, at: int, kind: str) -> None:
        if at - self._line > self._indentation():
            self.layout.blocks.append(Block(at - self._line, kind))
            self._check_depth(at)

    def _check_depth(self, at: int) -> None:
        if self.layout.levels > self._max_levels:
            self.layout.too_deep = at

    def _indentation(self) -> int:
        blocks = self.layout.blocks
        return blocks[-1].column if blocks else -1

    def _past_block_scalar(self, head: Token) -> int:
        """The place of the first line after a block scalar: neither blank nor indented as its lines are."""
        text, end, at = self._text, self._end, head.end
        self._fresh, self.layout.key = True, None
        written = _INDENTATION_INDICATOR.match(text, head.start, end)
        least = max(self._indentation() + 1, 1) + (int(written[1]) - 1 if written else 0)
        known = bool(written)  # otherwise the first line that is not blank determines the indentation
        while (at := self._past(_LINE, at)) < end:
            self._line = at
            content = self._past(_INDENTATION, at)
            if content == end or text[content] in BREAKS:
                continue
            if content - at < least:
                break
            least, known = (least if known else content - at), True
        return at

    def _past(self, pattern: re.Pattern[str], at: int) -> int:
        found = pattern.match(self._text, at, self._end)
        return found.end() if found else at
