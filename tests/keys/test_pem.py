"""Public keys and certificates in PEM become keys; a file with a private key is refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import FetchFailed
from authz_service.keys import jwk, pem
from support.signing import ML_DSA, Signer

RSA = Signer("RS256")
EC = Signer("ES256")
WHEN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def public(key: Any, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    octets = key.public_key().public_bytes(Encoding.PEM, form)
    assert isinstance(octets, bytes)
    return octets


def certificate(key: Any) -> bytes:
    """A certificate that expired long ago."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "idp")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, WHEN, WHEN + dt.timedelta(days=1))
    algorithm = None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def block(label: str, content: str = "AAAA") -> bytes:
    return f"-----BEGIN {label}-----\n{content}\n-----END {label}-----\n".encode()


def fingerprints(data: bytes, max_keys: int = 100) -> list[bytes]:
    return [key.fingerprint for key in pem.parse(data, max_keys).keys]


def refusal(data: bytes, max_keys: int = 100) -> str:
    with pytest.raises(FetchFailed) as failure:
        pem.parse(data, max_keys)
    return str(failure.value)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed448", *ML_DSA])
def test_a_public_key_is_the_same_as_the_published_one_but_without_kid(algorithm: str) -> None:
    signer = Signer(algorithm)
    (key,) = pem.parse(public(signer.key), 1).keys
    published = jwk.parse(signer.jwk(kid=None))
    assert (key.identity, key.algorithms) == (published.identity, published.algorithms)
    assert jwk.parse(dict(key.jwk)).identity == key.identity
    assert key.verifies(algorithm, b"a.b", signer.signature(b"a.b"))


@pytest.mark.parametrize("signer", [RSA, EC, Signer("EdDSA")], ids=lambda signer: signer.algorithm)
def test_a_certificate_gives_its_public_key_whatever_its_dates(signer: Signer) -> None:
    assert fingerprints(certificate(signer.key)) == fingerprints(public(signer.key))


def test_a_file_may_have_several_keys_and_text_around_them() -> None:
    data = b"\xef\xbb\xbf" + public(RSA.key) + b"# a comment\r\n\r\n" + certificate(EC.key).replace(b"\n", b"\r\n")
    assert fingerprints(data) == fingerprints(public(RSA.key)) + fingerprints(public(EC.key))
    indented = b"".join(b"   " + line + b"\n" for line in data.splitlines())
    assert fingerprints(indented[6:]) == fingerprints(data)


def test_a_key_of_pkcs_1_is_accepted() -> None:
    assert fingerprints(public(RSA.key, PublicFormat.PKCS1)) == fingerprints(public(RSA.key))


PRIVATE = {
    form: RSA.key.private_bytes(Encoding.PEM, form, NoEncryption())
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
} | {PrivateFormat.OpenSSH: Signer("EdDSA").key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())}


@pytest.mark.parametrize("secret", [*PRIVATE.values(), block("ENCRYPTED PRIVATE KEY"), block("EC PRIVATE KEY")])
def test_a_file_with_a_private_key_is_refused_as_a_whole_and_nothing_of_it_is_quoted(secret: bytes) -> None:
    problem = refusal(public(EC.key) + secret)
    assert problem.startswith("block 2 is a private key, with which anyone who reads the file could sign tokens: ")
    assert not any(line in problem.encode() for line in secret.splitlines()[1:-1])


@pytest.mark.parametrize("form", ["one line", "escaped", "lower case", "behind text", "cut"])
def test_a_private_key_is_found_however_it_is_written(form: str) -> None:
    secret = Signer("EdDSA").key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    written = {
        "one line": secret.replace(b"\n", b""),
        "escaped": secret.replace(b"\n", rb"\n"),
        "lower case": secret.replace(b"PRIVATE KEY", b"private key"),
        "behind text": b"key: " + secret,
        "cut": secret[:-20],
    }[form]
    problem = refusal(public(EC.key) + written)
    assert problem.startswith("block 2 is a private key, with which anyone who reads the file could sign tokens: ")
    assert secret.splitlines()[1] not in problem.encode()


def test_a_block_in_one_line_is_refused_and_not_quoted() -> None:
    written = public(EC.key).replace(b"\n", b"")
    assert refusal(written) == "a block begins with a line that has more than its label: write PEM in lines"


UNUSABLE = {
    "another kind of block": (block("EC PARAMETERS"), "it is 'EC PARAMETERS', not a public key or a certificate"),
    "no base64": (block("PUBLIC KEY", "%%%%"), "its content cannot be decoded"),
    "no key": (block("CERTIFICATE"), "its content cannot be decoded"),
    "a key that is too short": (
        public(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - which must be refused
        "it is an RSA key of 1024 bits, not of 2048 to 16384",
    ),
    "a curve for Bitcoin": (
        public(ec.generate_private_key(ec.SECP256K1())),
        "its curve is secp256k1, not P-256, P-384 or P-521",
    ),
    "a curve without a name in JOSE": (
        public(ec.generate_private_key(ec.BrainpoolP256R1())),
        "its curve is brainpoolP256r1, not P-256, P-384 or P-521",
    ),
    "a key for key agreement": (
        public(x25519.X25519PrivateKey.generate()),
        "its type is X25519PublicKey, not RSA, EC, Ed25519, Ed448 or ML-DSA",
    ),
    "a DSA key": (
        public(dsa.generate_private_key(2048)),
        "its type is DSAPublicKey, not RSA, EC, Ed25519, Ed448 or ML-DSA",
    ),
}


@pytest.mark.parametrize(("data", "cause"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_block_is_refused_with_a_reason_and_does_not_affect_others(data: bytes, cause: str) -> None:
    keys = pem.parse(public(EC.key) + data + public(RSA.key), 3)
    assert [key.algorithms & {"ES256", "RS256"} for key in keys.keys] == [{"ES256"}, {"RS256"}]
    assert keys.refused == (f"block 2: {cause}",)
    assert refusal(data) == f"the file has no usable key; block 1: {cause}"


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}", RSA.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)]
)
def test_a_file_without_pem_is_refused(data: bytes) -> None:
    assert refusal(data).startswith("pem_file has no PEM, expected -----BEGIN PUBLIC KEY----- or ")


def test_a_block_without_its_last_line_is_refused() -> None:
    cut = public(EC.key) + public(RSA.key)[:-10]
    nested = public(EC.key).replace(b"\n", b"\n" + public(RSA.key), 1)
    assert refusal(nested) == "a block, 'PUBLIC KEY', has no END line"
    assert refusal(cut) == "a block, 'PUBLIC KEY', has no END line"
    assert refusal(b"-----BEGIN PUBLIC KEY-----\n" * 20_000) == "a block, 'PUBLIC KEY', has no END line"


def test_more_blocks_than_the_maximum_are_refused_as_a_whole() -> None:
    assert len(fingerprints(public(EC.key) * 3, 3)) == 3
    assert refusal(public(EC.key) * 4, 3) == "the file has 4 keys, more than keys.max_keys (3)"


@given(st.binary(max_size=300), st.sampled_from([b"PUBLIC KEY", b"CERTIFICATE", b"PRIVATE KEY"]))
def test_arbitrary_content_is_refused(content: bytes, label: bytes) -> None:
    with pytest.raises(FetchFailed):
        pem.parse(b"-----BEGIN " + label + b"-----\n" + content + b"\n-----END " + label + b"-----\n", 10)
