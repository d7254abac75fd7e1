"""How request headers are read: combined when repeated, compared by value, recognized under other spellings.

A header that two receivers could read differently has no value here, which is not the same as absent: code that
compares it must not continue as if it had not been sent.
"""

from __future__ import annotations

import re
import string
from functools import cache
from typing import TYPE_CHECKING

from authz_service.core import octets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# CGI replaces what is neither a letter nor a digit by _ when it turns a header name into a variable name (RFC 3875
# section 4.1.18).
_REPLACED = "!#$%&'*+._`|~^"
_REPLACEMENTS = str.maketrans(dict.fromkeys(_REPLACED, "-"))
_WHITESPACE = " \t"  # OWS of RFC 9110 section 5.6.3
# Bytes that are not UTF-8, and controls, which some receivers drop and at which others cut the value.
_AMBIGUOUS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]|\ufffd")


# The characters of header names as Envoy sends nearly all of them.
_PLAIN = octets.only(f"{string.ascii_lowercase}{string.digits}-:")


class AmbiguousHeaderError(Exception):
    """A header that its receivers may read differently. The message says why, without the value."""


def combined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header fields by lower-case name, the values of a repeated one separated by commas (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}  # joined once, at the end: joining for each field copies what is there already
    for name, value in fields:
        key = name.lower()
        if key not in headers:
            headers[key] = value
        else:
            repeated.setdefault(key, [headers[key]]).append(value)
    headers.update({key: ",".join(values) for key, values in repeated.items()})
    return headers


def cgi_name(name: str) -> str:
    """A header name as servers that follow CGI read it: ``x_api_version`` becomes ``x-api-version``."""
    return name.translate(_REPLACEMENTS)


def are_plain(names: Iterable[str]) -> bool:
    """Whether header names lack capitals and what CGI replaces: none of them is another spelling of such a name."""
    joined = "".join(names)
    return joined.isascii() and (encoded := joined.encode()).translate(_PLAIN) == encoded


@cache
def _spellings(name: str) -> re.Pattern[str]:
    """The names with the same ``cgi_name``. The cache is bounded: names come from the configuration and from code."""
    return re.compile("".join(f"[-{re.escape(_REPLACED)}]" if part == "-" else part for part in cgi_name(name)))


def sent_under_another_spelling(headers: Mapping[str, str], name: str) -> bool:
    """Whether a header was sent under another name with the same ``cgi_name``."""
    size = len(name)
    for other in headers:  # noqa: SIM110 - a loop is faster than any()
        if len(other) == size and other != name and _spellings(name).fullmatch(other):  # so has cgi_name
            return True
    return False


def value_of(headers: Mapping[str, str], name: str) -> str | None:
    """The one value of a header, without spaces and tabs around it; None if it was not sent.

    Over HTTP/2 a value may arrive with outer whitespace, which an HTTP/1.1 upstream never sees (RFC 9110 section 5.5).

    Raises:
        AmbiguousHeaderError: if it was sent more than once, or under another name with the same ``cgi_name``; or if it
            holds a comma, a control, bytes that are not UTF-8, or outer whitespace that only some receivers strip.
    """
    if sent_under_another_spelling(headers, name):
        raise AmbiguousHeaderError("sent under another spelling, which some servers read as this header")
    value = headers.get(name)
    if value is None:
        return None
    value = value.strip(_WHITESPACE)
    if "," in value:
        raise AmbiguousHeaderError("sent more than once, or with a comma")
    if _AMBIGUOUS.search(value) or value != value.strip():
        raise AmbiguousHeaderError("holds a character that some receivers drop")
    return value
