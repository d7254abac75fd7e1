"""The claims that the dynamic metadata of a decision carries, besides its fixed members.

Pure. Values are JSON values, and any of them may end up in an access log, a rate limit or a header that Envoy formats.

Invariants: a value has at most ``MAX_SIZE`` characters and ``MAX_DEPTH`` levels, and no string in it has a control
character. A claim that does not meet this is left out; it never refuses a valid token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.core.claim_path import NotAnObjectError
from authz_service.core.upstream import claim_getter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.core.claim_path import ClaimPath
    from authz_service.core.claims import Claims

MAX_SIZE = 8192  # characters of strings and names, with at least _MIN_SIZE for each value and name
MAX_DEPTH = 8  # levels; protobuf, in Envoy and here, reads at most 100 levels of messages, three for each of these
_MIN_SIZE = 8
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class UpstreamMetadata:
    """The ``upstream.metadata`` of the settings, compiled."""

    def __init__(self, members: Mapping[str, ClaimPath]) -> None:
        """``members`` maps the name of a member to its claim."""
        self._members = tuple((name, claim_getter(path)) for name, path in members.items())

    def __bool__(self) -> bool:
        return bool(self._members)

    def for_token(self, claims: Claims) -> dict[str, Any]:
        """The JSON values of the members, without those that the token lacks or that cannot be sent."""
        values = {}
        for name, value_of in self._members:
            try:
                value = value_of(claims)
            except NotAnObjectError:
                continue
            if value is not None and _can_be_sent(value):
                values[name] = value
        return values


NO_METADATA = UpstreamMetadata({})


def _can_be_sent(value: Any) -> bool:
    size = 0
    layer = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in layer:
            size += _MIN_SIZE
            if isinstance(item, str):
                if _CONTROL.search(item):
                    return False
                size += max(len(item) - _MIN_SIZE, 0)
            elif isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
        if size > MAX_SIZE:
            return False
        if not below:
            return True
        layer = below
    return False
