"""Only usable certificates are handed out, and they stay in use until there are new usable ones."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authz_service.config import files as config_files
from authz_service.config.server import Tls
from authz_service.core.errors import StartFailed
from authz_service.transport.tls.certificates import CertificateFiles
from transport.pki import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz_service.config.files import FileVersion


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)


def encrypt_key(files: TlsFiles) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    files.key.write_bytes(encrypted)


def write_key_of_another_kind(files: TlsFiles) -> None:
    key = Ed25519PrivateKey.generate()
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def reverse_chain(files: TlsFiles) -> None:
    intermediate = trustme.CA().create_child_ca()
    leaf = intermediate.issue_cert("a.example")
    files.write_key(leaf)
    chain = [blob.bytes() for blob in leaf.cert_chain_pems]
    files.certificate.write_bytes(b"".join(reversed(chain)))


def replace_by_directory(files: TlsFiles) -> None:
    files.certificate.unlink()
    files.certificate.mkdir()


NO_CERTIFICATES, NO_KEY = "certificate_file holds no certificates", "key_file holds no private key"
NOT_A_PAIR = "key_file does not belong to the first certificate in certificate_file"
UNUSABLE: dict[str, tuple[Callable[[TlsFiles], object], str]] = {
    "no certificate file": (lambda files: files.certificate.unlink(), "/tls.crt cannot be read: "),
    "no key file": (lambda files: files.key.unlink(), "/tls.key cannot be read: "),
    "no client authority": (lambda files: files.client_ca.unlink(), "/ca.crt cannot be read: "),
    "an empty certificate file": (lambda files: files.certificate.write_bytes(b""), NO_CERTIFICATES),
    "an empty key file": (lambda files: files.key.write_bytes(b""), NO_KEY),
    "an empty client authority": (
        lambda files: files.client_ca.write_bytes(b""),
        "client_ca_file holds no certificates",
    ),
    "no PEM": (lambda files: files.certificate.write_bytes(b"\xff\x00"), NO_CERTIFICATES),
    "a broken certificate": (
        lambda files: files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        NO_CERTIFICATES,
    ),
    "half a certificate": (
        lambda files: files.certificate.write_bytes(files.certificate.read_bytes()[:200]),
        NO_CERTIFICATES,
    ),
    "half a key": (lambda files: files.key.write_bytes(files.key.read_bytes()[:100]), NO_KEY),
    "the key of another certificate": (
        lambda files: files.write_key(trustme.CA().issue_cert("a.example")),
        NOT_A_PAIR,
    ),
    "a key of another kind": (write_key_of_another_kind, NOT_A_PAIR),
    "a key with a password": (encrypt_key, NO_KEY),
    "the files swapped": (
        lambda files: files.certificate.write_bytes(files.key.read_bytes()),
        NO_CERTIFICATES,
    ),
    "a chain in the wrong order": (reverse_chain, NOT_A_PAIR),
    "a key as client authority": (
        lambda files: files.client_ca.write_bytes(files.key.read_bytes()),
        "client_ca_file holds no certificates",
    ),
    "a directory": (replace_by_directory, "/tls.crt cannot be read: "),
}
unusable = pytest.mark.parametrize(("damage", "why"), UNUSABLE.values(), ids=UNUSABLE.keys())


def test_usable_files_are_read_unchanged(files: TlsFiles) -> None:
    current = CertificateFiles(files.settings).current
    assert current.chain == files.certificate.read_bytes()
    assert current.key == files.key.read_bytes()
    assert current.client_ca == files.client_ca.read_bytes()


def test_the_client_authority_is_optional(authority: trustme.CA, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    assert CertificateFiles(files.settings).current.client_ca is None


@unusable
def test_unusable_files_are_refused_at_startup_with_the_reason(
    files: TlsFiles, damage: Callable[[TlsFiles], object], why: str
) -> None:
    tls = files.settings
    damage(files)
    with pytest.raises(StartFailed, match=re.escape(why)):
        CertificateFiles(tls)


def test_unchanged_files_are_not_reported(files: TlsFiles) -> None:
    certificates = CertificateFiles(files.settings)
    assert certificates.changed() is None
    assert certificates.changed() is None


def test_files_are_not_read_again_until_they_change_unless_they_have_just_changed(
    files: TlsFiles, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    version_of = config_files.version_of

    def counting(path: Path, max_bytes: int) -> FileVersion:
        reads.append(path)
        return version_of(path, max_bytes)

    monkeypatch.setattr(config_files, "version_of", counting)
    source = CertificateFiles(files.settings)
    for _ in range(2):  # they have just been written: another change could have the same time
        reads.clear()
        assert source.changed() is None
        assert len(reads) == 3
    later = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(config_files, "time", SimpleNamespace(time_ns=lambda: later))
    assert source.changed() is None
    reads.clear()
    assert source.changed() is None
    assert reads == []
    time.sleep(0.05)  # longer than a tick of the file system's clock
    renewed = authority.issue_cert("b.example")
    files.write(renewed)
    changed = source.changed()
    assert changed is not None
    assert changed.key == renewed.private_key_pem.bytes()


def test_a_usable_change_is_reported_once(files: TlsFiles, authority: trustme.CA) -> None:
    certificates = CertificateFiles(files.settings)
    files.write(authority.issue_cert("b.example"))
    changed = certificates.changed()
    assert changed is not None
    assert changed.chain == files.certificate.read_bytes()
    assert certificates.current is changed
    assert certificates.changed() is None


def test_files_rewritten_with_the_same_content_are_not_reported(files: TlsFiles) -> None:
    certificates = CertificateFiles(files.settings)
    files.certificate.write_bytes(files.certificate.read_bytes())
    assert certificates.changed() is None
    assert certificates.changed() is None


@unusable
def test_a_change_to_unusable_files_is_logged_once_and_the_previous_ones_stay_in_use(
    files: TlsFiles,
    damage: Callable[[TlsFiles], object],
    why: str,
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificates = CertificateFiles(files.settings)
    good = certificates.current
    damage(files)
    with caplog.at_level(logging.WARNING, "authz.tls"):
        assert certificates.changed() is None
        assert certificates.changed() is None
    assert certificates.current is good
    assert [record.message for record in caplog.records] == ["certificates rejected; the previous ones stay active"]
    assert why in vars(caplog.records[0])["fields"]["cause"]
    if files.certificate.is_dir():
        files.certificate.rmdir()
    files.write(authority.issue_cert("b.example"))
    authority.cert_pem.write_to_path(files.client_ca)
    changed = certificates.changed()
    assert changed is not None
    assert changed.chain == files.certificate.read_bytes()


def test_a_pair_that_is_changed_file_by_file_is_used_once_it_is_complete(
    files: TlsFiles, authority: trustme.CA
) -> None:
    certificates = CertificateFiles(files.settings)
    new = authority.issue_cert("b.example")
    files.write_certificate(new)
    assert certificates.changed() is None
    files.write_key(new)
    assert certificates.changed() is not None


def test_a_mounted_secret_is_reloaded_when_kubernetes_swaps_the_link_above_it(
    authority: trustme.CA, tmp_path: Path
) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        TlsFiles(tmp_path / name, authority.issue_cert("a.example"))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    link = {"certificate_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    certificates = CertificateFiles(Tls.read(link))
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    changed = certificates.changed()
    assert changed is not None
    assert changed.chain == (tmp_path / "..2" / "tls.crt").read_bytes()


def test_the_validity_is_the_time_in_which_every_certificate_of_the_chain_is_valid(
    authority: trustme.CA, tmp_path: Path
) -> None:
    early, late = datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    files = TlsFiles(tmp_path, authority.issue_cert("a.example", not_after=late))
    alone = CertificateFiles(files.settings).validity()
    assert alone.not_before < time.time() < alone.not_after == late.timestamp()
    with files.certificate.open("ab") as chain:
        chain.write(authority.issue_cert("b.example", not_after=early).cert_chain_pems[0].bytes())
    assert CertificateFiles(files.settings).validity() == (alone.not_before, early.timestamp())


def test_reading_the_validity_finds_new_files_and_the_next_handshake_uses_them(
    files: TlsFiles, authority: trustme.CA
) -> None:
    certificates = CertificateFiles(files.settings)
    soon = datetime(2030, 1, 1, tzinfo=UTC)
    files.write(authority.issue_cert("a.example", not_after=soon))
    assert certificates.validity().not_after == soon.timestamp()
    changed = certificates.changed()
    assert changed is not None
    assert changed.chain == files.certificate.read_bytes()
    assert certificates.changed() is None


def test_no_error_shows_a_key(files: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    certificates = CertificateFiles(files.settings)
    secret = files.key.read_text().splitlines()[1]
    files.certificate.write_bytes(files.key.read_bytes())
    certificates.changed()
    assert secret not in str([record.__dict__ for record in caplog.records])
    with pytest.raises(StartFailed) as failed:
        CertificateFiles(files.settings)
    assert secret not in str(failed.value)
