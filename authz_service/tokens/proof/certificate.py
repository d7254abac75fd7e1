"""The digest of a request's client certificate, to which tokens are bound (RFC 8705). Pure.

The certificate itself is not validated: the proxy that ended the client's connection did so, and saw that the client
has its key. What a token is bound to is the SHA-256 digest of the certificate's DER.

Invariants:
- Text that is not exactly one certificate is refused, and so is a header that describes a certificate in two ways.
- The text of a certificate is decoded once, as long as it is cached. The cache is bounded in entries and bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.proof import xfcc

if TYPE_CHECKING:
    from authz_service.core.attributes import Attributes

_XFCC = "x-forwarded-client-cert"
_MAX_LENGTH = 65536  # characters of a URL-encoded certificate
_CACHE = Bounds(max_entries=1000, max_bytes=4 << 20)
_ENTRY_SIZE = 400  # bytes of a cached digest, beside the text
# RFC 7468, as Envoy writes it, with line breaks anywhere in the content.
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/\r\n]+={0,2})\r?\n-----END CERTIFICATE-----(?:\r?\n)?"
)
_HASH = re.compile("[0-9A-Fa-f]{64}")
_SEQUENCE = re.compile(rb"\x30(?:\x81(.)|\x82(..))", re.DOTALL)  # of DER, with a length in one or two bytes


class ClientCertificates:
    """Finds the client certificate of a request: the peer's of Envoy's own connection, or one that a proxy forwards.

    ``hops`` is the position in the header, counted from the right, of the element that the client's proxy added.
    """

    def __init__(self, source: Literal["peer", "xfcc"], hops: int) -> None:
        self._hops = hops if source == "xfcc" else None
        self._digests: BoundedMap[str, bytes] = BoundedMap(_CACHE)

    def digest_of(self, attributes: Attributes) -> bytes | None:
        """The digest of the certificate; None if the client has shown none.

        Raises:
            Rejected: ``invalid_proof``, if it cannot be read.
        """
        if self._hops is None:
            return self._digest(attributes.certificate) if attributes.certificate else None
        header = attributes.headers.get(_XFCC, "").strip(" \t")
        return self._forwarded(header, self._hops) if header else None

    def _forwarded(self, header: str, hops: int) -> bytes | None:
        try:
            pairs = xfcc.element(header, hops) or {}
        except ValueError as error:
            raise _invalid(f"{_XFCC} is {error}") from None
        claimed, certificate = pairs.get("hash"), pairs.get("cert")
        if claimed is not None and not _HASH.fullmatch(claimed):
            raise _invalid(f"Hash in {_XFCC} is not a SHA-256 digest in hexadecimal")
        stated = None if claimed is None else bytes.fromhex(claimed)
        if certificate is None:
            return stated
        digest = self._digest(certificate)
        if stated is not None and stated != digest:
            raise _invalid(f"Hash and Cert in {_XFCC} are of different certificates")
        return digest

    def _digest(self, text: str) -> bytes:
        digest = self._digests.get(text)
        if digest is None:
            digest = hashlib.sha256(_der(text)).digest()
            self._digests.put(text, digest, len(text) + _ENTRY_SIZE)
        return digest


def _der(text: str) -> bytes:
    """Decode one certificate in URL-encoded PEM."""
    if len(text) > _MAX_LENGTH:
        raise _invalid(f"the client certificate is longer than {_MAX_LENGTH} characters")
    block = _PEM.fullmatch(unquote_to_bytes(text)) if text.isascii() else None
    try:
        der = b"" if block is None else base64.b64decode(block[1].translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        der = b""
    if not _is_sequence(der):
        raise _invalid("the client certificate is not one certificate in URL-encoded PEM")
    return der


def _is_sequence(der: bytes) -> bool:
    """Whether this is one SEQUENCE, as a certificate is, and nothing more."""
    head = _SEQUENCE.match(der)
    return head is not None and len(der) == head.end() + int.from_bytes(head[1] or head[2], "big")


def _invalid(cause: str) -> Rejected:
    return Rejected(Reason.INVALID_PROOF, cause)
