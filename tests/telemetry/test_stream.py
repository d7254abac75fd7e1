from __future__ import annotations

import io
import logging
import threading
import time
from typing import TYPE_CHECKING

from authz_service.telemetry.stream import BackgroundStream

if TYPE_CHECKING:
    import pytest


class Stalled(io.StringIO):
    """A stream whose reader does not read until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.moving = threading.Event()

    def write(self, text: str) -> int:
        assert self.moving.wait(30)
        return super().write(text)


def test_lines_arrive_in_order() -> None:
    target = io.StringIO()
    with BackgroundStream(target) as stream:
        for number in range(100):
            stream.write(f"{number}\n")
    assert target.getvalue() == "".join(f"{number}\n" for number in range(100))


def test_a_stalled_reader_holds_nobody_and_the_lost_lines_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    target = Stalled()
    with caplog.at_level(logging.WARNING, "authz"), BackgroundStream(target, backlog=3) as stream:
        for number in range(50):
            stream.write(f"{number}\n")  # returns, although nothing is read
        target.moving.set()
    written = target.getvalue().splitlines()
    assert written[0] == "0"
    assert len(written) < 50
    told = [record.__dict__["fields"]["lines"] for record in caplog.records]
    assert sum(told) == 50 - len(written)


def test_a_stalled_reader_makes_nobody_keep_more_than_some_bytes() -> None:
    target = Stalled()
    with BackgroundStream(target, max_backlog=1000) as stream:
        stream.write("first\n")
        for _ in range(50):
            stream.write("x" * 299 + "\n")
        stream.write("short\n")  # for which there is room
        target.moving.set()
    lines = target.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("first", "short")
    assert 3 <= len(lines) - 2 <= 4  # what is being written is not kept any more
    with BackgroundStream(target, max_backlog=10) as stream:
        for number in range(100):  # what was written makes room
            before = len(target.getvalue())
            stream.write(f"{number}\n")
            while len(target.getvalue()) == before:
                time.sleep(0.001)
    assert target.getvalue().endswith("98\n99\n")


def test_a_stream_that_is_gone_costs_the_lines_and_nothing_else() -> None:
    target = io.StringIO()
    target.close()
    with BackgroundStream(target) as stream:
        stream.write("into the void\n")
