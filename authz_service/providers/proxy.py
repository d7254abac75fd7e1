"""Chooses the proxy for a request to a provider: the configured one, that of the environment, or none.

The environment is read as curl and Go read it: HTTPS_PROXY and HTTP_PROXY by the scheme of the request, and NO_PROXY,
in lower or upper case. Requests to this machine never go through a proxy.

Invariants: a user and a password go into Proxy-Authorization only, never into a message. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from authz_service.core.errors import FetchFailed
from authz_service.providers import urls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.providers.urls import Origin

ENVIRONMENT: Final = "environment"
NONE: Final = "none"
_SCHEMES: Final = frozenset({"http", "https"})
_MAX_CACHED: Final = 8  # origins; metadata may name others each time
_SEPARATORS = re.compile(r"[,\s]+")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class Proxy(NamedTuple):
    """A proxy, and what it requires."""

    origin: Origin
    root: str  # its URL for the log
    headers: Mapping[str, str]  # of requests to the proxy


class Proxies:
    """The proxies that one provider is reached through."""

    def __init__(self, setting: str, environment: Mapping[str, str]) -> None:
        """``setting`` is ``keys.proxy``."""
        self._no_proxy = ""
        self._urls: dict[str, tuple[str, str]] = {}  # name of the setting, and URL, by the scheme of the request
        if setting == ENVIRONMENT:
            self._no_proxy = _variable(environment, "no_proxy")
            for scheme in _SCHEMES:
                if url := _variable(environment, f"{scheme}_proxy"):
                    self._urls[scheme] = (f"{scheme}_proxy".upper(), url)
        elif setting != NONE:
            self._urls = dict.fromkeys(_SCHEMES, ("keys.proxy", setting))
        self._cached = lru_cache(_MAX_CACHED)(self._choose)  # a long NO_PROXY takes as long as the request itself

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The proxy for requests to this origin; None for a direct connection.

        Raises:
            FetchFailed: if the proxy's URL is not usable.
        """
        return self._cached(origin)

    def _choose(self, origin: Origin) -> Proxy | None:
        if origin.scheme not in self._urls or _is_loopback(origin.host) or is_excepted(origin, self._no_proxy):
            return None
        return _parse(*self._urls[origin.scheme])


def _variable(environment: Mapping[str, str], name: str) -> str:
    """The lower-case variable, or else the upper-case one. An empty one counts as absent."""
    return environment.get(name, "").strip() or environment.get(name.upper(), "").strip()


def _parse(name: str, url: str) -> Proxy:
    """Parse the URL of a proxy. Messages do not quote it: parts of a password may be anywhere in a malformed one."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    userinfo, at, authority = rest.removesuffix("/").rpartition("@")
    problem = FetchFailed(
        f"{name} is not the URL of a proxy that is supported: write http://host:port or https://host:port"
    )
    if scheme.lower() not in _SCHEMES or not _AUTHORITY.fullmatch(authority):
        raise problem
    try:
        parsed = urls.parse(f"{scheme.lower()}://{authority}")
    except FetchFailed:
        raise problem from None
    return Proxy(parsed.origin, parsed.root, {"Proxy-Authorization": _authorization(userinfo)} if at else {})


def _authorization(userinfo: str) -> str:
    user, _, password = (unquote_to_bytes(os.fsencode(part)) for part in userinfo.partition(":"))
    return f"Basic {base64.b64encode(user + b':' + password).decode('ascii')}"


def is_excepted(origin: Origin, no_proxy: str) -> bool:
    """Whether NO_PROXY names this origin.

    An entry is ``*``, an address, a network such as 10.0.0.0/8, a host name, which also means all names below it, or
    ``.example.com``, which means only those. A port after a name or an address restricts the entry to it.
    """
    host = origin.host.rstrip(".")
    address = _address(host)
    for entry in _SEPARATORS.split(no_proxy.lower()):
        if entry == "*":
            return True
        if "/" in entry:
            if address is not None and _is_in_network(address, entry):
                return True
            continue
        name, port = _split_port(entry)
        if not name or port not in {"", str(origin.port)}:
            continue
        named = _address(name)
        if address == named if address is not None or named is not None else _is_named(host, name):
            return True
    return False


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    if _address(entry) is not None:
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _is_named(host: str, name: str) -> bool:
    name = name.removeprefix("*").rstrip(".")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host.rstrip(".") == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
