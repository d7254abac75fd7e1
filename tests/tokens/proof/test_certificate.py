"""The digest is that of the certificate that the client showed; what is not one certificate is refused."""

from __future__ import annotations

import base64
import hashlib
import ssl
import textwrap
from typing import Literal
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.proof.certificate import ClientCertificates

# RFC 8705 appendix A.
RFC_8705 = """\
-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----
"""
THUMBPRINT = base64url.decode("A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0")
DER = ssl.PEM_cert_to_DER_cert(RFC_8705)
# As Envoy sends it: space, line feed and the characters of base64 that mean something in a URL.
PEM = quote(RFC_8705, safe="-")
OTHER_DER = b"\x30\x82\x01\x00" + bytes(256)


def pem_of(der: bytes) -> str:
    content = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n"


def digest(text: str = "", header: str | None = None, *, hops: int | None = None) -> bytes | None:
    source: Literal["peer", "xfcc"] = "peer" if hops is None else "xfcc"
    headers = {} if header is None else {"x-forwarded-client-cert": header}
    return ClientCertificates(source, hops or 1).digest_of(Attributes("GET", "a", "/", headers, certificate=text))


def test_the_example_of_rfc_8705_has_its_thumbprint() -> None:
    assert digest(PEM) == THUMBPRINT
    assert digest(header=f'Cert="{PEM}"', hops=1) == THUMBPRINT
    assert digest(header=f'Hash={THUMBPRINT.hex()};Cert="{PEM}";Chain="{PEM}{PEM}"', hops=1) == THUMBPRINT
    assert digest(header=f"Hash={THUMBPRINT.hex().upper()}", hops=1) == THUMBPRINT


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM.replace("%0A", "%0a"),
        RFC_8705,
        RFC_8705.rstrip(),
        RFC_8705.replace("\n", "\r\n"),
        quote(RFC_8705.replace("\n", "\r\n")),
    ],
    ids=["as Envoy sends it", "lower-case escapes", "not encoded", "no last line break", "CRLF", "CRLF encoded"],
)
def test_the_encoding_of_the_text_does_not_change_the_digest(text: str) -> None:
    assert digest(text) == THUMBPRINT


def test_a_client_without_a_certificate_has_no_digest() -> None:
    assert digest() is None
    assert digest(header=f"Hash={THUMBPRINT.hex()}") is None
    for header in (None, "", " \t", "By=spiffe://server", 'URI=;Subject=""'):
        assert digest(PEM, header, hops=1) is None


def test_the_element_at_the_configured_position_counts() -> None:
    one, two, three = (digit * 64 for digit in "123")
    header = f"Hash={one},Hash={two},Hash={three};URI=spiffe://a"
    digests = [digest(header=header, hops=hops) for hops in (1, 2, 3, 4)]
    assert digests == [bytes.fromhex(three), bytes.fromhex(two), bytes.fromhex(one), None]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "-----BEGIN CERTIFICATE-----",
        RFC_8705 + RFC_8705,
        " " + RFC_8705,
        "subject=CN = mtls\n" + RFC_8705,
        RFC_8705 + "x",
        RFC_8705.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        RFC_8705.replace("CERTIFICATE", "PUBLIC KEY"),
        RFC_8705.replace("SY=", "SY"),
        RFC_8705.replace("SY=", "SY=="),
        RFC_8705.replace("SY=", "S="),
        RFC_8705.replace("MIIB", "MII*"),
        RFC_8705.replace("MIIB", "MII B"),
        RFC_8705.replace("MIIB", "MII=B"),
        RFC_8705.replace("+SY=", "-SY="),
        RFC_8705.replace("MIIB", "MIIÄ"),
        RFC_8705.replace("MIIB", "MII\udcff"),
        PEM.replace("%0A", "%250A"),
        PEM.replace("%0A", "%0"),
        PEM.replace("%20", "+"),
        quote(PEM),
        pem_of(DER[:-1]),
        pem_of(DER + b"\x00"),
        pem_of(DER + DER),
        pem_of(b"\x31" + DER[1:]),
        pem_of(b"\x30\x80" + DER[2:] + b"\x00\x00"),
        pem_of(b"\x30\x82\x00"),
        pem_of(b"\x30"),
        pem_of(b"hello"),
        "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
        base64.b64encode(DER).decode(),
        pem_of(b"\x30\x82\xff\xff" + bytes(65535)),
    ],
)
def test_what_is_not_exactly_one_certificate_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as rejected:
        digest(text)
    assert rejected.value.reason is Reason.INVALID_PROOF
    assert rejected.value.cause.startswith("the client certificate is ")
    if '"' not in text and text.isprintable():
        with pytest.raises(Rejected) as rejected:
            digest(header=f'Cert="{text}"', hops=1)
        assert rejected.value.reason is Reason.INVALID_PROOF


@pytest.mark.parametrize(
    "header",
    [
        'Hash=00;Subject="',
        "Hash=00",
        "Hash=",
        "Cert=",
        'Cert=""',
        f"Hash={THUMBPRINT.hex()}00",
        f"Hash={THUMBPRINT.hex()[:-1]}g",
        f"Hash=+{THUMBPRINT.hex()[1:]}",
        f'Hash="{THUMBPRINT.hex()} "',
        f"Hash={THUMBPRINT.hex()};Hash={THUMBPRINT.hex()}",
        f'Hash={"0" * 64};Cert="{PEM}"',
        f'Hash=;Cert="{PEM}"',
        f'Hash={THUMBPRINT.hex()};Cert="{quote(pem_of(OTHER_DER))}"',
        f'Hash={THUMBPRINT.hex()};Cert="x"',
        f'Hash={THUMBPRINT.hex()};Cert=""',
        f"Hash={THUMBPRINT.hex()},",
        f"{THUMBPRINT.hex()}",
        "Hash=" + "\u0663" * 64,
    ],
)
def test_a_header_that_describes_no_certificate_or_two_is_refused(header: str) -> None:
    with pytest.raises(Rejected) as rejected:
        digest(header=header, hops=1)
    assert rejected.value.reason is Reason.INVALID_PROOF
    assert rejected.value.cause.isascii()
    assert THUMBPRINT.hex()[:8] not in rejected.value.cause


def test_a_source_that_is_not_configured_does_not_count() -> None:
    header = f"Hash={'0' * 64}"
    assert digest(PEM, header) == THUMBPRINT
    assert digest(PEM, header, hops=1) == bytes(32)
    assert digest(PEM, "malformed", hops=None) == THUMBPRINT


@given(st.binary(min_size=128, max_size=600))
def test_the_digest_is_that_of_the_der_whatever_is_in_the_certificate(content: bytes) -> None:
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    der = b"\x30" + bytes([0x80 + len(length)]) + length + content
    assert digest(quote(pem_of(der))) == hashlib.sha256(der).digest()


@given(st.text() | st.binary().map(pem_of))
def test_any_other_text_is_refused_or_has_a_digest_of_a_sequence(text: str) -> None:
    try:
        found = digest(text)
    except Rejected as rejected:
        assert rejected.reason is Reason.INVALID_PROOF
    else:
        der = ssl.PEM_cert_to_DER_cert(text.strip()) if text else None
        assert found == (None if der is None else hashlib.sha256(der).digest())


def test_the_text_of_a_certificate_is_decoded_once() -> None:
    certificates = ClientCertificates("peer", 1)
    first, second = (certificates.digest_of(Attributes("GET", "a", "/", {}, certificate=PEM)) for _ in range(2))
    assert first == THUMBPRINT
    assert second is first


def test_what_others_put_before_the_element_that_counts_takes_no_place_in_the_cache() -> None:
    certificates = ClientCertificates("xfcc", 1)
    for number in range(10):
        headers = {"x-forwarded-client-cert": f'Hash={number};Cert="{number}",Cert="{PEM}"'}
        assert certificates.digest_of(Attributes("GET", "a", "/", headers)) == THUMBPRINT
    assert len(certificates._digests) == 1


def test_a_flood_of_certificates_leaves_the_cache_within_its_bounds() -> None:
    certificates = ClientCertificates("peer", 1)

    def show(number: int) -> None:
        der = b"\x30\x82\x17\x70" + number.to_bytes(6000, "big")
        attributes = Attributes("GET", "a", "/", {}, certificate=quote(pem_of(der)))
        assert certificates.digest_of(attributes) == hashlib.sha256(der).digest()

    for number in range(1500):
        show(number)
    cached = certificates._digests
    assert len(cached) <= 1000
    assert cached.used_bytes <= 4 << 20
    assert sum(map(len, cached)) < cached.used_bytes


def test_refused_text_is_not_cached() -> None:
    certificates = ClientCertificates("peer", 1)
    for number in range(10):
        with pytest.raises(Rejected):
            certificates.digest_of(Attributes("GET", "a", "/", {}, certificate=f"{PEM}{number}"))
    assert len(certificates._digests) == 0
