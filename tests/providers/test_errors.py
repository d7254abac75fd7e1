"""Each foreign error has a message of our own, which quotes nothing that a provider sent."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import h11
import pytest

from authz_service.core.errors import BadMessage, FetchFailed
from authz_service.providers.errors import FOREIGN_ERRORS, fetch_failed, fetch_timeout

URL = "https://idp.example/keys"
SECRET = "a-secret-token"


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, SECRET)
    error.verify_code = code
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BadMessage("is larger than max_bytes (7)"), f"the response from {URL} is larger than max_bytes (7)"),
        (h11.RemoteProtocolError(SECRET), f"the response from {URL} is not HTTP/1.1"),
        (
            h11.LocalProtocolError(SECRET),
            f"the request to {URL} is not valid HTTP/1.1: check the values of its headers",
        ),
        (certificate(10), f"the certificate of {URL} has expired"),
        (certificate(62), f"the certificate of {URL} is for another host name"),
        (certificate(4711), f"the certificate of {URL} does not verify (OpenSSL error 4711)"),
        (ssl.SSLError(1, SECRET), f"TLS with {URL} failed (no reason given)"),
        (socket.gaierror(socket.EAI_NONAME, SECRET), f"the host name of {URL} cannot be resolved"),
        (ConnectionRefusedError(errno.ECONNREFUSED, SECRET), f"{URL} refuses connections"),
        (ConnectionResetError(errno.ECONNRESET, SECRET), f"{URL} closed the connection without a response"),
        (TimeoutError(errno.ETIMEDOUT, SECRET), f"{URL} does not accept the connection (timeout)"),
        (OSError(errno.ENETUNREACH, SECRET), f"{URL} is unreachable: no route to its network"),
        (ConnectionResetError(SECRET), f"{URL} is unreachable: ConnectionResetError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_error_has_its_message(error: Exception, text: str) -> None:
    assert isinstance(error, FOREIGN_ERRORS)
    assert str(fetch_failed(error, URL)) == text


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EACCES, errno.EMFILE])
def test_any_other_system_error_has_the_systems_description(number: int) -> None:
    text = str(fetch_failed(OSError(number, SECRET), URL))
    assert text.startswith(f"{URL} is unreachable: ")
    assert SECRET not in text


@pytest.mark.parametrize("code", [2, 18, 19, 20, 21])
def test_the_message_for_an_untrusted_authority_names_the_remedy(code: int) -> None:
    assert str(fetch_failed(certificate(code), URL)).endswith(
        "not trusted: add the authority's certificate to keys.ca_file"
    )


async def test_a_timeout_is_a_failed_fetch_that_says_how_long_it_took() -> None:
    with pytest.raises(FetchFailed, match=r"^no complete metadata within 0.01 s$"):
        async with fetch_timeout(0.01, "metadata"):
            await asyncio.sleep(60)


async def test_cancellation_is_not_a_timeout() -> None:
    async def fetch() -> None:
        async with fetch_timeout(60):
            await asyncio.sleep(60)

    fetching = asyncio.create_task(fetch())
    await asyncio.sleep(0)
    fetching.cancel()
    await asyncio.wait([fetching])
    assert fetching.cancelled()
