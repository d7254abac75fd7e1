"""Start a child process, wait until it is ready, and always stop it.

Invariants: however the wait ends, a child that is not ready gets SIGTERM, and SIGKILL if it does not exit. The error of
a failed start quotes the end of the child's log.
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

_MAX_LOG_LINES, _MAX_LOG_LINE_LENGTH = 8, 600  # quoted in an error


async def start(name: str, command: list[str], log: Path) -> Process:
    """Start ``command`` and write its output to ``log``.

    Raises:
        StartFailed: when this machine cannot run it.
    """
    with log.open("wb") as output:
        try:
            return await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        except OSError as error:  # a binary for another architecture, or a file system mounted noexec
            raise StartFailed(f"{name} cannot be run: {error.strerror}") from None


@asynccontextmanager
async def stop_unless_ready(name: str, process: Process, log: Path, seconds: float) -> AsyncIterator[None]:
    """Wait for readiness in the body of the context; on a timeout, an error or a cancellation stop the process.

    Raises:
        StartFailed: when the body takes longer than this.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        await stop(process, seconds)
        raise StartFailed(f"{name} was not ready within {seconds:g} s: {log_tail(log)}") from None
    except BaseException:
        await stop(process, seconds)
        raise


def require_running(name: str, process: Process, log: Path) -> None:
    """Stop a wait early when the process has exited.

    Raises:
        StartFailed: when it has exited.
    """
    if process.returncode is not None:
        raise StartFailed(f"{name} exited with status {process.returncode}: {log_tail(log)}")


async def stop(process: Process, seconds: float) -> int:
    """Send SIGTERM, and SIGKILL when it runs longer than this; returns the exit status."""
    if process.returncode is None:
        process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        if process.returncode is None:  # otherwise it exited just as the timeout expired
            process.kill()
        return await process.wait()


def log_tail(log: Path) -> str:
    """The last lines of the log. Indented lines are skipped: Envoy prints its whole configuration after an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line and not line[0].isspace()]
    return "\n".join(line[:_MAX_LOG_LINE_LENGTH] for line in lines[-_MAX_LOG_LINES:]) or "its log is empty"
