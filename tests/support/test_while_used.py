"""A shared program ends when its last user ends, even if that user is killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SCRIPT = Path(__file__).with_name("while_used.py")
_HANG_TIMEOUT = 30.0  # seconds; only a test that hangs takes this long
# A shell with a child process; both run for an hour unless they are killed.
_SHARED = ("sh", "-c", "sleep 3600 & echo $!; wait")
_USER = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); sys.stdin.read()"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    users = tmp_path / "users"
    users.touch()
    return users


@pytest.fixture
def first(users: Path) -> Iterator[IO[bytes]]:
    with users.open("rb") as first:
        fcntl.flock(first, fcntl.LOCK_SH)
        yield first


@pytest.fixture
def shared(first: IO[bytes], users: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(_SCRIPT), str(users), str(users.with_name("log")), *_SHARED]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        yield process
        first.close()
        process.wait(_HANG_TIMEOUT)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _HANG_TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def grandchild(users: Path) -> int:
    """The process that the shared program started."""
    log = users.with_name("log")
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    return int(log.read_text())


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_and_all_that_it_started_end_with_its_last_user(
    shared: subprocess.Popen[bytes], first: IO[bytes], users: Path
) -> None:
    pid = grandchild(users)
    with users.open("rb") as second:
        fcntl.flock(second, fcntl.LOCK_SH)
        first.close()
        with pytest.raises(subprocess.TimeoutExpired):
            shared.wait(0.5)
        assert runs(pid)
    shared.wait(_HANG_TIMEOUT)
    until(lambda: not runs(pid))


def test_it_ends_when_its_last_user_is_killed(shared: subprocess.Popen[bytes], first: IO[bytes], users: Path) -> None:
    pid = grandchild(users)
    command = [sys.executable, "-c", _USER, str(users)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        first.close()
        with pytest.raises(subprocess.TimeoutExpired):
            shared.wait(0.5)
        user.kill()
    shared.wait(_HANG_TIMEOUT)
    until(lambda: not runs(pid))
