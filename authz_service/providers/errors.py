"""Maps what can go wrong with a provider to ``FetchFailed``: errors of the system, of OpenSSL, of h11, and timeouts.

The messages are our own. A library's message is never repeated: h11's quote what the provider sent, which may hold a
token.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import h11

from authz_service.core.errors import BadMessage, FetchFailed
from authz_service.providers.content import BadContent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class NoDocument(FetchFailed):
    """The provider works, but has no document of the expected kind at this URL: another URL may be tried."""


PROXY_CREDENTIALS: Final = "put user and password into the proxy's URL in the environment"  # a remedy
_NETWORK: Final = {
    errno.ECONNREFUSED: "refuses connections",
    errno.ECONNRESET: "closed the connection without a response",
    errno.EPIPE: "closed the connection without a response",
    errno.ETIMEDOUT: "does not accept the connection (timeout)",
    errno.ENETUNREACH: "is unreachable: no route to its network",
    errno.EHOSTUNREACH: "is unreachable: no route to the host",
    errno.EADDRNOTAVAIL: "is unreachable: no local address or port is free for a connection to it",
    errno.EMFILE: "is unreachable: this process has no file descriptor left",
}
# X509_V_ERR_* in OpenSSL's x509_vfy.h
_UNTRUSTED = "is signed by an authority that is not trusted: add the authority's certificate to keys.ca_file"
_CERTIFICATE: Final = {
    2: _UNTRUSTED,
    9: "is not valid yet: compare the clocks of both hosts",
    10: "has expired",
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    62: "is for another host name",
    64: "is for another IP address",
    66: "has a key that is too weak",
    67: "is signed by an authority whose key is too weak",
    68: "is signed with a digest that is too weak",
}


_TABLE: Final[tuple[tuple[type[Exception], Callable[[Any, str], str]], ...]] = (  # the first match counts
    (BadMessage, lambda error, url: f"the response from {url} {error}"),
    (
        h11.LocalProtocolError,
        lambda _, url: f"the request to {url} is not valid HTTP/1.1: check the values of its headers",
    ),
    (h11.ProtocolError, lambda _, url: f"the response from {url} is not HTTP/1.1"),
    (ssl.SSLCertVerificationError, lambda error, url: f"the certificate of {url} {_certificate_problem(error)}"),
    (ssl.SSLError, lambda error, url: f"TLS with {url} failed ({_openssl_reason(error)})"),
    (socket.gaierror, lambda _, url: f"the host name of {url} cannot be resolved"),
    (OSError, lambda error, url: f"{url} {_network_problem(error)}"),
)
# Everything that a request to a provider may raise. A timeout is the caller's: see ``fetch_timeout``.
FOREIGN_ERRORS: Final = tuple(kind for kind, _ in _TABLE)


def fetch_failed(error: Exception, url: str) -> FetchFailed:
    """Map one of ``FOREIGN_ERRORS``. ``url`` is for the log: see ``urls.redact``."""
    kind = NoDocument if isinstance(error, BadContent) else FetchFailed
    return kind(next(message for kind, message in _TABLE if isinstance(error, kind))(error, url))


@asynccontextmanager
async def fetch_timeout(seconds: float, what: str = "response") -> AsyncIterator[None]:
    """Raise ``FetchFailed`` if the block takes longer than this to fetch ``what``.

    The notes of the CancelledError that ends the block are the URL of the request and what preceded it.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        url, *before = getattr(error.__cause__, "__notes__", None) or [""]
        source = f" from {url}" if url else ""
        raise FetchFailed("; ".join([*before, f"no complete {what}{source} within {seconds:g} s"])) from None


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATE.get(error.verify_code, f"does not verify (OpenSSL error {error.verify_code})")


def _openssl_reason(error: ssl.SSLError) -> str:
    """OpenSSL's symbol, such as WRONG_VERSION_NUMBER."""
    return getattr(error, "reason", None) or "no reason given"


def _network_problem(error: OSError) -> str:
    number = error.errno or 0
    return _NETWORK.get(number) or f"is unreachable: {os.strerror(number) if number else type(error).__name__}"
