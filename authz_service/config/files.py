"""Reads the files that the configuration names, and detects that they have changed.

The configuration, key sets, secrets, certificates and trust anchors for providers are read and watched here.

Invariants:

* A read never blocks and is bounded. Opening a FIFO would block until a writer appears, and a device may never end, so
  only regular files are read.
* A file is opened by name at each read and compared by content. Kubernetes updates a mounted file by swapping a
  symbolic link above it, editors rename over it: neither changes the file that was opened before, and modification
  times are not reliable in either case. Only what is asked for at every TLS handshake is not read again while its
  ``signature_of`` stays the same.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_CONFIG_BYTES = 1 << 20  # the most that a Kubernetes ConfigMap holds
MAX_SECRET_BYTES = 1 << 16  # an RSA key of 16384 bits takes 13 KiB
_SETTLED = 5_000_000_000  # nanoseconds: more than any file system's clock is coarse


class FileTooLargeError(OSError):
    """The file is larger than the caller accepts."""


class FileVersion(NamedTuple):
    """A file as one read found it. Compare digests to learn whether the file has changed since."""

    digest: bytes  # of the content, or of the error where the file cannot be read
    content: bytes
    error: OSError | None

    def require(self) -> bytes:
        """The content.

        Raises:
            OSError: if the file could not be read, FileTooLargeError if it is too large.
        """
        if self.error is not None:
            raise self.error
        return self.content


def version_of(path: Path, max_bytes: int) -> FileVersion:
    """Read a file. Does not raise: a file that cannot be read has a version, too."""
    try:
        content = _beginning(path, max_bytes)
    except OSError as error:
        return FileVersion(_digest(f"errno {error.errno}".encode()), b"", error)
    return FileVersion(_digest(content), content, _too_large(max_bytes) if len(content) > max_bytes else None)


def signature_of(path: Path) -> tuple[int, ...] | None:
    """What differs once the file behind the name is another one, or has been changed since.

    None if that is unknown: the file does not exist, or was changed so recently that another change might bear the
    same time.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat
    except OSError:
        return None
    if abs(time.time_ns() - found.st_ctime_ns) < _SETTLED:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(path: Path, max_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        OSError: if it cannot be read, FileTooLargeError if it is too large.
    """
    content = _beginning(path, max_bytes)
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _beginning(path: Path, max_bytes: int) -> bytes:
    """The content of a file, or one byte more than accepted."""
    with open_regular(path) as file:
        return file.read(max_bytes + 1)


def _too_large(max_bytes: int) -> FileTooLargeError:
    return FileTooLargeError(errno.EFBIG, f"larger than {max_bytes} bytes")


def read_secret(path: Path) -> bytes:
    """The content of a file with a secret that is text, without a newline at its end.

    Raises:
        OSError: as ``read``.
    """
    return read(path, MAX_SECRET_BYTES).removesuffix(b"\n").removesuffix(b"\r")


def digests_of(paths: Iterable[Path]) -> dict[Path, bytes]:
    """The digest of each file's current version."""
    return {path: version_of(path, MAX_CONFIG_BYTES).digest for path in paths}


@contextmanager
def open_regular(path: Path, flags: int = os.O_RDONLY) -> Iterator[BinaryIO]:
    """Open a regular file for reading, or with other ``flags`` of ``os.open`` for writing too.

    Raises:
        OSError: if it does not exist, cannot be opened or is not a regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "r+b" if flags & os.O_RDWR else "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


@contextmanager
def in_memory(data: bytes) -> Iterator[str]:
    """The name of a file with this content, in memory if the system supports it: ``ssl`` takes no bytes."""
    if hasattr(os, "memfd_create"):
        descriptor, path = os.memfd_create("certificate"), None
    else:
        import tempfile

        descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield path or f"/proc/self/fd/{descriptor}"
    finally:
        if path is not None:
            os.unlink(path)  # noqa: PTH108 - a string


def _digest(content: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(content).digest()
