"""Talking to one provider over HTTP: connections, trust anchors, and answers that are bounded.

Law: strict. No redirect leaves the origin, no plain http leaves the machine (unless allowed), no answer is larger than
its reader says, nothing is unpacked and no cookie is kept. Time is the caller's to bound.
"""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import aiohttp

from authz_service.config.values import https_or_loopback
from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from multidict import CIMultiDictProxy

_MAX_REDIRECTS = 3  # a key set behind more is a configuration to mend
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Why OpenSSL does not accept a certificate (its x509_vfy.h), in our words.
_UNTRUSTED = "no authority that is trusted issued it; set keys.ca_file if a private one did"
_OTHER_NAME = "it is for another name"
_CERTIFICATE_PROBLEMS = {
    9: "it is not valid yet",
    10: "it has expired",
    **dict.fromkeys((18, 19, 20, 21), _UNTRUSTED),
    **dict.fromkeys((62, 64), _OTHER_NAME),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a body, or the news that nothing changed (``body`` is None)."""

    body: bytes | None
    headers: CIMultiDictProxy[str]


class Absent(FetchFailed):
    """There is nothing at this address, so the next one may be tried."""


class Connection:
    """The connections to one provider, made when they are first needed."""

    def __init__(
        self, *, accept: str, most: int, ca_file: Path | None = None, allow_http: bool = False, keepalive: float = 15.0
    ) -> None:
        """``most`` connections at a time, of which an idle one is kept for ``keepalive`` seconds."""
        self._accept = accept
        self._most = most
        self._ca_file = ca_file
        self._allow_http = allow_http
        self._keepalive = keepalive
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The session, made on first use: an event loop is needed, and trust anchors take a while to load.

        Raises:
            FetchFailed: when the file of trust anchors can not be used.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=_trusting(self._ca_file), limit=self._most, keepalive_timeout=self._keepalive
                ),
                # Compressed answers are not asked for, and never unpacked: a small one could become a huge one.
                auto_decompress=False,
                headers={"Accept": self._accept, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close them. Whoever goes on using this gets new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def require_protected(self, url: str) -> None:
        """Refuse an address that is not protected on its way.

        Raises:
            FetchFailed: for plain http off this machine, unless that is allowed.
        """
        if not (self._allow_http or https_or_loopback(url)):
            raise FetchFailed(f"plain http off this machine is not allowed: {shown(url)}")

    async def get(self, url: str, largest: int, conditional: Mapping[str, str] | None = None) -> Answer:
        """What is at an address, following redirects within its origin.

        Raises:
            FetchFailed: for any other status than 200, and for 304 where nothing was said about what is known.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            self.require_protected(url)
            async with self.session().get(url, headers=conditional, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await _read(url, response, largest, conditional or {})
                target = urljoin(url, response.headers.get("Location", ""))
            if origin(target) != origin(url):
                raise FetchFailed(f"{shown(url)} redirects to another origin: name that address in the configuration")
            url = target
        raise FetchFailed(f"more than {_MAX_REDIRECTS} redirects from {shown(url)}")


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise FetchFailed("keys.ca_file holds no certificate that can be read: write PEM") from None
        except OSError as error:
            raise FetchFailed(f"keys.ca_file can not be read: {error.strerror}") from None
    return context


def reason_of(error: Exception) -> str:
    """Why nothing could be had of a provider, in our words: those of libraries change, and may quote an address.

    ``error`` is what aiohttp, ssl and the system raise meanwhile. What it is called follows in parentheses.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            problem = _CERTIFICATE_PROBLEMS.get(refused.verify_code, f"OpenSSL's code {refused.verify_code}")
            return f"the server's certificate is not accepted: {problem}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return f"TLS can not be spoken with the server ({type(error).__name__})"
        case aiohttp.ClientConnectorDNSError() | UnicodeError():  # one that DNS has no form for
            return "the server's name can not be resolved"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno  # asyncio puts words of its own into strerror
            return f"can not connect to the server: {os.strerror(number) if number else type(error.os_error).__name__}"
        case aiohttp.ClientPayloadError() | aiohttp.ServerConnectionError() | OSError():
            return f"the connection ended before the answer was complete ({type(error).__name__})"
        case _:
            return f"there is no answer that can be read as HTTP ({type(error).__name__})"


async def _read(url: str, response: aiohttp.ClientResponse, largest: int, conditional: Mapping[str, str]) -> Answer:
    if response.status == HTTPStatus.NOT_MODIFIED and conditional:
        return Answer(None, response.headers)
    if response.status != HTTPStatus.OK:
        failure = Absent if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE} else FetchFailed
        wanted = retry_after(response.headers.get("Retry-After", ""), time.time())
        raise failure(f"{shown(url)} answered with status {response.status}", retry_after=wanted)
    return Answer(await body_of(response, url, largest), response.headers)


async def body_of(response: aiohttp.ClientResponse, url: str, largest: int) -> bytes:
    """The body of an answer.

    Raises:
        FetchFailed: for one of more than ``largest`` bytes, and for one that is encoded.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchFailed(f"{shown(url)} answered in a content encoding that was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > largest:
            raise FetchFailed(f"the answer of {shown(url)} is larger than max_bytes ({largest})")
    return bytes(body)


def retry_after(value: str, now: float) -> float:
    """Seconds for which a provider asks to be left alone (RFC 9110 section 10.2.3); 0 where it does not."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return 0.0


def origin(url: str) -> tuple[str, str | None, int | None]:
    """What makes two addresses ones of the same server."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def shown(url: str) -> str:
    """An address for the log: without query, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
