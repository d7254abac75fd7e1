"""A program that the demo starts, waits for, and always ends.

Law: whatever happens between start and stop, the program is told to end, and killed if it does not. A start that fails
tells the cause in the program's own words.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from authz_service.core.errors import StartFailed

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

_LINES, _WIDTH = 8, 600  # how much of its last words is told


async def start(name: str, command: list[str], log: Path) -> Process:
    """Start it with its output going to ``log``.

    Raises:
        StartFailed: when this machine cannot run it.
    """
    with log.open("wb") as output:
        try:
            return await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        except OSError as error:  # another processor's binary, or a folder that nothing may be run from
            raise StartFailed(f"{name} cannot be run: {error.strerror}") from None


@asynccontextmanager
async def starting(name: str, process: Process, log: Path, seconds: float) -> AsyncIterator[None]:
    """Wait inside for its sign of life. If there is none in time, or the wait is given up, the program is ended.

    Raises:
        StartFailed: when the time is over.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        await stop(process, seconds)
        raise StartFailed(f"{name} was not ready within {seconds:g} s: {last_words(log)}") from None
    except BaseException:
        await stop(process, seconds)
        raise


def still_runs(name: str, process: Process, log: Path) -> None:
    """Find out early that waiting is in vain.

    Raises:
        StartFailed: when it has ended.
    """
    if process.returncode is not None:
        raise StartFailed(f"{name} ended with status {process.returncode}: {last_words(log)}")


async def stop(process: Process, seconds: float) -> int:
    """Ask it to end, and wait for so long; returns its exit status."""
    if process.returncode is None:
        process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        if process.returncode is None:  # else it ended just as the time was over
            process.kill()
        return await process.wait()


def last_words(log: Path) -> str:
    """The end of its log without indented lines: Envoy repeats its whole configuration, indented, after the cause."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line and not line[0].isspace()]
    return "\n".join(line[:_WIDTH] for line in lines[-_LINES:]) or "it said nothing"
