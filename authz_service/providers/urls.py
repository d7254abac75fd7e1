"""Provider URLs: parsing, comparing origins, and redacting for the log.

URLs come from the configuration, from metadata and from redirects. A provider controls the latter two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from authz_service.core.errors import FetchFailed

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_HOST = re.compile(r"[!-~]{1,255}")  # no host name is longer (RFC 1035 section 2.3.4)
_MAX_LOGGED = 400  # characters of a URL
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))  # the characters allowed in a request target (RFC 9112 section 3.2)


class Origin(NamedTuple):
    """Scheme, host and port: URLs with the same origin belong to the same server (RFC 9110 section 4.3.1)."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https URL."""

    origin: Origin
    target: str  # path and query, as sent
    redacted: str  # for the log: see ``redact``

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110 section 7.2)."""
        scheme, host, port = self.origin
        return _in_brackets(host) if port == _DEFAULT_PORTS[scheme] else host_and_port(self.origin)

    @property
    def root(self) -> str:
        """The URL without path and query."""
        return f"{self.origin.scheme}://{self.authority}"

    def resolve(self, reference: str) -> Url:
        """Resolve a reference relative to this URL (RFC 3986 section 5).

        Raises:
            FetchFailed: if the result is not an http or https URL.
        """
        try:
            url = urljoin(f"{self.root}{self.target}", reference)
        except ValueError:
            raise FetchFailed(f"{self.redacted} refers to a malformed URL") from None
        return parse(url)


def host_and_port(origin: Origin) -> str:
    """``host:port`` (RFC 9110 section 7.1)."""
    return f"{_in_brackets(origin.host)}:{origin.port}"


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse(url: str) -> Url:
    """Parse a URL.

    Raises:
        FetchFailed: if it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise FetchFailed("malformed URL: invalid host or port") from None
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or port == 0:
        raise FetchFailed(f"{redact(url)} is not an http or https URL")
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Url(
        Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]),
        quote(target, safe=_VISIBLE, errors="surrogateescape"),
        redact(url),
    )


def redact(url: str) -> str:
    """A URL for the log: without user, password, query and fragment, which may be secret, and of bounded length."""
    parts = urlsplit(url)
    redacted = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return redacted if len(redacted) <= _MAX_LOGGED else f"{redacted[:_MAX_LOGGED]}..."
