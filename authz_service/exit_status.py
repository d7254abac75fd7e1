"""Runs a command of the program, and turns its errors into messages and its end into an exit status."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from authz_service.core.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Callable

# As shells report a program that a signal has ended: 128 and the number of SIGPIPE, or SIGINT.
PIPE_CLOSED: Final = 141
INTERRUPTED: Final = 130


def status_of(command: Callable[[], int]) -> int:
    """Run a command; returns the exit status: 0 for success, 1 for failure, or what the command returns."""
    try:
        try:
            return _run(command)
        finally:  # also if the parser exits after printing its help
            print(end="", flush=True)  # there is no standard output if it was closed at the start
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        for stream in (sys.stdout, sys.stderr):  # else Python would flush into it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except StartFailed as error:
        print(f"authz-service: {error}", file=sys.stderr)
        return 1
