"""What went wrong between us and a provider, in words for whoever reads the log.

The one place that maps the errors of the system, of OpenSSL and of h11. The words are ours: no library's text is
repeated, since h11's quotes what the provider sent, which may hold a token.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import h11

from authz_service.core.errors import BadMessage, FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable

_NETWORK: Final = {
    errno.ECONNREFUSED: "refuses connections",
    errno.ECONNRESET: "closed the connection without an answer",
    errno.EPIPE: "closed the connection without an answer",
    errno.ETIMEDOUT: "does not answer to connecting",
    errno.ENETUNREACH: "cannot be reached: no route to its network",
    errno.EHOSTUNREACH: "cannot be reached: no route to it",
    errno.EADDRNOTAVAIL: "cannot be reached: no local address or port is free for a connection to it",
    errno.EMFILE: "cannot be reached: this process has no file descriptor left",
}
# OpenSSL's X509_V_ERR_* (x509_vfy.h)
_UNTRUSTED = "is signed by an authority that is not trusted: name its certificate in keys.ca_file"
_CERTIFICATES: Final = {
    2: _UNTRUSTED,
    9: "is not valid yet: compare the clocks",
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


_TABLE: Final[tuple[tuple[type[Exception], Callable[[Any, str], str]], ...]] = (  # the first that fits
    (BadMessage, lambda error, place: f"the answer of {place} {error}"),
    (
        h11.LocalProtocolError,
        lambda _, place: f"the request to {place} would not be HTTP/1.1: look at its header values",
    ),
    (h11.ProtocolError, lambda _, place: f"the answer of {place} is not HTTP/1.1"),
    (ssl.SSLCertVerificationError, lambda error, place: f"the certificate of {place} {_of_certificate(error)}"),
    (ssl.SSLError, lambda error, place: f"TLS with {place} failed ({_of_tls(error)})"),
    (socket.gaierror, lambda _, place: f"the host name of {place} cannot be resolved"),
    (OSError, lambda error, place: f"{place} {_of_network(error)}"),
)
# Everything that a conversation with a provider may raise, but for running out of time.
FOREIGN: Final = tuple(kind for kind, _ in _TABLE)


def failure_of(error: Exception, place: str) -> FetchFailed:
    """What an error of ``FOREIGN`` means, said of an address as ``urls.shown`` gives it."""
    return FetchFailed(next(words for kind, words in _TABLE if isinstance(error, kind))(error, place))


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATES.get(error.verify_code, f"does not verify (OpenSSL's error {error.verify_code})")


def _of_tls(error: ssl.SSLError) -> str:
    """OpenSSL's symbol, such as WRONG_VERSION_NUMBER."""
    return getattr(error, "reason", None) or "no reason given"


def _of_network(error: OSError) -> str:
    number = error.errno or 0
    return _NETWORK.get(number) or f"cannot be reached: {os.strerror(number) if number else type(error).__name__}"
