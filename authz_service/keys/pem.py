"""Parses public keys and certificates in PEM (RFC 7468) into a key set. Pure.

Every block becomes a JWK and passes the same checks as a published one; none has a ``kid``. Of a certificate, only the
public key counts: the operator chose to trust the file, so neither validity dates nor signatures are checked.
Text around the blocks is ignored. A file with a private key is refused as a whole: anyone who can read it could sign
tokens.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from authz_service.core.errors import FetchFailed, quoted
from authz_service.keys import jwk, keyset
from authz_service.keys.jwk import UnusableKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.keys.keyset import KeySet

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_LABEL = re.compile(rb"[A-Z0-9][A-Z0-9 ]{0,63}")  # those of OpenSSL; what is longer may be content
# Wherever it begins, behind other text or without line breaks as well.
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY", re.IGNORECASE)
_PUBLIC_KEYS = frozenset({b"PUBLIC KEY", b"RSA PUBLIC KEY"})
_CERTIFICATES = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})


class _PemBlock(NamedTuple):
    label: bytes
    pem: bytes


def parse(data: bytes, max_keys: int) -> KeySet:
    """Parse a file.

    Raises:
        FetchFailed: if it has a private key, more than ``max_keys`` blocks, an incomplete block, or no usable key.
    """
    if (private := _PRIVATE_KEY.search(data)) is not None:
        number = data.count(_BEGIN, 0, private.end())
        raise FetchFailed(
            f"block {number} is a private key, with which anyone who reads the file could sign tokens: write the "
            "public key only (openssl pkey -pubout)"
        )
    blocks = list(_blocks(data))
    if len(blocks) > max_keys:
        raise FetchFailed(f"the file has {len(blocks)} keys, more than keys.max_keys ({max_keys})")
    keys: list[jwk.Key] = []
    refused: list[str] = []
    for number, block in enumerate(blocks, start=1):
        try:
            keys.append(jwk.parse(jwk.members_of(_material(block))))
        except UnusableKey as unusable:
            refused.append(f"block {number}: {unusable}")
    if not blocks:
        raise FetchFailed(
            "pem_file has no PEM, expected -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----: for a JSON Web "
            "Key Set, write jwks_file instead"
        )
    return keyset.usable(keys, refused, "the file")


def _blocks(data: bytes) -> Iterator[_PemBlock]:
    """The blocks, in one pass over the lines.

    Raises:
        FetchFailed: for a block without its last line.
    """
    label: bytes | None = None
    lines: list[bytes] = []
    for line in map(bytes.strip, data.removeprefix(BOM_UTF8).splitlines()):
        if line.startswith(_BEGIN) and line.endswith(_DASHES):
            if label is not None:
                break
            label, lines = line[len(_BEGIN) : -len(_DASHES)], []
            if not _LABEL.fullmatch(label):
                raise FetchFailed("a block begins with a line that has more than its label: write PEM in lines")
        lines.append(line)
        if label is not None and line == _END + label + _DASHES:
            yield _PemBlock(label, b"\n".join(lines) + b"\n")
            label = None
    if label is not None:
        raise FetchFailed(f"a block, {quoted(label.decode('latin-1'))}, has no END line")


def _material(block: _PemBlock) -> Any:
    if block.label not in _PUBLIC_KEYS | _CERTIFICATES:
        raise UnusableKey(f"it is {quoted(block.label.decode('latin-1'))}, not a public key or a certificate")
    try:
        if block.label in _CERTIFICATES:
            from cryptography import x509

            return x509.load_pem_x509_certificate(block.pem).public_key()
        return load_pem_public_key(block.pem)
    except Exception:  # noqa: BLE001 - cryptography raises many types for malformed content
        raise UnusableKey("its content cannot be decoded") from None
