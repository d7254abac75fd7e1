"""Limits and redacts what a line of the log may contain, and formats it.

Pure. Invariants: a line is ASCII; no string in it is long; whatever looks like a token is redacted.
"""

from __future__ import annotations

import json
import re
import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_STRING = 1024  # characters of any string: longer than any cause or configuration problem
# A JWT, complete or truncated: base64url of {" starts with eyJ. Or whatever follows the scheme and a space, which may
# be escaped as in a URL or in a Python literal; after DPoP, which causes mention, only what is longer than a word. Some
# clients write the scheme twice, and the work stays linear.
_SPACES = r"(?:\s|\+|%20|\\[a-z])+"
_MORE = rf"{_SPACES}(?:(?i:bearer|dpop){_SPACES}){{0,2}}"
_SECRET = re.compile(rf"eyJ[\w.%~+=-]*|(?i:bearer){_MORE}\S+|(?i:dpop){_MORE}\S{{16,}}")
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash


def truncated(string: str, max_length: int) -> str:
    """The string, or its beginning if it is longer."""
    return string if len(string) <= max_length else string[:max_length] + "..."


def is_clean(string: str) -> bool:
    """Whether ``cleaned`` would leave the string as it is, its length apart. False if that takes longer to find out."""
    if not string.isascii() or "eyJ" in string:
        return False
    lowered = string.lower()
    return "bearer" not in lowered and "dpop" not in lowered


def cleaned(string: str, max_length: int = MAX_STRING) -> str:
    """The string truncated, without anything that looks like a token, and without lone surrogates.

    Many JSON parsers reject lone surrogates. Redaction comes before escaping: in the finished line the first letter of
    a token could belong to an escape sequence, and redacting it would leave invalid JSON.
    """
    string = truncated(string, max_length)
    if is_clean(string):
        return string
    return _SECRET.sub("[redacted]", string).encode("utf-8", "backslashreplace").decode()


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as in RFC 3339, in UTC and with milliseconds."""
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(maxsize=2)  # lines come in the order of time
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class LineFormat(NamedTuple):
    """The syntax of a line: members, each a name and a value."""

    string: Callable[[str], str]  # writes a string, as a name or as a value
    value: Callable[[object], str]  # writes any value: also a number, a boolean, None, or a list
    before_first: str
    between: str
    after_name: str
    after_last: str

    def start_of(self, name: str) -> str:
        """What precedes the value of a member that is not the first one."""
        return f"{self.between}{self.string(name)}{self.after_name}"

    def line(self, members: Mapping[str, object]) -> str:
        """A line, without its end."""
        written = [f"{self.string(name)}{self.after_name}{self.value(value)}" for name, value in members.items()]
        return f"{self.before_first}{self.between.join(written)}{self.after_last}"


def _word(string: str) -> str:
    return string if _BARE.fullmatch(string) else encode_basestring_ascii(string)


def _word_of(value: object) -> str:
    match value:
        case str():
            return _word(value)
        case list():
            return _word(", ".join(map(str, value)))
        case _:
            return _word(json.dumps(value))


FORMATS = {
    "json": LineFormat(encode_basestring_ascii, json.dumps, "{", ", ", ": ", "}"),
    "text": LineFormat(_word, _word_of, "", " ", "=", ""),
}
