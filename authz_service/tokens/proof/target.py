"""The URL of a request, and whether the ``htu`` of a DPoP proof is that URL (RFC 9449 section 4.3).

Pure. Query and fragment take no part. URLs are compared after the normalization of RFC 3986 sections 6.2.2.1, 6.2.2.2
and 6.2.3: case of scheme and host, default or empty port, percent-encoding, empty path. Dot segments are not removed:
no accepted request path has any, so an ``htu`` that has one is another URL. Spaces and characters beyond ASCII in the
path of an ``htu`` are encoded first (RFC 3987 section 3.1): clients write them as they are, and request them encoded.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

# Without user and password. A host has at most 255 characters, each perhaps as an escape. Characters that RFC 3986 does
# not allow but clients send are allowed, except backslashes, controls, surrogates, and outside the path spaces and
# everything beyond ASCII.
_HOST = r"([A-Za-z0-9\-._~%]{1,765}|\[[0-9A-Fa-f:.]+\])(?::([0-9]*))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(f"(https?)://{_HOST}/?", re.IGNORECASE | re.ASCII)
_URL = re.compile(
    rf"""(https?)://{_HOST}(/[^\x00-\x1f\x7f-\x9f?#\\\ud800-\udfff]*)?(?:\?[!-"$-\[\]-~]*)?(?:\#[!-"$-\[\]-~]*)?""",
    re.IGNORECASE | re.ASCII,
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_UNENCODED = re.compile("[^!-~]+")
_ESCAPE_LENGTH = len("%41")
_LOOPBACK = re.compile(r"(?:.+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")


class Targets:
    """The URLs of requests, by the origins at which clients reach the service."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        """Without origins, that of a request is ``https`` and its host, or ``http`` if that is loopback.

        Raises:
            ValueError: for a string that is not an origin.
        """
        self._by_host: dict[str, tuple[str, ...]] = {}
        for each in origins:
            match = _ORIGIN.fullmatch(each)
            scheme, host, port = match.groups() if match else ("", "", None)
            if not (name := _normalized_host(host)):
                raise ValueError(
                    f"{quoted(each)} is not an origin: write https:// and a host, such as https://api.example.com"
                )
            self._by_host[name] = (*self._by_host.get(name, ()), _origin(scheme.lower(), name, port))
        self._all = tuple(origin for group in self._by_host.values() for origin in group)

    def origins_of(self, host: str) -> tuple[str, ...]:
        """The origins that a request with this host may have been sent to; none if the host is malformed.

        Those that are configured for the host, on any port; without any, all that are configured, since a proxy may
        have replaced the host.
        """
        match = _AUTHORITY.fullmatch(host)
        name = _normalized_host(match[1]) if match else ""
        if self._all:
            return self._by_host.get(name, self._all)
        if not (match and name):
            return ()
        return (_origin("http" if _LOOPBACK.fullmatch(name) else "https", name, match[2]),)

    def require(self, htu: str, host: str, target: str) -> None:
        """Require that ``htu`` is the URL of a request with this host and request target.

        Raises:
            Rejected: ``invalid_proof``.
        """
        match = _URL.fullmatch(htu)
        scheme, authority, port, path = match.groups() if match else ("", "", None, None)
        name = _normalized_host(authority)
        if not name or (path and _BROKEN_ESCAPE.search(path)):
            raise Rejected(Reason.INVALID_PROOF, "htu is not an absolute http or https URL")
        origins = self.origins_of(host)
        if _origin(scheme.lower(), name, port) not in origins:
            expected = " or ".join(map(quoted, origins)) or "none, since the host of the request is malformed"
            raise Rejected(
                Reason.INVALID_PROOF,
                f"the origin in htu is not that of the request: expected {expected} (dpop.origins)",
            )
        if not _is_path_of(path or "", target.partition("?")[0]):
            raise Rejected(Reason.INVALID_PROOF, "the path in htu is not that of the request")


def _origin(scheme: str, host: str, port: str | None) -> str:
    return f"{scheme}://{host}:{port}" if port and port != _DEFAULT_PORTS[scheme] else f"{scheme}://{host}"


def _normalized_host(host: str) -> str:
    """In lower case, without escapes; "" if it has one that cannot be decoded."""
    if "%" in host:
        host = _ESCAPE.sub(_normalized_escape, host)
    return "" if "%" in host else host.lower()


def _is_path_of(path: str, requested: str) -> bool:
    """Whether the path of an ``htu`` is that of a request."""
    if path == requested:
        return _UNENCODED.search(path) is None  # no request has them
    if len(path) > _ESCAPE_LENGTH * len(requested):  # longer even if each of its characters is an escape
        return False
    encoded = _UNENCODED.sub(_encoded, _normalized_path(path))
    return encoded == _normalized_path(requested)


def _normalized_path(path: str) -> str:
    return _ESCAPE.sub(_normalized_escape, path) or "/"


def _encoded(characters: re.Match[str]) -> str:
    return "%" + characters[0].encode().hex("%").upper()


def _normalized_escape(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()
