"""A stream for log lines that never blocks its writer.

A thread writes the lines, in order. A slow reader of standard error (a full pipe, a slow disk) would otherwise block
the event loop, and with it every decision. Lines beyond a bounded backlog are lost; how many is reported.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import threading
from typing import TYPE_CHECKING, Self

from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from authz_service.telemetry.logs import Writable

    Report = Callable[[int, OSError | ValueError | None], None]  # lost lines, and why the last one could not be written

_MAX_LINES = 10_000
_MAX_CHARACTERS = 8 << 20  # equal to bytes: each line is ASCII, and can be 25 KB long
_EXIT_TIMEOUT = 2.0  # seconds at the end to write the backlog


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

        Without ``report``, losses are logged, once the stream accepts lines again.
        """
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(max_lines)
        self._free_characters = max_characters
        self._lock = threading.Lock()
        self._lost = 0
        self._report = report
        self._close = close
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_EXIT_TIMEOUT)
        self._thread.join(_EXIT_TIMEOUT)

    def finish(self) -> None:
        """Let the thread end once it has written the backlog; nothing may be written afterwards. Does not wait."""
        threading.Thread(target=self._lines.put, args=(None,), name="log", daemon=True).start()

    def write(self, line: str) -> int:
        """Queue a line; it is lost if the backlog is full."""
        with self._lock:
            if len(line) > self._free_characters or self._lines.full():
                self._lost += 1
            else:
                self._free_characters -= len(line)
                self._lines.put_nowait(line)
        return len(line)

    def _write_all(self) -> None:
        try:
            self._write_until_the_end()
        finally:
            self._close()

    def _write_until_the_end(self) -> None:
        while (line := self._lines.get()) is not None:
            with self._lock:
                self._free_characters += len(line)
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError) as error:  # closed or broken
                with self._lock:
                    self._lost += 1
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
