"""Where the decision log goes if not to standard error: a file that others rotate, or a unix socket.

Invariants:

* Neither a slow or full disk nor a slow or missing reader delays a decision: a thread writes, from a bounded backlog.
* A line is written as a whole, by one system call, which may write several. Lines that could not be written are counted
  and reported in the log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

from authz_service.telemetry.background_log_stream import BackgroundLogStream, PartlyWritten
from authz_service.telemetry.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from authz_service.config.model import Logging

_MODE = 0o640  # of a new file: the group may read it
_SEND_TIMEOUT = 1.0  # seconds for a reader of the socket to accept one line
_RECONNECT_INTERVAL = 0.5  # seconds after a failure in which further lines are lost without another attempt
_REPORT_INTERVAL = 10.0  # seconds between two reports of lost lines


class RotatedFile:
    """Appends lines to the file of a name, whichever file that is: after a rotation, to the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._identity = (0, 0)
        self._torn = False  # the file ends with a part of a line

    def write(self, lines: str) -> None:
        """Append lines.

        Raises:
            OSError: if the file cannot be opened or written; ``PartlyWritten`` if it has no space for all lines.
        """
        self._open_if_rotated()
        before = b"\n" if self._torn else b""
        octets = before + lines.encode()
        written = octets[: os.write(self._descriptor, octets)]
        self._torn = written.rpartition(b"\n")[2] != b"" or (self._torn and not written)
        if len(written) < len(octets):
            complete = written.removeprefix(before).count(b"\n")
            raise PartlyWritten(errno.ENOSPC, os.strerror(errno.ENOSPC), complete)

    def _open_if_rotated(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._path)  # noqa: PTH116 - as os.fstat
            if (found.st_dev, found.st_ino) == self._identity:
                return
        self.close()
        # Opening a FIFO without a reader would block for good, and report no lost line.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, _MODE)
        os.set_blocking(self._descriptor, True)
        opened = os.fstat(self._descriptor)
        self._identity = opened.st_dev, opened.st_ino

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._identity, self._torn = -1, (0, 0), False


class ReaderSocket:
    """Sends lines to the reader of a unix socket: one datagram each, or a stream if the reader accepts connections."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._next_attempt = 0.0  # seconds of the monotonic clock

    def write(self, lines: str) -> None:
        """Send lines.

        Raises:
            OSError: if there is no reader, or it does not accept the lines in time; ``PartlyWritten`` if it accepted
                some of them.
        """
        connected = self._connected()
        octets = lines.encode()
        units = octets.splitlines(keepends=True) if connected.type == socket.SOCK_DGRAM else [octets]
        for sent, unit in enumerate(units):
            try:
                connected.sendall(unit)
            except OSError as error:  # the reader may have got a part of a line, so a stream cannot go on
                self.close()
                self._next_attempt = time.monotonic() + _RECONNECT_INTERVAL
                if sent == 0:
                    raise
                raise PartlyWritten(error.errno or errno.EIO, error.strerror or str(error), sent) from error

    def _connected(self) -> socket.socket:
        if self._socket is None:
            if time.monotonic() < self._next_attempt:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            self._next_attempt = time.monotonic() + _RECONNECT_INTERVAL
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        try:
            return self._connect_to(socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        return self._connect_to(socket.SOCK_STREAM)

    def _connect_to(self, kind: socket.SocketKind) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX, kind)
        try:
            connecting.settimeout(_SEND_TIMEOUT)
            connecting.connect(str(self._path))
        except BaseException:
            connecting.close()
            raise
        return connecting

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Close the socket; a later line connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Destination(NamedTuple):
    file: Path | None
    socket: Path | None


class DecisionOutput:
    """The stream of the decision log, which a changed configuration may move."""

    def __init__(self) -> None:
        self._destination = _Destination(None, None)
        self._stream: BackgroundLogStream | None = None
        self._record_lost: Callable[[int], None] = _not_counted
        self._warnings = RateLimitedLog(logging.getLogger("authz.log"), time.monotonic, _REPORT_INTERVAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.__exit__(kind, error, trace)

    def count_with(self, record_lost: Callable[[int], None]) -> None:
        """Count lost lines with this function from now on; it is called in another thread."""
        self._record_lost = record_lost

    def stream_for(self, settings: Logging) -> BackgroundLogStream | None:
        """The stream for these settings: the previous one if nothing changed, None for standard error."""
        destination = _Destination(settings.decisions_file, settings.decisions_socket)
        if destination != self._destination:
            stream = self._opened(destination)  # first: if no thread is left for it, the previous one stays in use
            if self._stream is not None:
                self._stream.finish()
            self._destination, self._stream = destination, stream
        return self._stream

    def _opened(self, destination: _Destination) -> BackgroundLogStream | None:
        target: RotatedFile | ReaderSocket
        if destination.file is not None:
            target = RotatedFile(destination.file)
        elif destination.socket is not None:
            target = ReaderSocket(destination.socket)
        else:
            return None
        report = partial(self._report, str(destination.file or destination.socket))
        return BackgroundLogStream(target, report=report, close=target.close).__enter__()

    def _report(self, where: str, lines: int, error: OSError | ValueError | None) -> None:
        self._record_lost(lines)
        cause = "it accepts lines too slowly" if error is None else getattr(error, "strerror", None) or str(error)
        self._warnings.warning(where, "lines of the decision log were lost", lines=lines, to=where, cause=cause)


def _not_counted(_lines: int) -> None:
    pass
