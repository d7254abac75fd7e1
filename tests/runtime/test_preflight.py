"""Reading a configuration checks the files that it names."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz_service.config import files
from authz_service.config.load import load_with_source
from authz_service.config.nonce_key import read_nonce_key
from authz_service.core.errors import ConfigError
from authz_service.runtime import preflight
from authz_service.runtime.certificate_warnings import certificate_warnings
from support.configured_app import issuer

if TYPE_CHECKING:
    from pathlib import Path

    from support.configured_app import ConfigFolder


def test_a_change_while_the_file_is_read_is_detected(config: ConfigFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_after_reading(*arguments: Any) -> Any:
        result = load_with_source(*arguments)
        config.file.write_text("something else")
        return result

    config.load()
    monkeypatch.setattr(preflight, "load_with_source", change_after_reading)
    assert preflight.read(config.file).digests != files.digests_of([config.file])


def problem_with(config: ConfigFolder, **introspection: Any) -> str:
    """The one problem of a configuration with this introspection."""
    endpoint = {"endpoint": "https://idp.example/introspect", "client_id": "api"}
    with pytest.raises(ConfigError) as rejected:
        config.load(issuer(introspection=endpoint | introspection))
    (problem,) = rejected.value.problems
    return problem


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"bearer_token_file": "other"}, "bearer_token_file: the file with the bearer token holds more than a token"),
        ({"ca_file": "other"}, "ca_file: holds no certificate that can be read: write PEM"),
        (
            {"client_certificate_file": "other", "client_key_file": "other"},
            "client_certificate_file: keys.client_certificate_file holds no certificates in PEM",
        ),
    ],
)
def test_an_unusable_file_for_requests_to_the_provider_is_a_problem(
    config: ConfigFolder, keys: dict[str, str], problem: str
) -> None:
    (config.folder / "other").write_text("not a token")
    with pytest.raises(ConfigError) as rejected:
        config.load(issuer(keys={"jwks_uri": "https://idp.example/keys"} | keys))
    (line,) = rejected.value.problems
    assert f": issuers[0].keys.{problem}" in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", "pem_file has no PEM, expected -----BEGIN PUBLIC KEY----- or "),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "block 1 is a private key, with which anyone ",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "the file has no usable key; block 1: its content",
        ),
        ("-----BEGIN PUBLIC KEY-----\nAAAA", "a block, 'PUBLIC KEY', has no END line"),
    ],
)
def test_a_file_in_pem_without_a_usable_public_key_is_a_problem(
    config: ConfigFolder, content: str, problem: str
) -> None:
    (config.folder / "idp.pem").write_text(content)
    with pytest.raises(ConfigError) as rejected:
        config.load(issuer(keys={"pem_file": "idp.pem"}))
    (line,) = rejected.value.problems
    assert f": issuers[0].keys.pem_file: {problem}" in line


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_client_secret_is_a_problem(config: ConfigFolder, content: str) -> None:
    (config.folder / "secret").write_text(content)
    assert "issuers[0].introspection.client_secret_file" in problem_with(config, client_secret_file="secret")


def test_an_invalid_private_key_is_a_problem(config: ConfigFolder) -> None:
    (config.folder / "secret").write_text("s3cret\n")
    problem = problem_with(config, auth_method="private_key_jwt", private_key_file="secret")
    assert "issuers[0].introspection.private_key_file" in problem
    assert "private key" in problem


@pytest.mark.parametrize("key", ["client_secret_file", "private_key_file", "bearer_token_file"])
def test_an_unusable_credential_for_security_events_is_a_problem(config: ConfigFolder, key: str) -> None:
    (config.folder / "credential").write_text("\n")
    client = {} if key == "bearer_token_file" else {"client_id": "me"}
    events = {"poll_endpoint": "https://idp.example/poll", "audience": "api", key: "credential"}
    with pytest.raises(ConfigError) as rejected:
        config.load(issuer(security_events=events | client))
    (problem,) = rejected.value.problems
    assert f": issuers[0].security_events.{key}: " in problem


@pytest.mark.parametrize(("content", "size"), [("", 0), ("a" * 31, 31)])
def test_a_key_of_nonces_that_could_be_guessed_is_a_problem(config: ConfigFolder, content: str, size: int) -> None:
    (config.folder / "nonce.key").write_text(content)
    with pytest.raises(ConfigError) as rejected:
        config.load(issuer(), dpop={"nonce": "required", "nonce_key_file": "nonce.key"})
    (line,) = rejected.value.problems
    assert f": dpop.nonce_key_file: has {size} bytes, expected 32 or more" in line


def test_every_byte_of_a_key_of_nonces_counts_as_random_bytes_may_end_in_a_newline(config: ConfigFolder) -> None:
    for key in (b"a" * 32, b"a" * 31 + b"\n", b"a" * 30 + b"\r\n", b"a" * 32 + b"\n"):
        (config.folder / "nonce.key").write_bytes(key)
        assert read_nonce_key(config.folder / "nonce.key") == key


NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def write_certificate(folder: Path, begin: timedelta, end: timedelta) -> dict[str, str]:
    """A self-signed certificate that is valid between these times from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW + begin, NOW + end)
    (folder / "tls.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    unencrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.key").write_bytes(unencrypted)
    return {"certificate_file": "tls.crt", "key_file": "tls.key"}


@pytest.mark.parametrize(
    ("begin", "end", "warning"),
    [
        (-100 * DAY, -DAY, "expired at "),
        (-DAY, 20 * DAY, "expires at "),
        (-80 * DAY, 10 * DAY, "expires at "),
        (-60 * DAY, 30 * DAY, ""),
        (-DAY, 4 * DAY, "expires at "),
        (-0.1 * DAY, DAY, "expires at "),
        (-0.5 * DAY, 0.5 * DAY, ""),
        (-0.9 * DAY, 0.1 * DAY, "expires at "),
        (DAY, 90 * DAY, "is not valid before "),
    ],
)
@pytest.mark.parametrize("side", ["server", "client"])
def test_a_certificate_that_is_not_valid_now_or_soon_causes_a_warning(
    side: str, begin: timedelta, end: timedelta, warning: str, config: ConfigFolder
) -> None:
    pair = write_certificate(config.folder, begin, end)
    if side == "server":
        loaded, key = config.load(server={"tls": pair}), "server.tls.certificate_file"
    else:
        keys = {f"client_{name}": file for name, file in pair.items()}
        loaded = config.load(issuer(keys={"jwks_uri": "https://idp.example/keys"} | keys))
        key = "issuers[0].keys.client_certificate_file"
    warnings = preflight.warnings_of(loaded)
    found = [line for line in warnings if f": warning: {key}: {warning}" in line]
    assert len(found) == (1 if warning else 0)
    assert len(warnings) == len(found)


def test_a_certificate_that_is_replaced_by_an_unusable_one_after_the_check_causes_no_error(
    config: ConfigFolder,
) -> None:
    loaded = config.load(server={"tls": write_certificate(config.folder, -DAY, 90 * DAY)})
    (config.folder / "tls.crt").write_text("")
    assert list(certificate_warnings(loaded.settings, NOW.timestamp())) == []


def test_a_file_for_decisions_that_cannot_be_written_is_a_problem(
    config: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = config.file.parent / "decisions.log"
    logged = {"logging": {"decisions_file": "decisions.log"}}
    assert config.load(issuer(), **logged).settings.logging.decisions_file == decisions
    assert not decisions.exists()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for another user, or on a read-only file system
    for unwritable in (decisions.parent, decisions):
        with pytest.raises(ConfigError) as rejected:
            config.load(issuer(), **logged)
        (problem,) = rejected.value.problems
        assert f"logging.decisions_file: {unwritable} is not writable for this user" in problem
        decisions.touch()
