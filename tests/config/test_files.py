"""Configured files: reads never block and are bounded, and every change of content is detected."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from transport.pki import TlsFiles

from authz_service.config import files
from authz_service.config.load import load
from authz_service.config.model import Keys, Settings
from authz_service.config.server_section import server_of
from authz_service.core.errors import ConfigError, FetchFailed
from authz_service.keys.file_source import FileSource
from authz_service.keys.snapshot import SnapshotFile
from authz_service.providers.secret_file import SecretFile
from authz_service.transport.tls.certificates import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Callable


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.fixture(params=[os.mkfifo, Path.mkdir, device, loop], ids=["pipe", "folder", "device", "loop"])
def become(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    stand_in: Callable[[Path], object] = request.param
    return stand_in


def test_only_a_regular_file_is_read(tmp_path: Path, become: Callable[[Path], object]) -> None:
    become(tmp_path / "file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"not a regular file|Is a directory|Too many levels of symbolic links"):
        files.read(tmp_path / "file", 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_larger_than_the_limit_is_refused_after_one_byte_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert [files.read(tmp_path / "link", limit) for limit in (10, 11)] == [b"0123456789"] * 2
    with pytest.raises(files.FileTooLargeError, match="larger than 9 bytes"):
        files.read(tmp_path / "link", 9)
    beyond = files.version_of(tmp_path / "link", 3).digest
    (tmp_path / "file").write_bytes(b"0123xxxxxx")
    assert files.version_of(tmp_path / "link", 3).digest == beyond


def test_key_sets_snapshots_secrets_and_reloads_refuse_what_is_not_a_regular_file(
    tmp_path: Path, become: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    become(path)
    for read in (
        FileSource(path, Keys.read({"jwks_file": str(path), "max_bytes": "10B"})).read,
        SnapshotFile(path, issuer="https://idp.example", max_bytes=10, max_keys=1).load,
        SecretFile(path, lambda: 0.0).read,
    ):
        with pytest.raises(FetchFailed, match="cannot be read"):
            read()
    assert files.digests_of([path]) == files.digests_of([path])


def test_a_configuration_is_a_regular_file_or_a_pipe_made_by_the_shell(
    tmp_path: Path, become: Callable[[Path], object]
) -> None:
    become(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"config.yaml:1: cannot be read: "):
        load(tmp_path / "config.yaml")
    ours, theirs = os.pipe()
    with open(ours, "rb"), open(theirs, "wb") as writing:  # noqa: PTH123 - of descriptors
        writing.write(b"server: {workers: 3}")
        writing.close()
        assert server_of(Path(f"/dev/fd/{ours}")).workers == 3


async def test_certificates_are_regular_files_and_the_last_good_ones_stay_in_use(
    tmp_path: Path, become: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    written = TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)
    served = CertificateFiles(written.settings)
    for path in (written.client_ca, written.key, written.certificate):
        path.unlink()
        become(path)
        # In a thread, so that a read that blocks fails the test instead of hanging it.
        assert await asyncio.wait_for(asyncio.to_thread(served.changed), 10) is None
    assert {record.message for record in caplog.records} == {"certificates rejected; the previous ones stay active"}


# Change detection.


def mounted(folder: Path, name: str, text: str) -> None:
    """Mount the next version of a file as Kubernetes does: swap the symbolic link above it."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    (version / name).write_text(text)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / name).is_symlink():
        (folder / name).symlink_to(f"..data/{name}")


def rewritten(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def renamed_over(folder: Path, name: str, text: str) -> None:
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


@pytest.mark.parametrize("change", [mounted, rewritten, renamed_over])
def test_a_change_of_content_is_detected_however_the_file_is_replaced(
    tmp_path: Path, change: Callable[[Path, str, str], None]
) -> None:
    file = tmp_path / "config.yaml"
    change(tmp_path, file.name, "a: 1")
    first = files.digests_of([file])
    assert files.digests_of([file]) == first
    change(tmp_path, file.name, "a: 2")
    assert files.digests_of([file]) != first
    change(tmp_path, file.name, "a: 1")
    assert files.digests_of([file]) == first


def test_a_missing_file_an_empty_file_and_a_directory_differ(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    absent = files.digests_of([file])
    file.write_text("")
    empty = files.digests_of([file])
    file.unlink()
    file.mkdir()
    directory = files.digests_of([file])
    assert len({tuple(each.values()) for each in (absent, empty, directory)}) == 3


def test_a_reload_follows_the_trust_anchors_and_leaves_key_sets_to_their_source(tmp_path: Path) -> None:
    keys = [{"ca_file": "a.pem"}, {"jwks_file": "jwks.json"}, {}]
    issuers = [
        {"issuer": f"https://{place}.example/", "audiences": ["a"], "keys": each} for place, each in enumerate(keys)
    ]
    settings = Settings.read({"issuers": issuers, "rules": [{"name": "r"}]})
    assert [str(file) for file in settings.reloaded_files] == ["a.pem"]
