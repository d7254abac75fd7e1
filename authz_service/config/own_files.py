"""Files that the service itself writes and reads again: the snapshots of keys and of security events.

Invariants:

* A file is replaced as a whole or not at all, and only its owner may read or write it.
* A file that other users may write, or that belongs to one, is not opened: its content could be theirs.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from authz_service.config import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFileError(OSError):
    """Another user may have written the file. The message continues a sentence such as "the snapshot "."""


@contextmanager
def open_own(path: Path, *, append: bool = False) -> Iterator[BinaryIO]:
    """Open a regular file for reading, and with ``append`` for writing at its end.

    Raises:
        OSError: if it does not exist or cannot be opened, UntrustedFileError if other users may have written it.
    """
    with files.open_regular(path, os.O_RDWR | os.O_APPEND if append else os.O_RDONLY) as file:
        status = os.fstat(file.fileno())
        if status.st_mode & _OTHERS_MAY_WRITE:
            mode = stat.S_IMODE(status.st_mode)
            raise UntrustedFileError(f"is writable by other users (mode {mode:04o}): set mode 0600")
        if status.st_uid not in {0, os.geteuid()}:
            raise UntrustedFileError(f"belongs to another user (uid {status.st_uid}, expected {os.geteuid()} or 0)")
        yield file


def replace(path: Path, content: Iterable[bytes]) -> None:
    """Replace a file. The new content is on the disk when this returns.

    Raises:
        OSError: if it cannot be written. The old file is unchanged, unless only its folder could not be synchronized.
    """
    import tempfile

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _synchronize_folder(path.parent)


def remove_temporary_files(path: Path) -> None:
    """Remove what a process left that was killed while it replaced this file. No process may be replacing it now.

    Raises:
        OSError: if the folder cannot be read, or a file in it not be removed.
    """
    left = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")  # as mkstemp names them
    for each in path.parent.iterdir():
        if left.fullmatch(each.name):
            each.unlink(missing_ok=True)


def _synchronize_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
