"""A file that the service writes itself is replaced as a whole, and not opened if others may have written it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz_service.config import own_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    own_files.replace(path, [b"o", b"ld"])
    return path


def test_the_new_content_is_on_the_disk_and_readable_by_its_owner_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronized = []

    def fsync(descriptor: int) -> None:
        synchronized.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    own_files.replace(path, iter([b"n", b"ew"]))
    assert path.stat().st_mode & 0o777 == 0o600
    (_, before), folder = synchronized
    assert before == b"old"
    assert folder == (path.parent, b"new")


def test_what_fails_leaves_the_old_file_and_no_temporary_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("a bug")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(ValueError, match="a bug"):
        own_files.replace(path, broken())
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        own_files.replace(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_other_users_may_write_is_not_opened(path: Path, mode: int, *, append: bool) -> None:
    path.chmod(mode)
    with (
        pytest.raises(own_files.UntrustedFileError, match=rf"^is writable by other users \(mode {mode:04o}\)"),
        own_files.open_own(path, append=append),
    ):
        pass


def test_a_file_of_another_user_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:  # only root can change the owner of a file, so change our own id
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(own_files.UntrustedFileError, match=r"^belongs to another user"), own_files.open_own(path):
        pass


def test_what_is_written_is_appended(path: Path) -> None:
    with own_files.open_own(path, append=True) as file:
        assert file.read(1) == b"o"
        file.seek(0)
        file.write(b"er")
    assert path.read_bytes() == b"older"


def test_without_append_nothing_can_be_written(path: Path) -> None:
    with own_files.open_own(path) as file:
        assert file.read() == b"old"
        assert not file.writable()


def test_what_a_killed_process_left_is_removed_and_nothing_else(path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from authz_service.config import own_files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "own_files.replace(pathlib.Path(sys.argv[1]), [b'new'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -signal.SIGKILL
    others = [path.with_name(name) for name in (".own.swp", ".another.abcdefgh", "own.abcdefgh", ".own.abcdefgh.x")]
    for each in others:
        each.touch()
    assert len(list(path.parent.iterdir())) == len(others) + 2
    own_files.remove_temporary_files(path)
    assert set(path.parent.iterdir()) == {path, *others}
    assert path.read_bytes() == b"old"
