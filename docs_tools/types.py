"""The type of a key, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.config import places, units, values
from authz_service.config.kinds import (
    Checked,
    Flag,
    Many,
    Members,
    Nullable,
    OneOf,
    Prepared,
    Scalar,
    Text,
    Whole,
)
from authz_service.config.sections import SectionKind, ShortSection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.config.kinds import Kind

# A string of each kind: one, and several.
_STRINGS: Mapping[Kind[Any], tuple[str, str]] = {
    units.DURATION: ("duration", "durations"),
    units.POSITIVE_DURATION: ("duration, longer than `0s`", "durations"),
    units.LEEWAY: ("duration, at most `1h`", "durations"),
    units.SIZE: ("size", "sizes"),
    places.GRPC_ADDRESS: ("address", "addresses"),
    places.TCP_ADDRESS: ("address", "addresses"),
    places.FILE: ("path of a file", "paths of files"),
    places.OWN_FILE: ("path of a file that authz-service writes", "paths of files"),
    places.READER_SOCKET: ("path of a unix socket", "paths of unix sockets"),
    values.NAME: ("name", "names"),
    values.PRINTABLE: ("string", "strings"),
    values.SCOPE: ("scope", "scopes"),
    values.PLAIN_SCOPE: ("scope", "scopes"),
    values.METHOD: ("HTTP method", "HTTP methods"),
    values.TOKEN_TYPE: ("token type", "token types"),
    values.ACR_VALUE: ("string", "strings"),
    values.HTTP_HEADER: ("header name", "header names"),
    values.METADATA_NAME: ("name", "names"),
    values.CREDENTIAL_HEADER: ("header name", "header names"),
    values.SCHEME: ("string", "strings"),
    values.MCP_PATTERN: ("string, with an optional `*` at its end", "strings, each with an optional `*` at its end"),
    values.HEADER_VALUE: ("string", "strings"),
    values.CLAIM_PATH: ("claim path", "claim paths"),
    values.REQUIRED_CLAIM_PATH: ("claim path", "claim paths"),
    values.COMPARED_HEADER: ("header name", "header names"),
    values.AFFIX: ("string", "strings"),
    values.CAPTURE_NAME: ("name of a capture", "names of captures"),
    values.UPSTREAM_HEADER: ("header name", "header names"),
    values.HOST_PATTERN: ("host pattern", "host patterns"),
    values.PATH_PATTERN: ("path pattern", "path patterns"),
    values.URL: ("URL", "URLs"),
    values.COLLECTOR_URL: ("URL", "URLs"),
    values.ORIGIN: ("origin", "origins"),
    values.RESOURCE_ID: ("URL", "URLs"),
    values.ISSUER_ID: ("URL, or another identifier", "URLs, or other identifiers"),
    values.AUDIENCE: ("string", "strings"),
}


def type_of(kind: Kind[Any]) -> str:
    """The type of one value."""
    return _words(kind, 0)


def has_words(kind: Kind[Any]) -> bool:
    """Whether a string of this kind has words that say more than that it is a string."""
    return kind in _STRINGS


def _words(kind: Kind[Any], number: int) -> str:  # noqa: C901, PLR0911, PLR0912 - a case for each kind
    """The words for one value (0) or for several (1)."""
    if kind is values.PROXY:
        return "`environment`, `none`, or a URL"
    if kind is values.TENANTS:
        return "`any`, or a list of strings, at least one"
    match kind:
        case SectionKind():
            return ("section", "sections")[number]
        case ShortSection(short=short):
            return f"{_words(short, number)}, or {('a section', 'sections')[number]}"
        case Nullable(inner=inner) | Prepared(inner=inner) | Checked(inner=inner):
            return _words(inner, number)
        case Many(item=item, may_be_empty=may_be_empty):
            return f"{('list', 'lists')[number]} of {_words(item, 1)}{'' if may_be_empty else ', at least one'}"
        case Members(name=name, member=member):
            return f"{('mapping', 'mappings')[number]} of {_words(name, 1)} to {_words(member, 1)}"
        case OneOf(choices=(True,)):
            return "`true`"
        case OneOf(choices=choices):
            *most, last = (f"`{choice}`" for choice in choices)
            separator = " or " if len(most) == 1 else ", or "
            one_of = ", ".join(most) + separator + last
            return one_of if number == 0 else f"values: {one_of}"
        case Whole(minimum=minimum, maximum=maximum):
            bounds = f" from {minimum}" if minimum is not None else ""
            upper = f" to {maximum}" if maximum is not None else " up"
            return ("whole number", "whole numbers")[number] + (bounds + upper if bounds else "")
        case Flag():
            return "`true` or `false`"
        case Scalar():
            return ("string, number, `true` or `false`", "strings, numbers, `true` or `false`")[number]
        case Text():
            return _STRINGS[kind][number] if kind in _STRINGS else ("string", "strings")[number]
        case _:
            return ("any value", "any values")[number]
