"""What the demo starts is ended in every case, and what did not start is told in its own words."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import StartFailed
from authz_service.demo import child
from authz_service.demo.sidecar import Sidecar

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine
    from pathlib import Path

_SAYS_UP = "print('up', flush=True); import time; time.sleep(60)"
_IS_DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_SAYS_UP}"


async def started(program: str, log: Path) -> Process:
    """The running program, once it has said something."""
    process = await child.start("it", [sys.executable, "-c", program], log)
    async with child.starting("it", process, log, 30):
        while child.last_words(log) == "it said nothing":
            child.still_runs("it", process, log)
            await asyncio.sleep(0.01)
    return process


async def test_one_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    process = await started(_IS_DEAF, tmp_path / "log")
    assert await child.stop(process, 0.1) == -signal.SIGKILL


async def test_one_that_has_ended_can_be_stopped_again(tmp_path: Path) -> None:
    process = await started(_SAYS_UP, tmp_path / "log")
    assert await child.stop(process, 5) == -signal.SIGTERM
    assert await child.stop(process, 5) == -signal.SIGTERM


async def test_one_that_ends_just_as_the_time_is_over_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await started(_SAYS_UP, tmp_path / "log")

    async def ended_too_late(waiting: Coroutine[None, None, int], _seconds: float) -> int:
        await waiting
        raise TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", ended_too_late)
    assert await child.stop(process, 5) == -signal.SIGTERM


async def test_one_whose_start_is_given_up_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await started(_SAYS_UP, log)

    async def wait() -> None:
        async with child.starting("it", process, log, 30):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.returncode == -signal.SIGTERM


def test_its_last_words_are_short_and_leave_out_what_is_indented(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n  detail\n" for number in range(20)) + "x" * 5000)
    told = child.last_words(log)
    assert told.startswith("line 13\n")
    assert "detail" not in told
    assert len(told) < 1000


async def test_a_sidecar_with_a_bad_configuration_is_told_with_the_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("issuers: []\nrulez: []\n")
    with pytest.raises(StartFailed, match=r"(?s)the sidecar ended with status 1.*config\.yaml:2: rulez"):
        await Sidecar(config, tmp_path / "log").__aenter__()
