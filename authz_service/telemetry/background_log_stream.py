"""A stream for log lines that never blocks its writer.

A thread writes the lines, in order and several at once. A slow reader of standard error (a full pipe, a slow disk)
would otherwise block the event loop, and with it every decision. Lines beyond a bounded backlog are lost; how many is
reported.
"""

from __future__ import annotations

import io
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final, Self

from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from authz_service.telemetry.logs import Writable

    Report = Callable[[int, OSError | ValueError | None], None]  # lost lines, and why the last one could not be written

_MAX_LINES = 10_000
_MAX_CHARACTERS = 8 << 20  # equal to bytes: each line is ASCII, and can be 25 KB long
# Characters of lines that are written at once. A pipe takes so many as a whole (PIPE_BUF of Linux), so the lines of
# workers that share one do not mix. A longer line is written alone.
_MAX_WRITE = 4096
# Seconds for which the first line waits for others. Without it the thread would compete with the event loop for the
# interpreter after each line.
_DELAY: Final = 0.01
_EXIT_TIMEOUT = 2.0  # seconds at the end to write the backlog


class PartlyWritten(OSError):  # noqa: N818 - an OSError, which reads as one
    """Some lines were written, and those after them were not."""

    def __init__(self, code: int, message: str, lines: int) -> None:
        """``lines`` were written completely."""
        super().__init__(code, message)
        self.lines = lines


class BackgroundLogStream(io.TextIOBase):
    """Writes to ``stream`` in a thread, which runs while the context is entered."""

    def __init__(
        self,
        stream: Writable,
        max_lines: int = _MAX_LINES,
        max_characters: int = _MAX_CHARACTERS,
        *,
        report: Report | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``report`` and at the end ``close`` are called in the thread.

        ``stream`` gets one or several lines at once. Without ``report``, losses are logged, once the stream accepts
        lines again.
        """
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._max_lines = max_lines
        self._free_characters = max_characters
        self._lock = threading.Lock()
        self._lost = 0
        self._report = report
        self._close = close
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        self._thread.join(_EXIT_TIMEOUT)

    def finish(self) -> None:
        """Let the thread end once it has written the backlog; nothing may be written afterwards. Does not wait."""
        self._ending.set()
        self._lines.put(None)

    def write(self, line: str) -> int:
        """Queue a line; it is lost if the backlog is full."""
        length = len(line)
        with self._lock:
            if length > self._free_characters or self._lines.qsize() >= self._max_lines:
                self._lost += 1
            else:
                self._free_characters -= length
                self._lines.put(line)
        return length

    def _write_all(self) -> None:
        try:
            self._write_until_the_end()
        finally:
            self._close()

    def _write_until_the_end(self) -> None:
        lines: list[str] = []
        length = 0
        while True:
            line = self._next(wait=not lines)
            if lines and (not line or length + len(line) > _MAX_WRITE):
                self._write_at_once(lines)
                lines, length = [], 0
            if line is None:
                return
            if line:
                lines.append(line)
                length += len(line)

    def _next(self, *, wait: bool) -> str | None:
        """The next line, None at the end, or "" if none waits to be written."""
        try:
            line = self._lines.get(block=wait)
        except queue.Empty:
            return ""
        if wait:
            self._ending.wait(_DELAY)
        if line is not None:
            with self._lock:
                self._free_characters += len(line)
        return line

    def _write_at_once(self, lines: list[str]) -> None:
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except (OSError, ValueError) as error:  # closed or broken
            written = error.lines if isinstance(error, PartlyWritten) else 0
            with self._lock:
                self._lost += len(lines) - written
            if self._report is not None:
                self._report(self._taken(), error)
        else:
            self._report_lost()

    def _report_lost(self) -> None:
        if self._lost and (lost := self._taken()):
            if self._report is not None:
                self._report(lost, None)
            else:
                logging.getLogger("authz.log").warning(
                    "log lines were lost because standard error was read too slowly", extra=fields(lines=lost)
                )

    def _taken(self) -> int:
        with self._lock:
            lost, self._lost = self._lost, 0
        return lost
