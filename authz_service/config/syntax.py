"""Explains why a string is not YAML.

Owns the messages about syntax. A parser finds that a string is not YAML, and where it stops; its explanation depends
on the parser and its version. So only the place is taken from it, and the message comes from the string there: the
character, what is open, and what came last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.layout import BREAKS, MAX_KEY_LENGTH, Token, line_of, scan

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN_ESCAPE = "unknown escape after the backslash: write \\\\ for a backslash, or use single quotes"
_CLOSING = {"[": "]", "{": "}"}
_ESCAPED = {"'": "''", '"': '\\"'}  # a quote within a string in such quotes
_BEGINS = {"*": "an alias", "&": "an anchor", "!": "a tag"}
_BLANKS = f" \t{BREAKS}"
_MARKERS = ("---", "...")
_FALLBACK = "unexpected from here on: check the indentation, and quotes that end too early"
_ESCAPE_PREFIX = 2  # characters before the digits of an escape: a backslash and a letter


class Fault(NamedTuple):
    """The problem on a line, with the remedy."""

    line: int
    text: str


def fault(text: str, place: int) -> Fault:
    """The fault of a string in which a parser stopped at a place."""
    stop = _Stop(text, place)
    found = next((found for rule in _RULES if (found := rule(stop))), _FALLBACK)
    return found if isinstance(found, Fault) else Fault(stop.line, found)


class _Stop:
    """The surroundings of the place where a parser stopped."""

    def __init__(self, text: str, place: int) -> None:
        layout = scan(text, place)
        self.text = text
        self.at = place
        self.at_end = not text[place:].strip(_BLANKS)
        self.char = "" if self.at_end else text[place]
        self.line_start = self.start_of_line(place)
        self.last = layout.last or Token("marker", 0, 0)
        self.quote, self.key, self.blocks = layout.quote, layout.key, layout.blocks
        self.bracket = layout.brackets[-1] if layout.brackets else None
        self.line = line_of(text, self.last.end if self.at_end else place)

    def fault_at(self, place: int, text: str) -> Fault:
        """A fault at another place than where the parser stopped."""
        return Fault(line_of(self.text, place), text)

    def start_of_line(self, place: int) -> int:
        """The start of the line of a place."""
        return max(self.text.rfind(line_break, 0, place) for line_break in BREAKS) + 1

    def is_indicator(self, indicator: str) -> bool:
        """Whether this dash, question mark or colon is here and is an indicator."""
        return self.char == indicator and self.text[self.at + 1 : self.at + 2] in {"", *_BLANKS}

    @property
    def is_marker(self) -> bool:
        """Whether a document separator begins here."""
        return self.at == self.line_start and self.text.startswith(_MARKERS, self.at)

    @property
    def is_first(self) -> bool:
        """Whether the line is blank before this place."""
        return not self.text[self.line_start : self.at].strip(_BLANKS)

    def is_on_line(self, place: int) -> bool:
        """Whether an earlier place is on the same line."""
        return self.line_start <= place


def _in_quotes(stop: _Stop) -> str | Fault | None:
    if stop.quote is None:
        return None
    quote = stop.text[stop.quote]
    escape = stop.text.rfind("\\", stop.quote, stop.at + 1)
    escaped = stop.text[escape + 1 :].strip(BREAKS) and stop.at - escape <= _ESCAPE_PREFIX
    if quote == '"' and escape >= 0 and escaped and not stop.is_marker:
        return UNKNOWN_ESCAPE
    return stop.fault_at(stop.quote, f"the string that begins with {quote} here is not closed: add the closing {quote}")


def _tab(stop: _Stop) -> str | None:
    indented_by_tab = stop.is_first and "\t" in stop.text[stop.line_start : stop.at]
    return "a tab is used where YAML allows only spaces: write spaces" if stop.char == "\t" or indented_by_tab else None


def _directive_or_marker(stop: _Stop) -> str | Fault | None:
    last, written = stop.last, stop.text[stop.last.start : stop.last.end]
    if last.kind == "directive" or (stop.char == "%" and stop.at == stop.line_start):
        place = last.start if last.kind == "directive" else stop.at
        return stop.fault_at(
            place, "a line that begins with % is a YAML directive: remove it, or put the key in quotes"
        )
    if written == "...":
        return stop.fault_at(last.start, "the document ends at this ..., but more follows: remove the ...")
    if stop.text.startswith("--- ", stop.line_start) and not stop.is_first:
        return "a mapping or list cannot begin on the line of ---: begin it on the next line"
    return None


def _reserved(stop: _Stop) -> str | None:
    if stop.char and stop.char in "@`%":
        return f"a plain string cannot begin with {stop.char}: put it in quotes"
    return None


def _alias_anchor_or_tag(stop: _Stop) -> str | None:
    last, written = stop.last, stop.text[stop.last.start : stop.last.end]
    begins = ""
    if last.kind == "property":
        incomplete = written in {"*", "&"} or written.startswith("!<")
        continued = stop.char.strip(_BLANKS) and (
            last.end == stop.at or (written[0] == "*" and stop.is_on_line(last.end))
        )
        begins = written[0] if incomplete or continued else ""
    if not begins and stop.char in _BEGINS and last.kind not in {"quoted", "close"}:
        begins = stop.char
    return begins and f"{begins} begins {_BEGINS[begins]}: put a string that begins with {begins} in quotes"


def _in_brackets(stop: _Stop) -> str | Fault | None:
    if stop.bracket is None:
        return None
    opening = stop.text[stop.bracket]
    closing, line = _CLOSING[opening], line_of(stop.text, stop.bracket)
    if stop.at_end or stop.is_marker:
        return Fault(line, f"the {opening} that opens here is not closed: add the closing {closing}")
    if stop.char in _CLOSING.values() and stop.char != closing:
        return f"{stop.char} cannot close the {opening} of line {line}: write {closing}"
    if stop.char == ",":
        return "there is no item before the comma: remove it, or put a string that contains a comma in quotes"
    if stop.is_indicator("-"):
        return "a list in brackets takes no dashes: separate its items with commas"
    return (
        f"expected a comma, or the {closing} for the {opening} of line {line}: add it, "
        "or put a string that contains : { } [ ] or , in quotes"
    )


def _closes_nothing(stop: _Stop) -> str | None:
    if stop.char and stop.char in "]}":
        return f"{stop.char} closes nothing: remove it, or put the string in quotes"
    return None


def _after_value(stop: _Stop) -> str | None:
    last = stop.last
    if stop.at_end or last.kind not in {"quoted", "close"} or not stop.is_on_line(last.end) or stop.char == ":":
        return None
    sign, line = stop.text[last.start], line_of(stop.text, last.start)
    if last.kind == "close":
        return f"something follows the closing {sign}: remove it, or put the whole string in quotes"
    return (
        f"something follows the closing {sign} of the string that begins on line {line}: write {_ESCAPED[sign]} for a "
        f"{sign} inside it, or add the {sign} that is missing"
    )


def _in_head_of_block_scalar(stop: _Stop) -> str | None:
    last = stop.last
    if last.kind != "block" or last.end != stop.at:
        return None
    sign = stop.text[last.start]
    return f"{sign} begins a string on the next lines: move it there, or put a string that begins with {sign} in quotes"


def _no_colon(stop: _Stop) -> Fault | None:
    key = stop.key
    if key is None or (stop.is_on_line(key) and not stop.at_end):
        return None
    if stop.blocks and stop.blocks[-1].column != key - stop.start_of_line(key):
        return None  # an item or a value, which needs no colon
    return stop.fault_at(key, "expected a colon and a space after the key: write key: value")


def _colon(stop: _Stop) -> str | None:
    if stop.char != ":":
        return None
    if stop.key is not None and stop.at - stop.key > MAX_KEY_LENGTH:
        return f"the key is longer than {MAX_KEY_LENGTH} characters: shorten it"
    if stop.last.kind == "plain" and not stop.is_on_line(stop.last.start):
        return (
            "the line continues the string above it, but contains a colon: align it with the key above, "
            "or put the string in quotes"
        )
    if stop.is_first:
        return "expected a key before the colon: write key: value"
    return "unexpected colon: put a string that contains a colon in quotes, and write one key per line"


def _misplaced(stop: _Stop) -> str | None:
    if stop.char == ",":
        return "a plain string cannot begin with a comma: put it in quotes"
    if stop.is_indicator("-") and not stop.is_first:
        return "a list cannot begin on the line of its key: write each item on a line of its own, or all in brackets"
    if stop.is_indicator("?") and not stop.is_first:
        return "a plain string cannot begin with a question mark and a space: put it in quotes"
    return None


def _indentation(stop: _Stop) -> str | None:
    if stop.at_end or not stop.is_first:
        return None
    column = stop.at - stop.line_start
    beside = next(("items" if block.kind == "dash" else "keys" for block in stop.blocks if block.column == column), "")
    match beside, stop.is_indicator("-"):
        case "items", False:
            return "the line is aligned with list items but is not one: begin it with a dash, or change its indentation"
        case "keys", True:
            return "a list item is aligned with keys: indent it deeper than the key of its list"
        case "keys", False:
            return "the line is aligned with keys but has none: write key: value, or change its indentation"
        case "", _:
            return "the indentation matches no line above: align the line with the keys or items that it belongs to"
    return None


# In this order: what the place alone proves precedes what its surroundings suggest.
_RULES: tuple[Callable[[_Stop], str | Fault | None], ...] = (
    _in_quotes,
    _tab,
    _directive_or_marker,
    _reserved,
    _alias_anchor_or_tag,
    _in_brackets,
    _closes_nothing,
    _after_value,
    _in_head_of_block_scalar,
    _no_colon,
    _colon,
    _misplaced,
    _indentation,
)
