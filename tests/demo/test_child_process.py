"""Every child process is stopped, and a failed start quotes the end of its log."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import StartFailed
from authz_service.demo import child_process
from authz_service.demo.sidecar import Sidecar

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine
    from pathlib import Path

_PRINTS_AND_SLEEPS = "print('up', flush=True); import time; time.sleep(60)"
_IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_PRINTS_AND_SLEEPS}"


async def started(program: str, log: Path) -> Process:
    """The running program, after its first output."""
    process = await child_process.start("it", [sys.executable, "-c", program], log)
    async with child_process.stop_unless_ready("it", process, log, 30):
        while child_process.log_tail(log) == "its log is empty":
            child_process.require_running("it", process, log)
            await asyncio.sleep(0.01)
    return process


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = await started(_IGNORES_SIGTERM, tmp_path / "log")
    assert await child_process.stop(process, 0.1) == -signal.SIGKILL


async def test_an_exited_process_can_be_stopped_again(tmp_path: Path) -> None:
    process = await started(_PRINTS_AND_SLEEPS, tmp_path / "log")
    assert await child_process.stop(process, 5) == -signal.SIGTERM
    assert await child_process.stop(process, 5) == -signal.SIGTERM


async def test_a_process_that_exits_just_as_the_timeout_expires_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await started(_PRINTS_AND_SLEEPS, tmp_path / "log")

    async def late(waiting: Coroutine[None, None, int], _seconds: float) -> int:
        await waiting
        raise TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", late)
    assert await child_process.stop(process, 5) == -signal.SIGTERM


async def test_cancelling_the_wait_for_readiness_stops_the_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await started(_PRINTS_AND_SLEEPS, log)

    async def wait() -> None:
        async with child_process.stop_unless_ready("it", process, log, 30):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.returncode == -signal.SIGTERM


def test_the_log_tail_is_short_and_has_no_indented_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n  detail\n" for number in range(20)) + "x" * 5000)
    tail = child_process.log_tail(log)
    assert tail.startswith("line 13\n")
    assert "detail" not in tail
    assert len(tail) < 1000


async def test_a_bad_configuration_is_reported_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("issuers: []\nrulez: []\n")
    with pytest.raises(StartFailed, match=r"(?s)authz-service exited with status 1.*config\.yaml:2: rulez"):
        await Sidecar(config, tmp_path / "log").__aenter__()
