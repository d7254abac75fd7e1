"""The addresses of providers: taken apart, compared, and shown.

Addresses come from the configuration, from metadata and from redirects. The latter two are a provider's to write, so
nothing about them is taken for granted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from authz_service.core.errors import FetchFailed

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_HOST = re.compile(r"[!-~]{1,255}")  # no name is longer (RFC 1035 section 2.3.4)
_MAX_SHOWN = 400  # characters of an address that a log line shows
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))  # what a request target holds as it is (RFC 9112 section 3.2)


class Origin(NamedTuple):
    """What makes two addresses ones of the same server (RFC 9110 section 4.3.1)."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Url:
    """An address over http or https."""

    origin: Origin
    target: str  # path and query, as they are sent
    shown: str  # for logs: without query, user and password, which may hold a secret

    @property
    def authority(self) -> str:
        """The value of the header Host (RFC 9110 section 7.2)."""
        scheme, name, port = self.origin
        host = f"[{name}]" if ":" in name else name
        return host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"

    @property
    def root(self) -> str:
        """The address without path and query."""
        return f"{self.origin.scheme}://{self.authority}"

    def joined(self, reference: str) -> Url:
        """What a reference on this page means (RFC 3986 section 5).

        Raises:
            FetchFailed: when it means no address over http or https.
        """
        try:
            url = urljoin(f"{self.root}{self.target}", reference)
        except ValueError:
            raise FetchFailed(f"{self.shown} names an address that is malformed") from None
        return parse(url)


def parse(url: str) -> Url:
    """Take an address apart.

    Raises:
        FetchFailed: when it is none over http or https.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise FetchFailed("an address is malformed: its host or port is none") from None
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or port == 0:
        raise FetchFailed(f"{shown(url)} is no address over http or https")
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Url(
        Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]),
        quote(target, safe=_VISIBLE, errors="surrogateescape"),
        shown(url),
    )


def shown(url: str) -> str:
    """An address for the log: without query, which may hold a secret, and not the whole of a long one."""
    parts = urlsplit(url)
    whole = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return whole if len(whole) <= _MAX_SHOWN else f"{whole[:_MAX_SHOWN]}..."
