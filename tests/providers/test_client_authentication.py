"""The client authenticates by each method, with secrets, keys and tokens from files."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authz_service.core.errors import FetchFailed
from authz_service.providers.client_authentication import (
    ClientSecretBasic,
    authentication_of,
    parse_signing_key,
    problem_of,
)
from authz_service.providers.secret_file import SecretFile
from support.fake_introspection import issuer_with
from support.trust import ISSUER, NOW

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.model import IntrospectionSettings
    from authz_service.providers.client_authentication import ClientAuthentication

RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, tuple[Any, str]] = {
    "RSA": (RSA_KEY, "RS256"),
    "P-256": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "P-521": (ec.generate_private_key(ec.SECP521R1()), "ES512"),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    "Ed448": (ed448.Ed448PrivateKey.generate(), "EdDSA"),
}


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, form, NoEncryption())
    return data


def jwk(key: Any, **members: Any) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            public_and_private = RSAAlgorithm.to_jwk(key, as_dict=True)
        case ec.EllipticCurvePrivateKey():
            public_and_private = ECAlgorithm.to_jwk(key, as_dict=True)
        case _:
            public_and_private = OKPAlgorithm.to_jwk(key, as_dict=True)
    return json.dumps(public_and_private | members).encode()


class Timer:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def settings_of(**introspection: Any) -> IntrospectionSettings:
    settings = issuer_with(introspection).introspection
    assert settings is not None
    return settings


def authentication(
    file: Path, method: str, timer: Timer | None = None, client_id: str = "my-api"
) -> ClientAuthentication:
    name = "private_key_file" if method == "private_key_jwt" else "client_secret_file"
    settings = settings_of(auth_method=method, client_id=client_id, **{name: str(file)})
    return authentication_of(settings, ISSUER, clock=lambda: NOW + 0.75, timer=timer or Timer())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


# Secrets.


@given(st.text(min_size=1), st.text(min_size=1).filter(lambda text: not text.endswith(("\n", "\r"))))
def test_client_id_and_secret_are_form_urlencoded_before_they_are_joined(client_id: str, secret: str) -> None:
    class Secret(SecretFile):
        def read(self) -> bytes:
            return secret.encode("utf-8", "replace")

    encodable = client_id.encode("utf-8", "replace").decode()
    headers = ClientSecretBasic(encodable, Secret(None, Timer())).add_to({})
    scheme, _, encoded = headers["Authorization"].partition(" ")
    user, _, password = base64.b64decode(encoded).decode("ascii").partition(":")
    assert scheme == "Basic"
    assert (unquote_plus(user), unquote_plus(password)) == (encodable, secret.encode("utf-8", "replace").decode())


def test_the_header_is_that_of_rfc_6749(file: Path) -> None:
    file.write_text("a b:c%d+e&f=ü/~")
    headers = authentication(file, "client_secret_basic", client_id="me:x").add_to({})
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"me%3Ax:a+b%3Ac%25d%2Be%26f%3D%C3%BC%2F~"


def test_client_secret_post_puts_the_secret_unchanged_into_the_form(file: Path) -> None:
    file.write_text("a b:c%d")
    form = {"token": "t"}
    assert authentication(file, "client_secret_post").add_to(form) == {}
    assert form == {"token": "t", "client_id": "my-api", "client_secret": "a b:c%d"}


def test_a_bearer_token_goes_into_the_header_and_is_read_again(file: Path) -> None:
    timer, form = Timer(), {"token": "t"}
    file.write_text("one\n")
    settings = settings_of(auth_method="bearer_token", bearer_token_file=str(file))
    bearer = authentication_of(settings, ISSUER, clock=lambda: NOW, timer=timer)
    assert (bearer.add_to(form), form) == ({"Authorization": "Bearer one"}, {"token": "t"})
    file.write_text("two")
    timer.now = 2.0
    assert bearer.add_to(form) == {"Authorization": "Bearer two"}


@pytest.mark.parametrize("content", ["two tokens", "a\r\nx-injected: b", "\x00", "é"])
def test_a_file_without_a_bearer_token_is_a_problem_and_is_not_quoted(file: Path, content: str) -> None:
    file.write_text(content)
    problem = problem_of(settings_of(auth_method="bearer_token", bearer_token_file=str(file)))
    assert problem is not None
    assert content not in problem


def test_a_client_with_a_certificate_names_itself_in_the_form() -> None:
    form = {"token": "t"}
    settings = settings_of(auth_method="tls_client_auth", client_id="me")
    assert authentication_of(settings, ISSUER, clock=lambda: NOW, timer=Timer()).add_to(form) == {}
    assert form == {"token": "t", "client_id": "me"}
    assert problem_of(settings) is None


@pytest.mark.parametrize(
    ("written", "secret"),
    [("s\n", "s"), ("s\r\n", "s"), ("s", "s"), (" s ", " s "), ("s\n\n", "s\n"), ("a\nb", "a\nb")],
)
def test_one_newline_at_the_end_of_the_file_is_ignored(file: Path, written: str, secret: str) -> None:
    file.write_bytes(written.encode())
    form: dict[str, str] = {}
    authentication(file, "client_secret_post").add_to(form)
    assert form["client_secret"] == secret


def test_a_secret_is_read_again_after_a_second(file: Path) -> None:
    timer = Timer()
    method = authentication(file, "client_secret_post", timer)

    def secret() -> str:
        form: dict[str, str] = {}
        method.add_to(form)
        return form["client_secret"]

    file.write_text("old")
    assert secret() == "old"
    file.write_text("new")
    timer.now = 0.9
    assert secret() == "old"
    timer.now = 1.0
    assert secret() == "new"


def test_a_symlink_swap_as_kubernetes_does_it_is_detected(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "secret").write_text(version)
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "secret").symlink_to("data/secret")
    timer = Timer()
    secret_file = SecretFile(tmp_path / "secret", timer)
    assert secret_file.read() == b"one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    timer.now = 1.0
    assert secret_file.read() == b"two"


@pytest.mark.parametrize("problem", ["missing", "empty", "too large"])
def test_the_last_good_secret_is_used_while_the_file_is_unusable(file: Path, problem: str) -> None:
    timer = Timer()
    secret_file = SecretFile(file, timer)
    file.write_text("good")
    assert secret_file.read() == b"good"
    if problem == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if problem == "empty" else b"x" * 100_000)
    timer.now = 5.0
    assert secret_file.read() == b"good"
    file.write_text("better")
    timer.now = 6.0
    assert secret_file.read() == b"better"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"x" * 100_000, b"\xff"])
def test_without_a_usable_secret_authentication_fails_until_there_is_one(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    timer = Timer()
    method = authentication(file, "client_secret_basic", timer)
    with pytest.raises(FetchFailed):
        method.add_to({})
    file.write_text("good")
    timer.now = 1.0
    assert "Authorization" in method.add_to({})


# Private keys.


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", ["PEM", "JWK", "JWK with kid"])
def test_an_assertion_is_signed_with_the_keys_algorithm_and_names_client_and_issuer(
    file: Path, kind: str, form: str
) -> None:
    key, algorithm = KEYS[kind]
    file.write_bytes(pem(key) if form == "PEM" else jwk(key, **({"kid": "k1"} if "kid" in form else {})))
    sent: dict[str, str] = {"token": "t"}
    assert authentication(file, "private_key_jwt").add_to(sent) == {}
    assert sent["client_id"] == "my-api"
    assert sent["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    header = jwt.get_unverified_header(sent["client_assertion"])
    assert header == {"alg": algorithm, "typ": "JWT"} | ({"kid": "k1"} if "kid" in form else {})
    claims = jwt.decode(
        sent["client_assertion"], key.public_key(), [algorithm], audience=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert claims.pop("jti")
    assert claims == {"iss": "my-api", "sub": "my-api", "aud": ISSUER, "iat": NOW, "exp": NOW + 60}


def test_each_request_has_an_assertion_of_its_own(file: Path) -> None:
    file.write_bytes(pem(RSA_KEY))
    method = authentication(file, "private_key_jwt")
    ids = set()
    for _ in range(20):
        form: dict[str, str] = {}
        method.add_to(form)
        ids.add(jwt.decode(form["client_assertion"], options={"verify_signature": False})["jti"])
    assert len(ids) == 20


def test_a_replaced_key_signs_from_then_on(file: Path) -> None:
    timer = Timer()
    method = authentication(file, "private_key_jwt", timer)
    for kind in ("RSA", "P-256", "Ed25519"):
        file.write_bytes(pem(KEYS[kind][0]))
        timer.now += 1.0
        form: dict[str, str] = {}
        method.add_to(form)
        assert jwt.get_unverified_header(form["client_assertion"])["alg"] == KEYS[kind][1]


@pytest.mark.parametrize(
    ("content", "algorithm"),
    [
        (pem(RSA_KEY, PrivateFormat.TraditionalOpenSSL), "RS256"),
        (jwk(RSA_KEY, alg="PS256"), "PS256"),
        (jwk(RSA_KEY, alg="RS512"), "RS512"),
        (b"\n " + jwk(RSA_KEY), "RS256"),
    ],
)
def test_a_jwk_may_name_its_algorithm(content: bytes, algorithm: str) -> None:
    assert parse_signing_key(content).algorithm == algorithm


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        b"{}",
        b'{"kty": "oct", "k": "c2VjcmV0"}',
        b'{"kty": "RSA"}',
        jwk(RSA_KEY, alg="ES256"),
        jwk(RSA_KEY, alg="HS256"),
        jwk(RSA_KEY, alg=["RS256"]),
        jwk(RSA_KEY, kid=7),
        json.dumps(RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)).encode(),
        pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - it must be rejected
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(dsa.generate_private_key(2048)),
        pem(RSA_KEY).replace(b"A", b"B"),
        jwk(RSA_KEY)[:-10],
    ],
)
def test_an_unusable_private_key_is_rejected_without_being_quoted(content: bytes) -> None:
    with pytest.raises(FetchFailed) as refused:
        parse_signing_key(content)
    message = str(refused.value)
    assert message.startswith("the client's private key")
    assert not any(part in message for part in content.decode().split() if len(part) > 20)


# Start-up check.


def test_an_unusable_file_is_reported_before_it_is_needed(file: Path) -> None:
    secret = settings_of(client_secret_file=str(file))
    key = settings_of(auth_method="private_key_jwt", private_key_file=str(file))
    assert problem_of(secret) == "the file with the client's secret or key cannot be read: No such file or directory"
    file.write_text("s3cret")
    assert problem_of(secret) is None
    assert "private key" in (problem_of(key) or "")
    file.write_bytes(pem(RSA_KEY))
    assert problem_of(key) is None
