"""A client certificate has one digest, or is refused with ``invalid_proof``.

The first octet of the input is a digit: 0 for a certificate as Envoy sends it, or the position of the element that
counts in the x-forwarded-client-cert that follows.

* A plain parser reads the header in the same way.
* A digest is the Hash of the element that counts, or that of its certificate as Python's own ssl module decodes it.
* An element that the proxy appends counts from then on, or the header was malformed.
* No cause quotes the input.
"""

from __future__ import annotations

import hashlib
import ssl
from urllib.parse import unquote

from authz_service.core.attributes import Attributes
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.proof.certificate import ClientCertificates
from fuzz.secrets import is_secret
from support import plain_xfcc

OUTCOMES = {"a certificate", "no certificate", "rejected"}
MAX_BYTES = 4096
_APPENDED = f'By=spiffe://proxy;Hash={"ab" * 32};Subject="CN=a\\"\\\\,b"'


def run(data: bytes) -> str:
    hops, text = int(data[:1]) if data[:1].isdigit() else 0, data[1:].decode("utf-8", "replace")
    try:
        digest = _forwarded(text, hops) if hops else _peer(text)
    except Rejected as rejected:
        assert rejected.reason is Reason.INVALID_PROOF
        assert not any(is_secret(part, data) for part in rejected.cause.split())
        return "rejected"
    return "no certificate" if digest is None else "a certificate"


def _peer(text: str) -> bytes | None:
    digest = ClientCertificates("peer", 1).digest_of(Attributes("GET", "a", "/", {}, certificate=text))
    assert digest == (_digest(text) if text else None)
    return digest


def _forwarded(header: str, hops: int) -> bytes | None:
    try:
        pairs = plain_xfcc.element(header, hops) if header.strip(" \t") else {}
    except ValueError:
        pairs = None
    try:
        assert _read(f"{header},{_APPENDED}", 1) == bytes.fromhex("ab" * 32)
    except Rejected:
        assert pairs is None or not header.strip(" \t") or header.count(",") >= plain_xfcc.MAX_ELEMENTS - 1
    try:
        digest = _read(header, hops)
    except Rejected:
        assert pairs is None or {"hash", "cert"} & pairs.keys()
        raise
    if digest is None:
        assert not pairs or not {"hash", "cert"} & pairs.keys()
        return None
    assert pairs
    assert "cert" not in pairs or digest == _digest(pairs["cert"])
    assert "hash" not in pairs or digest == bytes.fromhex(pairs["hash"])
    return digest


def _read(header: str, hops: int) -> bytes | None:
    headers = {"x-forwarded-client-cert": header}
    return ClientCertificates("xfcc", hops).digest_of(Attributes("GET", "a", "/", headers))


def _digest(certificate: str) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(unquote(certificate))).digest()
