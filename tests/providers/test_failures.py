"""What went wrong is said in words of ours, which quote nothing that a provider sent."""

from __future__ import annotations

import errno
import socket
import ssl

import h11
import pytest

from authz_service.core.errors import BadMessage
from authz_service.providers.failures import FOREIGN, failure_of

PLACE = "https://idp.example/keys"
SECRET = "a-secret-token"


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, SECRET)
    error.verify_code = code
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BadMessage("is larger than max_bytes (7)"), f"the answer of {PLACE} is larger than max_bytes (7)"),
        (h11.RemoteProtocolError(SECRET), f"the answer of {PLACE} is not HTTP/1.1"),
        (h11.LocalProtocolError(SECRET), f"the request to {PLACE} would not be HTTP/1.1: look at its header values"),
        (certificate(10), f"the certificate of {PLACE} has expired"),
        (certificate(62), f"the certificate of {PLACE} is for another host name"),
        (certificate(4711), f"the certificate of {PLACE} does not verify (OpenSSL's error 4711)"),
        (ssl.SSLError(1, SECRET), f"TLS with {PLACE} failed (no reason given)"),
        (socket.gaierror(socket.EAI_NONAME, SECRET), f"the host name of {PLACE} cannot be resolved"),
        (ConnectionRefusedError(errno.ECONNREFUSED, SECRET), f"{PLACE} refuses connections"),
        (ConnectionResetError(errno.ECONNRESET, SECRET), f"{PLACE} closed the connection without an answer"),
        (TimeoutError(errno.ETIMEDOUT, SECRET), f"{PLACE} does not answer to connecting"),
        (OSError(errno.ENETUNREACH, SECRET), f"{PLACE} cannot be reached: no route to its network"),
        (ConnectionResetError(SECRET), f"{PLACE} cannot be reached: ConnectionResetError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_error_has_its_words(error: Exception, text: str) -> None:
    assert isinstance(error, FOREIGN)
    assert str(failure_of(error, PLACE)) == text


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EACCES, errno.EMFILE])
def test_an_error_of_the_system_says_what_it_is(number: int) -> None:
    text = str(failure_of(OSError(number, SECRET), PLACE))
    assert text.startswith(f"{PLACE} cannot be reached: ")
    assert SECRET not in text


@pytest.mark.parametrize("code", [2, 18, 19, 20, 21])
def test_an_unknown_authority_is_told_with_what_to_do(code: int) -> None:
    assert str(failure_of(certificate(code), PLACE)).endswith("not trusted: name its certificate in keys.ca_file")
