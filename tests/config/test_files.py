"""Whatever has come to stand under a name, reading it neither waits nor goes on without end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from transport.pki import TlsFiles

from authz_service.config import files, watch
from authz_service.config.load import load, server_of
from authz_service.core.errors import ConfigError, FetchFailed
from authz_service.keys.file_source import FileSource
from authz_service.keys.snapshot import SnapshotFile
from authz_service.providers.client_authentication import SecretFile
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


def test_what_is_no_regular_file_is_not_read(tmp_path: Path, become: Callable[[Path], object]) -> None:
    become(tmp_path / "file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"not a regular file|Is a directory|Too many levels of symbolic links"):
        files.read(tmp_path / "file", 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_of_a_file_no_more_than_one_byte_beyond_the_most_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert [files.read(tmp_path / "link", most) for most in (3, 9, 10, 11)] == [b"0123", *[b"0123456789"] * 3]


def test_keys_and_secrets_and_what_is_watched_are_read_so(tmp_path: Path, become: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    become(path)
    for read in (
        FileSource(path, max_bytes=10, max_keys=1).read,
        SnapshotFile(path, issuer="https://idp.example", max_bytes=10, max_keys=1).load,
        SecretFile(path, lambda: 0.0).read,
    ):
        with pytest.raises(FetchFailed, match="cannot be read"):
            read()
    assert watch.digests_of([path]) == watch.digests_of([path])


def test_a_configuration_is_read_so_but_from_a_pipe_that_the_shell_made(
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


async def test_certificates_are_read_so_and_the_good_ones_stay(
    tmp_path: Path, become: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    written = TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)
    served = CertificateFiles(written.settings)
    for path in (written.client_ca, written.key, written.certificate):
        path.unlink()
        become(path)
        # Beside the loop, or a test that fails would never end.
        assert await asyncio.wait_for(asyncio.to_thread(served.changed), 10) is None
    assert {record.message for record in caplog.records} == {"certificates refused, the old ones stay"}
