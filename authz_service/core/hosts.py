"""Reading the host of a request, and host patterns.

Law: pure and total. A host that is not plainly one name or address is no host: where any rule asks for the host, a
request with such a one finds no rule at all, since the upstream may read in it the very host that a rule protects.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from authz_service.core.errors import shown

# A registered name or an address as Envoy hands it over: perhaps with a port, perhaps with the root's dot.
_HOST = re.compile(r"((?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\])\.?(?::[0-9]{0,5})?")
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\]")
_MAX_NAME = 253  # octets, by RFC 1035
_MAX_HOST = _MAX_NAME + len(".:65535")


def normalised(host: str) -> str:
    """The host in lower case, without port and trailing dot; empty when it is not plainly a host."""
    if len(host) > _MAX_HOST or not host.isascii():  # beyond ASCII some letters have another one as lower case
        return ""
    match = _HOST.fullmatch(host.lower())
    return match[1] if match else ""


def without_userinfo(host: str) -> str:
    """The host as it may be printed: user and password before it are a credential (RFC 3986 section 3.2.1)."""
    return host.rpartition("@")[2]


class HostPattern(NamedTuple):
    """``api.example.com`` stands for itself; ``*.example.org`` for one or more labels before ``.example.org``."""

    name: str
    wildcard: bool


def parse_pattern(pattern: str) -> HostPattern:
    """Read a host pattern of the configuration.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    name = pattern.lower()
    wildcard = name.startswith("*.")
    name = name.removeprefix("*.")
    if not _NAME.fullmatch(name) or not pattern.isascii() or len(name) > _MAX_NAME or (wildcard and name[0] == "["):
        raise ValueError(
            f"{shown(pattern)} is no host: write a name such as api.example.com, or *.example.com for any name below "
            "it; without scheme, port or path"
        )
    return HostPattern(name, wildcard)
