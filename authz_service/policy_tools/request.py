"""Converts a method, URL and headers to the attributes that Envoy would send.

The URL is taken literally. Everything after the host is the request target, since a library that normalizes URLs would
hide the ambiguous paths that are worth testing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from authz_service.core.attributes import Attributes
from authz_service.core.credential import CredentialHeader
from authz_service.core.errors import Rejected
from authz_service.core.headers import combined

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from authz_service.config.model import MtlsSettings
    from authz_service.rules.policy import Policy, Rule

_MAX_CERTIFICATE_FILE = 1 << 20  # bytes: a chain, and text that tools write beside it
_URL = re.compile(r"https?://([^/?#]+)(.*)", re.DOTALL | re.IGNORECASE)


def attributes_of(method: str, url: str, headers: Iterable[tuple[str, str]], policy: str = "") -> Attributes:
    """The attributes of a request. The values of a repeated header are joined as Envoy joins them.

    Raises:
        ValueError: if the URL is not absolute; the message does not repeat it.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("the URL must be absolute: write https://host/path")
    host, target = match[1], match[2]
    if not target.startswith("/"):
        target = f"/{target}"  # clients send https://host and https://host?query with a /
    return Attributes(method, host, target, combined(headers), policy)


def rule_of(attributes: Attributes, policy: Policy) -> Rule | None:
    """The rule that decides the request, if one does."""
    try:
        return policy.choose(attributes, policy.split(attributes.path))
    except Rejected:
        return None


def with_token(attributes: Attributes, token: str, policy: Policy) -> Attributes:
    """The request with this token where its rule reads it, or in Authorization if no rule matches.

    If the request has a DPoP proof, the scheme is DPoP where the rule accepts it.
    """
    rule = rule_of(attributes, policy)
    credential = CredentialHeader() if rule is None else rule.credential
    value = credential.value_with(token, dpop="dpop" in attributes.headers)
    return attributes._replace(headers=combined([*attributes.headers.items(), (credential.name, value)]))


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
