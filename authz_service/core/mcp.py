"""The request headers with which clients repeat an MCP message, from revision 2026-07-28 of the protocol on.

Pure. Compares headers only, never a body: a server of that revision refuses a request whose headers and body differ.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.errors import Rejected
from authz_service.core.headers import AmbiguousHeaderError, value_of
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION = "mcp-protocol-version"
METHOD = "mcp-method"
NAME = "mcp-name"
NAMED_METHODS = ("tools/call", "resources/read", "prompts/get")  # the messages with which Mcp-Name is sent
_FIRST_REVISION = "2026-07-28"  # dates of this form are in the order of their characters
_REVISION = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"  # compiled by the first request that has one
_PLAIN = r"[\t -~]+"
_ENCODED = r"=\?base64\?([A-Za-z0-9+/]+={0,2})\?="
_ENCODED_START = "=?base64?"


class McpCondition(NamedTuple):
    """MCP messages by method and name; a ``*`` at the end of a pattern stands for any further characters."""

    methods: tuple[str, ...]
    names: tuple[str, ...] | None  # None: any name, and none

    def includes(self, other: McpCondition) -> bool:
        """Whether it matches every message that another condition matches."""
        return _all_included(self.methods, other.methods) and (
            self.names is None or (other.names is not None and _all_included(self.names, other.names))
        )

    def overlaps(self, other: McpCondition) -> bool:
        """Whether both match some message."""
        return _any_overlap(self.methods, other.methods) and (
            self.names is None or other.names is None or _any_overlap(self.names, other.names)
        )


class McpHeaders:
    """The MCP headers of one request, each read at the first comparison."""

    __slots__ = ("_headers", "_is_new", "_values")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._is_new: bool | None = None
        self._values: dict[str, str] = {}

    def why_not(self, condition: McpCondition) -> str | None:
        """Why a condition does not match; None if it does.

        Raises:
            Rejected: ``malformed_request``, if a header that is compared cannot be read in one way, or is missing.
        """
        if self._is_new is None:
            self._is_new = is_new_revision(_one_value(self._headers, VERSION))
        if not self._is_new:
            return f"the MCP-Protocol-Version is not {_FIRST_REVISION} or later"
        if not _matches(self._value(METHOD), condition.methods):
            return "the Mcp-Method is another one"
        if condition.names is not None and not _matches(self._value(NAME), condition.names):
            return "the Mcp-Name is another one"
        return None

    def _value(self, name: str) -> str:
        if name not in self._values:
            value = _one_value(self._headers, name)
            if value is None:
                raise _malformed(name, "is missing")
            self._values[name] = _decoded(name, value)
        return self._values[name]


def is_new_revision(version: str | None) -> bool:
    """Whether clients of this protocol version send ``Mcp-Method`` and ``Mcp-Name``."""
    return version is not None and re.fullmatch(_REVISION, version) is not None and version >= _FIRST_REVISION


def _one_value(headers: Mapping[str, str], name: str) -> str | None:
    try:
        return value_of(headers, name)
    except AmbiguousHeaderError as ambiguous:
        raise _malformed(name, str(ambiguous)) from None


def _decoded(name: str, value: str) -> str:
    """A value as it is in the message. One that starts as if it were encoded, in any case, must be."""
    if not value.lower().startswith(_ENCODED_START):
        if not re.fullmatch(_PLAIN, value):
            raise _malformed(name, "is empty or not ASCII")
        return value
    match = re.fullmatch(_ENCODED, value)
    try:
        content = b64decode(match[1], validate=True) if match else b""
        if match and b64encode(content).decode() == match[1]:  # one spelling only: padded, without further bits
            return content.decode()
    except ValueError:
        pass  # neither base64 nor UTF-8
    raise _malformed(name, "is not base64 of UTF-8")


def _malformed(name: str, what: str) -> Rejected:
    return Rejected(Reason.MALFORMED_REQUEST, f"the {name} header, which a rule compares: {what}")


def _matches(value: str, patterns: Sequence[str]) -> bool:
    return any(value.startswith(each[:-1]) if each.endswith("*") else value == each for each in patterns)


def _all_included(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return all(any(_covers(one, other) for one in ours) for other in theirs)


def _covers(one: str, other: str) -> bool:
    return one == other or (one.endswith("*") and other.removesuffix("*").startswith(one[:-1]))


def _any_overlap(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return any(_covers(one, other) or _covers(other, one) for one in ours for other in theirs)
