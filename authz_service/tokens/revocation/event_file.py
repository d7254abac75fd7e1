"""Saves the revocations of one issuer's security events, and shares them between processes.

The file is a journal of JSON lines: a header, then one line for each revocation. The process that holds its lock
appends to it, and replaces it once most lines are outdated; all others follow it. A header has an id, so that a file
that was replaced is recognized as such.

Invariants:

* What ``save`` was given is on the disk when it returns.
* A damaged line costs only itself. A line without its end is not read yet: its writer may be at work, or have crashed.
* A file of another issuer, or one that other users may have written, is neither read nor changed.
* Each call reads or writes a bounded number of bytes, except where the file is replaced.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from authz_service.config import own_files
from authz_service.core import strict_json
from authz_service.tokens.revocation.events import REVOKING_TYPES
from authz_service.tokens.revocation.revocations import Revocation, TokenParts

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from authz_service.tokens.revocation.event_store import EventStore

VERSION: Final = 1
MAX_LINE: Final = 1 << 16  # bytes: four times a SET of the maximal size
_CHUNK: Final = 1 << 18  # bytes to read at once
_SLACK: Final = 1000  # outdated lines of a small file before it is replaced
_MAX_TIME: Final = 1e18  # a larger integer might not fit a float
_PARTS: Final = frozenset(TokenParts._fields)
_TYPES: Final[dict[object, str]] = {each: each for each in REVOKING_TYPES}  # all revocations share the strings
_OTHER_TYPE: Final = "other"  # one that only a later version knows


class UnusableFileError(OSError):
    """The file has other content than this issuer's events. The message continues "the snapshot "."""


class Lines(NamedTuple):
    """What one call read."""

    revocations: Sequence[Revocation] = ()
    damaged: int = 0  # lines
    more: bool = False  # to read at once


class EventFile:
    """The ``snapshot_file`` of one issuer's events. Blocks for file I/O: call it outside the event loop's thread."""

    def __init__(self, path: Path, issuer: str) -> None:
        """``issuer`` is its identifier."""
        self.path = path
        self.lock_path = path.with_name(f"{path.name}.lock")
        self._issuer = issuer
        self._lock: int | None = None  # the descriptor while the lock is held
        self._header = b""  # of the file that was read last; empty: there was none
        self._offset = 0  # in bytes, of what was not read yet
        self._lines = 0  # that were read
        self._in_long_line = False  # what comes next is the rest of a line that is too long
        self._must_replace = False  # the file may lack revocations that count
        self.complete_at: float | None = None  # when it had all events of the transmitter: its modification time

    # The lock.

    def lock(self) -> bool:
        """Take the lock or keep it; returns whether it is held now, not by another process.

        Raises:
            OSError: if there cannot be one.
        """
        if sys.platform == "win32":  # no other process shares the file
            return True
        if self._lock is not None and self._lock_was_removed(self._lock):
            self.unlock()
        is_new = self._lock is None
        if self._lock is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._lock = os.open(self.lock_path, flags, 0o600)
        try:
            # Also if it is held: a network file system may have lost it meanwhile.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_new:
                own_files.remove_temporary_files(self.path)
        except BlockingIOError:
            self.unlock()
            return False
        except BaseException:
            self.unlock()
            raise
        return True

    def _lock_was_removed(self, descriptor: int) -> bool:
        """Whether another process could hold a lock of that name, since the file was removed or replaced."""
        try:
            return not os.path.samestat(os.fstat(descriptor), os.stat(self.lock_path))  # noqa: PTH116 - as os.fstat
        except FileNotFoundError:
            return True

    def unlock(self) -> None:
        """Release the lock, if it is held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Reading.

    def read(self) -> Lines:
        """The next revocations: of what was added since the last call, or of the whole file if it was replaced.

        Raises:
            OSError: if the file cannot be read. UnusableFileError or UntrustedFileError if it must not be.
        """
        try:
            with own_files.open_own(self.path) as file:
                return self._read(file)
        except FileNotFoundError:
            self._restart(b"")
            return Lines()

    def _read(self, file: BinaryIO) -> Lines:
        status = os.fstat(file.fileno())
        header = self._header_of(file)
        if header != self._header or status.st_size < self._offset:
            self._restart(header)
        self.complete_at = status.st_mtime
        if status.st_size == self._offset:
            return Lines()
        file.seek(self._offset)
        data = file.read(_CHUNK)
        *lines, _incomplete = data.split(b"\n")
        found: list[Revocation] = []
        damaged = 0
        for line in lines:
            revocation = None if self._in_long_line else self._parse(line)
            if revocation is not None:
                found.append(revocation)
            elif line or self._in_long_line:
                damaged += 1
            self._in_long_line = False
        self._lines += len(lines)
        self._offset += sum(map(len, lines)) + len(lines)
        if not lines and len(data) == _CHUNK:
            self._in_long_line = True
            self._offset += len(data)
        return Lines(found, damaged, more=len(data) == _CHUNK)

    def _restart(self, header: bytes) -> None:
        """Read another file from its beginning."""
        if self._header and self._lock is not None:  # no other process should have replaced or removed it
            self._must_replace = True
        self._header = header
        self._offset = len(header)
        self._lines = 0
        self._in_long_line = False

    def _header_of(self, file: BinaryIO) -> bytes:
        """The first line, with its end; empty if the file is.

        Raises:
            UnusableFileError: if it is not a header for this issuer.
        """
        header = file.readline(MAX_LINE)
        if not header:
            return b""
        content = _json_object(header) if header.endswith(b"\n") else {}
        if content.get("version") != VERSION or not isinstance(content.get("issuer"), str):
            raise UnusableFileError("is not a file of security events: set another snapshot_file, or remove it")
        if content["issuer"] != self._issuer:
            raise UnusableFileError("has the events of another issuer: set another snapshot_file, or remove it")
        return header

    def _parse(self, line: bytes) -> Revocation | None:
        members = _json_object(line) if len(line) <= MAX_LINE else {}
        before = members.pop("issued_before", None)
        kind = members.pop("type", None)
        if not isinstance(before, (int, float)) or isinstance(before, bool) or not 0 <= before < _MAX_TIME:
            return None
        if not members.keys() <= _PARTS or not all(isinstance(each, str) for each in members.values()):
            return None
        parts = TokenParts(**members)
        if not parts.subject and not parts.session:
            return None
        return Revocation(parts, float(before), _TYPES.get(kind, _OTHER_TYPE) if isinstance(kind, str) else _OTHER_TYPE)

    # Writing, by the holder of the lock.

    def lacks(self, store: EventStore) -> bool:
        """Whether the file may lack some of the store, which is then to be saved."""
        return self._must_replace or (not self._header and len(store) > 0)

    def save(self, new: Sequence[Revocation], store: EventStore, complete_at: float) -> None:
        """Save what the store has, of which only ``new`` was added since the last call. It must not change meanwhile.

        ``complete_at`` is when the store had all events of the transmitter, in seconds since the epoch.

        Raises:
            OSError: if that failed. The next call then saves everything.
        """
        must_replace, self._must_replace = self._must_replace, True
        if not self.lock():  # it may have been lost while a poll waited
            raise UnusableFileError("was locked by another process meanwhile")
        if must_replace or not self._header or self._lines + len(new) > 2 * len(store) + _SLACK:
            self._replace(store)
        else:
            self._append(new)
        os.utime(self.path, (complete_at, complete_at))
        self._must_replace, self.complete_at = False, complete_at

    def require_replacement(self) -> None:
        """Let the next call of ``save`` save everything, since the file may lack what the store has."""
        self._must_replace = True

    def _append(self, new: Sequence[Revocation]) -> None:
        with own_files.open_own(self.path, append=True) as file:
            size = os.fstat(file.fileno()).st_size
            if self._header_of(file) != self._header or size < self._offset:
                raise UnusableFileError("was replaced by another process")
            if new:
                added = _write_lines(file, new)
                if size == self._offset:  # else the rest is yet to be read
                    self._offset += added
                    self._lines += len(new)

    def _replace(self, store: EventStore) -> None:
        with contextlib.suppress(FileNotFoundError), own_files.open_own(self.path) as file:
            self._header_of(file)  # raises if it must not be replaced
        header = json.dumps({"version": VERSION, "issuer": self._issuer, "id": secrets.token_hex(8)}).encode() + b"\n"
        size = 0

        def content() -> Iterator[bytes]:
            nonlocal size
            for line in itertools.chain([header], map(_line, store)):
                size += len(line)
                yield line

        own_files.replace(self.path, content())
        self._header, self._offset, self._lines = header, size, len(store)


def _write_lines(file: BinaryIO, new: Sequence[Revocation]) -> int:
    """Append lines, and wait until they are on the disk; returns how many bytes that were."""
    file.seek(-1, os.SEEK_END)
    data = b"" if file.read(1) == b"\n" else b"\n"  # ends the line of a writer that crashed
    data += b"".join(map(_line, new))
    file.seek(0, os.SEEK_END)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
    return len(data)


def _line(revocation: Revocation) -> bytes:
    members: dict[str, Any] = {
        name: part for name, part in zip(TokenParts._fields, revocation.parts, strict=True) if part
    }
    members |= {"issued_before": revocation.issued_before, "type": revocation.origin}
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def _json_object(line: bytes) -> dict[str, Any]:
    """The object of a line; empty if it has none."""
    try:
        value = strict_json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
