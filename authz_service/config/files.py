"""Reading the files that an operator names.

Law: never waits and never reads without end, whatever has come to stand under a name since it was checked. A pipe would
hold whoever opens it until somebody writes, and that may be the event loop; a device need not end.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to be read.

    Raises:
        OSError: when there is none, also for what is there and is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read(path: Path, most: int) -> bytes:
    """What a regular file holds; of one that is larger than ``most`` bytes, one byte more than that.

    Raises:
        OSError: as ``opened``.
    """
    with opened(path) as file:
        return file.read(most + 1)
