"""Runs a command until no process holds the shared lock of a file. A script: ``while_used.py FILE LOG COMMAND...``.

The kernel releases a lock when its holder ends, however it ends: the command never outlives its last user.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_POLL_INTERVAL = 0.2  # seconds


def main(users: Path, log: Path, command: list[str]) -> None:
    """Run ``command`` in its own process group, and kill the group at the end.

    The exclusive lock is kept until this process ends: a new user waits until the command is gone.
    """
    with users.open("rb") as file, log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0)
        try:
            while process.poll() is None and not _is_unused(file.fileno()):
                time.sleep(_POLL_INTERVAL)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_unused(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
