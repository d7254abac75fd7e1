"""A stream that never makes its writer wait.

Law: what is written is written by a thread of its own, in order. A reader of standard error that stalls (a full pipe,
a slow disk) would otherwise hold the event loop, and with it every answer. Beyond a bounded backlog lines are lost, and
how many is told once the stream moves again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import threading
from typing import TYPE_CHECKING, Self, TextIO

from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from types import TracebackType

_BACKLOG = 10_000  # lines
_MAX_BACKLOG = 8 << 20  # characters, which are bytes: each line is ASCII, and what clients sent can make it 25 KB long
_PATIENCE = 2.0  # seconds at the end for what is still to be written


class BackgroundStream(io.TextIOBase):
    """Writes to ``stream`` beside the caller, from entering to leaving its context."""

    def __init__(self, stream: TextIO, backlog: int = _BACKLOG, max_backlog: int = _MAX_BACKLOG) -> None:
        """``backlog`` is in lines, ``max_backlog`` in characters."""
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(backlog)
        self._room = max_backlog
        self._counting = threading.Lock()
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_PATIENCE)
        self._thread.join(_PATIENCE)

    def write(self, text: str) -> int:
        """Take a text to write, or lose it when the backlog is full."""
        with self._counting:
            if len(text) > self._room or self._lines.full():
                self._lost += 1
            else:
                self._room -= len(text)
                self._lines.put_nowait(text)
        return len(text)

    def _write_all(self) -> None:
        while (text := self._lines.get()) is not None:
            with self._counting:
                self._room += len(text)
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # gone or closed: nobody reads, and there is no other place to complain at
                self._lost += 1
            else:
                self._tell_lost()

    def _tell_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            logging.getLogger("authz.log").warning("log lines were lost", extra=fields(lines=lost))
