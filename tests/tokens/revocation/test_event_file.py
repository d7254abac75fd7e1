"""The file of events loses nothing that was saved, costs one line where one is damaged, and has one writer."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.own_files import UntrustedFileError
from authz_service.tokens.revocation import event_file
from authz_service.tokens.revocation.event_file import MAX_LINE, EventFile, UnusableFileError
from authz_service.tokens.revocation.event_store import EventStore
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from support.trust import ISSUER, NOW

if TYPE_CHECKING:
    from collections.abc import Iterable

KEEP = 3600.0
HEADER = json.dumps({"version": 1, "issuer": ISSUER, "id": "0123"}).encode() + b"\n"
LINE = b'{"subject":"u1","issued_before":1800000000.5,"type":"session-revoked"}\n'


def of(subject: str, before: float = NOW, origin: str = "session-revoked") -> Revocation:
    return Revocation(TokenParts(subject=subject), before, origin)


class Process:
    """What one process has: the file and its store."""

    def __init__(self, path: Path, issuer: str = ISSUER) -> None:
        self.file = EventFile(path, issuer)
        self.store = EventStore(KEEP, 100_000)
        self.damaged = 0

    def read(self) -> set[str]:
        """Read what is new; returns the subjects of it."""
        subjects = set()
        more = True
        while more:
            read, damaged, more = self.file.read()
            for each in read:
                self.store.add(each, NOW)
            subjects |= {each.parts.subject for each in read}
            self.damaged += damaged
        return subjects

    def save(self, *subjects: str) -> None:
        new = [of(each) for each in subjects]
        for each in new:
            self.store.add(each, NOW)
        self.file.save(new, self.store, NOW)

    @property
    def subjects(self) -> set[str]:
        return {each.parts.subject for each in self.store}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.json"


def leader(path: Path) -> Process:
    process = Process(path)
    assert process.file.lock()
    process.read()
    return process


# Saving and following.


def test_what_is_saved_is_read_back_exactly(path: Path) -> None:
    revocations = [
        Revocation(TokenParts(subject="u\u00e9\u2028\U0001f600\n\"'"), NOW + 0.1, "account-disabled"),
        Revocation(TokenParts(issuer="https://idp.example/t1", subject="u", session="s"), NOW - 60, "account-purged"),
        Revocation(TokenParts(session="s", client="c", jti="j", kid="k"), float(NOW), "other"),
    ]
    first = leader(path)
    for saved in (revocations[:1], revocations[1:]):
        for each in saved:
            first.store.add(each, NOW)
        first.file.save(saved, first.store, NOW)
    assert Process(path).file.read().revocations == revocations
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_follower_reads_what_is_new_and_everything_after_the_file_was_replaced(path: Path) -> None:
    first, follower = leader(path), Process(path)
    assert follower.read() == set()
    first.save("a", "b")
    assert follower.read() == {"a", "b"}
    assert follower.read() == set()
    first.save("c")
    assert follower.read() == {"c"}
    first.file.require_replacement()
    first.save("d")
    assert follower.read() == {"a", "b", "c", "d"}
    first.save()
    assert follower.read() == set()


def test_a_replaced_file_of_the_same_size_and_inode_is_noticed(path: Path) -> None:
    path.write_bytes(HEADER + LINE)
    follower = Process(path)
    follower.read()
    with path.open("r+b") as file:
        file.write((HEADER + LINE).replace(b"0123", b"4567").replace(b"u1", b"u2"))
    assert follower.read() == {"u2"}


def test_the_file_is_replaced_once_most_lines_are_outdated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes long
    first = leader(path)
    first.save(*map(str, range(100)))
    sizes = []
    for number in range(3000):
        later = of("0", NOW + number)
        first.store.add(later, NOW)
        first.file.save([later], first.store, NOW)
        sizes.append(path.stat().st_size)
    lines = event_file._SLACK + 2 * 100
    assert max(sizes) < (lines + 2) * 80
    assert sum(after < before for before, after in itertools.pairwise(sizes)) == 3000 // (lines - 100)
    assert leader_after(first, path).subjects == set(map(str, range(100)))


def leader_after(previous: Process, path: Path) -> Process:
    previous.file.unlock()
    return leader(path)


def test_the_time_of_the_last_save_is_known_to_others(path: Path) -> None:
    first, follower = leader(path), Process(path)
    first.save()
    assert first.file.complete_at == NOW
    follower.read()
    assert follower.file.complete_at == NOW


def test_without_a_file_there_is_nothing_to_read(path: Path) -> None:
    process = Process(path)
    assert process.read() == set()
    assert process.file.complete_at is None


def test_an_empty_file_is_filled(path: Path) -> None:
    path.touch(mode=0o600)
    leader(path).save("a")
    assert Process(path).read() == {"a"}


def test_each_save_is_on_the_disk_when_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronized = []

    def fsync(descriptor: int) -> None:
        synchronized.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    first = leader(path)
    first.save("a")
    new_file, folder = synchronized
    assert new_file.startswith(f"{path.parent}/.events.json.")
    assert folder == str(path.parent)
    first.save("b")
    assert synchronized[2:] == [str(path)]


def test_a_large_file_is_read_in_pieces(path: Path) -> None:
    count = 20_000
    path.write_bytes(HEADER + b"".join(LINE.replace(b"u1", b"u%d" % number) for number in range(count)))
    process = Process(path)
    pieces = []
    while (lines := process.file.read()).more:
        pieces.append(lines)
    assert len(pieces) > 4
    assert sum(len(each.revocations) for each in (*pieces, lines)) == count


# Damage.


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 1000,
        b'{"subject":"u1"}',
        b'{"subject":"","issued_before":1,"type":"session-revoked"}',
        b'{"issued_before":1,"type":"session-revoked"}',
        b'{"issuer":"x","issued_before":1,"type":"session-revoked"}',  # would revoke too much
        b'{"subject":7,"issued_before":1,"type":"session-revoked"}',
        b'{"subject":"u1","device":"d","issued_before":1,"type":"session-revoked"}',
        b'{"subject":"u1","issued_before":"1","type":"session-revoked"}',
        b'{"subject":"u1","issued_before":true,"type":"session-revoked"}',
        b'{"subject":"u1","issued_before":-1,"type":"session-revoked"}',
        b'{"subject":"u1","issued_before":NaN,"type":"session-revoked"}',
        b'{"subject":"u1","issued_before":1e400,"type":"session-revoked"}',
        b'{"subject":"u1","issued_before":1' + b"0" * 39 + b',"type":"session-revoked"}',
        b'{"subject":"u1","subject":"u2","issued_before":1,"type":"session-revoked"}',
        LINE[:-20],
        LINE[:-1] * 2,
        LINE[:-1].replace(b"u1", b"u" * MAX_LINE),
        b"x" * (3 * event_file._CHUNK),
        b"x" * (2 * event_file._CHUNK - len(HEADER + LINE)),
        b"\0" * 5000,
    ],
)
def test_a_damaged_line_costs_only_itself_and_is_counted(path: Path, line: bytes) -> None:
    path.write_bytes(HEADER + LINE.replace(b"u1", b"before") + line + b"\n" + LINE.replace(b"u1", b"after"))
    process = Process(path)
    assert process.read() == {"before", "after"}
    assert process.damaged == 1


@pytest.mark.parametrize("kind", [b'"token-claims-change"', b"7", b"null", b'["x"]'])
def test_a_type_of_a_later_version_revokes_all_the_same(path: Path, kind: bytes) -> None:
    path.write_bytes(HEADER + LINE.replace(b'"session-revoked"', kind))
    assert [each.origin for each in Process(path).file.read().revocations] == ["other"]


def test_a_line_without_its_end_counts_once_it_is_complete(path: Path) -> None:
    path.write_bytes(HEADER + LINE + LINE[:-1])
    follower = Process(path)
    assert len(follower.file.read().revocations) == 1
    assert not follower.file.read().revocations
    with path.open("ab") as file:
        file.write(b"\n")
    assert len(follower.file.read().revocations) == 1


def test_after_a_writer_that_crashed_the_next_line_is_one_of_its_own(path: Path) -> None:
    path.write_bytes(HEADER + LINE + LINE[:20])
    first, follower = leader(path), Process(path)
    follower.read()
    first.save("a")
    first.save("b")
    for each in (first, follower):
        assert each.read() == {"a", "b"}
        assert each.damaged == 1
    assert Process(path).read() == {"u1", "a", "b"}


@pytest.mark.parametrize("removed", [True, False])
def test_a_file_that_was_removed_or_cut_is_written_again_as_a_whole(path: Path, *, removed: bool) -> None:
    first = leader(path)
    first.save("a", "b")
    if removed:
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - len(LINE))
    first.read()
    first.save("c")
    assert Process(path).read() == {"a", "b", "c"}


def test_a_file_that_was_put_in_its_place_is_read_before_it_is_replaced(path: Path) -> None:
    first = leader(path)
    first.save("a")
    path.write_bytes(HEADER + LINE)
    with pytest.raises(UnusableFileError, match="was replaced by another process"):
        first.save("b")
    assert first.read() == {"u1"}
    first.save()
    assert Process(path).read() == {"a", "b", "u1"}


# Files that are not ours.


@pytest.mark.parametrize(
    "content",
    [
        HEADER.replace(ISSUER.encode(), b"https://other.example/") + LINE,
        HEADER.replace(b'"version": 1', b'"version": 2') + LINE,
        HEADER.replace(b'"version": 1, ', b"") + LINE,
        HEADER.replace(f'"{ISSUER}"'.encode(), b"7") + LINE,
        HEADER[:-1],
        LINE,
        b"\n" + HEADER,
        b"\0" * 100_000,
        b"-----BEGIN PRIVATE KEY-----\n",
        b'{"issuer": "https://idp.example/", "at": 1.0, "keys": []}',
    ],
)
def test_another_file_is_neither_read_nor_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    process = Process(path)
    assert process.file.lock()
    for _ in range(2):
        with pytest.raises(UnusableFileError, match="set another snapshot_file, or remove it"):
            process.read()
        with pytest.raises(UnusableFileError, match="set another snapshot_file, or remove it"):
            process.save("a")
    assert path.read_bytes() == content
    path.unlink()
    process.read()
    process.save("b")
    assert Process(path).read() == {"a", "b"}


def test_a_file_that_other_users_may_write_is_neither_read_nor_changed(path: Path) -> None:
    first = leader(path)
    first.save("a")
    path.chmod(0o660)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(UntrustedFileError, match=r"writable by other users \(mode 0660\): set mode 0600"):
            first.read()
        with pytest.raises(UntrustedFileError, match="writable by other users"):
            first.save("b")
    assert path.read_bytes() == before
    path.chmod(0o600)
    first.save()
    assert Process(path).read() == {"a", "b"}


def test_a_folder_or_a_fifo_in_its_place_blocks_nothing(path: Path) -> None:
    os.mkfifo(path)
    process = leader_without_file(path)
    with pytest.raises(OSError, match="not a regular file"):
        process.read()
    with pytest.raises(OSError, match="not a regular file"):
        process.save("a")
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        process.save("a")


def leader_without_file(path: Path) -> Process:
    process = Process(path)
    assert process.file.lock()
    return process


# A disk that fails.


def test_after_a_full_disk_everything_is_saved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    first = leader(path)
    first.save("a")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        for name in "bcd":
            with pytest.raises(OSError, match="disk full"):
                first.save(name)
    assert [each.name for each in sorted(path.parent.iterdir())] == ["events.json", "events.json.lock"]
    assert Process(path).read() >= {"a"}
    first.save()
    assert Process(path).read() == {"a", "b", "c", "d"}


def test_after_its_folder_vanished_and_returned_everything_is_saved(path: Path) -> None:
    folder = path.parent / "volume"
    folder.mkdir()
    first = leader(folder / "events.json")
    first.save("a")
    gone = folder.rename(path.parent / "gone")
    assert first.read() == set()
    with pytest.raises(FileNotFoundError):
        first.save("b")
    with pytest.raises(FileNotFoundError):
        first.file.lock()
    gone.rename(folder)
    assert first.file.lock()
    assert first.read() == {"a"}
    first.save()
    assert Process(folder / "events.json").read() == {"a", "b"}


# The lock.


def test_one_of_several_has_the_lock_until_it_releases_it(path: Path) -> None:
    first, second = Process(path), Process(path)
    assert first.file.lock()
    assert first.file.lock()
    assert not second.file.lock()
    first.file.unlock()
    assert second.file.lock()
    assert not first.file.lock()


def test_the_lock_of_a_process_that_was_killed_is_free(path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from authz_service.tokens.revocation.event_file import EventFile\n"
        "file = EventFile(pathlib.Path(sys.argv[1]), 'x')\n"
        "print(file.lock(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        process = Process(path)
        assert not process.file.lock()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert process.file.lock()


def test_a_lock_file_that_was_removed_is_not_a_lock_anymore(path: Path) -> None:
    first, second = leader(path), Process(path)
    (path.parent / "events.json.lock").unlink()
    assert second.file.lock()
    assert not first.file.lock()


def test_a_lock_that_the_file_system_has_lost_is_not_a_lock_anymore(path: Path) -> None:
    first, second = leader(path), Process(path)
    assert first.file._lock is not None
    fcntl.flock(first.file._lock, fcntl.LOCK_UN)  # as NFS does after an interruption
    assert second.file.lock()
    assert not first.file.lock()
    second.file.unlock()
    assert first.file.lock()


def test_who_has_lost_the_lock_writes_nothing(path: Path) -> None:
    first, second = leader(path), Process(path)
    first.save("a")
    first.file.lock_path.unlink()
    assert second.file.lock()
    with pytest.raises(UnusableFileError, match="locked by another process"):
        first.save("b")
    assert second.read() == {"a"}
    second.save("c")
    second.file.unlock()
    assert first.file.lock()
    first.read()
    first.save("d")
    assert Process(path).read() == {"a", "b", "c", "d"}


def test_what_a_killed_writer_left_is_removed_with_the_lock(path: Path) -> None:
    left = path.with_name(".events.json.0a_b3xyz")
    left.touch()
    assert Process(path).file.lock()
    assert not left.exists()


def test_a_symbolic_link_is_not_followed_to_lock_another_file(path: Path) -> None:
    (path.parent / "events.json.lock").symlink_to(path.parent / "other")
    with pytest.raises(OSError, match="symbolic link"):
        Process(path).file.lock()
    assert not (path.parent / "other").exists()


# Crashes.


def _written(batches: Iterable[list[str]], path: Path) -> list[int]:
    """Save batches; returns the size of the file after each."""
    first = leader(path)
    first.save()
    sizes = [path.stat().st_size]
    for batch in batches:
        first.save(*batch)
        sizes.append(path.stat().st_size)
    first.file.unlock()
    return sizes


_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)


@given(st.lists(st.lists(_NAMES, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_a_crash_during_a_write_loses_nothing_that_was_saved_before(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], data: Any
) -> None:
    path = tmp_path_factory.mktemp("crash") / "events.json"
    sizes = _written(batches, path)
    survivors = data.draw(st.integers(0, len(batches) - 1))
    os.truncate(path, data.draw(st.integers(sizes[survivors], sizes[survivors + 1])))
    saved = {name for batch in batches[:survivors] for name in batch}
    again = leader(path)
    assert saved <= again.subjects <= saved | set(batches[survivors])
    again.save("after")
    again.read()  # a line that lacked nothing but its end has one now
    again.file.unlock()
    assert leader(path).subjects == again.subjects


@given(st.lists(st.sampled_from([LINE, LINE.replace(b"u1", b"u2"), b"\n", LINE[:9], b"x" * 70_000]), max_size=8))
def test_any_sequence_of_lines_is_read_alike_at_once_and_as_it_grows(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "events.json"
    path.write_bytes(HEADER)
    growing = Process(path)
    with path.open("ab", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
            growing.read()
    at_once = Process(path)
    at_once.read()
    assert (growing.subjects, growing.damaged) == (at_once.subjects, at_once.damaged)
    content = b"".join(pieces).split(b"\n")[:-1]
    whole = {line for line in content if line + b"\n" in (LINE, LINE.replace(b"u1", b"u2"))}
    assert len(at_once.store) == len(whole)
    assert at_once.damaged == sum(line != b"" and line not in whole for line in content)
