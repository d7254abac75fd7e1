"""A slow reader of the log blocks no writer."""

from __future__ import annotations

import errno
import io
import logging
import threading
import time
from typing import TYPE_CHECKING

from authz_service.telemetry.background_log_stream import BackgroundLogStream, PartlyWritten

if TYPE_CHECKING:
    import pytest


class StalledStream(io.StringIO):
    """A stream whose reader does not read until ``moving`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.moving = threading.Event()

    def write(self, text: str) -> int:
        assert self.moving.wait(30)
        return super().write(text)


def test_lines_arrive_in_order() -> None:
    target = io.StringIO()
    with BackgroundLogStream(target) as stream:
        for number in range(100):
            stream.write(f"{number}\n")
    assert target.getvalue() == "".join(f"{number}\n" for number in range(100))


def test_a_stalled_reader_does_not_block_writers_and_lost_lines_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = StalledStream()
    with caplog.at_level(logging.WARNING, "authz"), BackgroundLogStream(target, max_lines=3) as stream:
        for number in range(50):
            stream.write(f"{number}\n")  # returns, although nothing is read
        target.moving.set()
    written = target.getvalue().splitlines()
    assert written[0] == "0"
    assert len(written) < 50
    lost = [record.__dict__["fields"]["lines"] for record in caplog.records]
    assert sum(lost) == 50 - len(written)


def test_the_backlog_of_a_stalled_reader_is_limited_in_bytes() -> None:
    target = StalledStream()
    with BackgroundLogStream(target, max_characters=1000) as stream:
        stream.write("first\n")
        for _ in range(50):
            stream.write("x" * 299 + "\n")
        stream.write("short\n")  # fits into the backlog
        target.moving.set()
    lines = target.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("first", "short")
    assert 3 <= len(lines) - 2 <= 4  # a line that is being written does not count
    with BackgroundLogStream(target, max_characters=10) as stream:
        for number in range(100):  # written lines free their space
            before = len(target.getvalue())
            stream.write(f"{number}\n")
            while len(target.getvalue()) == before:
                time.sleep(0.001)
    assert target.getvalue().endswith("98\n99\n")


class Recorded(io.StringIO):
    """Records what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def test_lines_are_written_together_as_far_as_a_pipe_takes_them_as_a_whole() -> None:
    target = Recorded()
    lines = ["x" * (length - 1) + "\n" for length in [1000] * 10 + [4096, 4097, 2, 4095, 1, 9]]
    stream = BackgroundLogStream(target)
    for line in lines:
        stream.write(line)
    with stream:
        pass
    assert "".join(target.writes) == "".join(lines)
    assert [len(write) for write in target.writes] == [4000, 4000, 2000, 4096, 4097, 2, 4096, 9]


def test_lines_that_were_not_written_are_counted_and_the_others_are_not() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise PartlyWritten(errno.ENOSPC, "full", text.count("\n") - 2)

    lost: list[tuple[int, str]] = []
    stream = BackgroundLogStream(Full(), report=lambda lines, error: lost.append((lines, str(error))))
    for number in range(10):
        stream.write(f"{number}\n")
    with stream:
        pass
    assert lost == [(2, "[Errno 28] full")]


def test_a_closed_stream_loses_the_lines_and_nothing_else() -> None:
    target = io.StringIO()
    target.close()
    with BackgroundLogStream(target) as stream:
        stream.write("into the void\n")
