"""The client certificate of a request: read from a file, and passed as Envoy passes it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from authz_service.core.headers import combined

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.model import MtlsSettings
    from authz_service.core.attributes import Attributes

_MAX_CERTIFICATE_FILE = 1 << 20  # bytes: a chain, and text that tools write beside it


def read_certificate(file: Path) -> x509.Certificate:
    """The first certificate in a PEM file, which is the client's own if it has its chain.

    Raises:
        ValueError: if there is none. The message continues a sentence about the file, and quotes nothing of it.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_CERTIFICATE_FILE + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_CERTIFICATE_FILE:
        raise ValueError(f"is larger than {_MAX_CERTIFICATE_FILE} bytes")
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        raise ValueError("has no certificate in PEM: write the client's certificate, not its key") from None


def with_certificate(attributes: Attributes, certificate: x509.Certificate, mtls: MtlsSettings) -> Attributes:
    """The request from a client with this certificate, as Envoy or the proxy in front of it passes the certificate."""
    encoded = quote(certificate.public_bytes(serialization.Encoding.PEM), safe="")
    if mtls.certificate == "peer":
        return attributes._replace(certificate=encoded)
    elements = [f'Cert="{encoded}"', *["By=proxy"] * (mtls.xfcc_hops - 1)]  # one for each proxy
    sent = ("x-forwarded-client-cert", ",".join(elements))
    return attributes._replace(headers=combined([*attributes.headers.items(), sent]))
