"""The supervisor starts, replaces and stops its workers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import signal
from typing import TYPE_CHECKING

import pytest

from authz_service.config.load import load
from authz_service.core.errors import StartFailed
from authz_service.runtime import supervisor as module
from authz_service.runtime.supervisor import Supervisor, _backoff

if TYPE_CHECKING:
    from pathlib import Path

REAL_START = asyncio.create_subprocess_exec


def test_a_worker_is_replaced_at_once_and_with_a_growing_delay_if_it_ends_again() -> None:
    assert [_backoff(ends) for ends in range(1, 9)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert _backoff(10_000) == 30


START_ERRORS = (BlockingIOError(errno.EAGAIN, "nothing left"), RuntimeError("a message of Python"))


@pytest.fixture(params=START_ERRORS, ids=["process", "thread"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor that cannot start a process and tries again without delay."""

    async def fail(*_: object, **__: object) -> None:
        raise request.param

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    monkeypatch.setattr(module, "_backoff", lambda _: 0.0)
    server = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0", "workers": 2}
    issuer = {"issuer": "https://idp.example", "audiences": ["api"]}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [{"name": "r"}]}))
    return Supervisor(file, load(file))


async def test_a_worker_that_cannot_be_started_is_an_error_at_startup(supervisor: Supervisor) -> None:
    with pytest.raises(
        StartFailed, match=r"before it served: not started: (nothing left|the system allows no further thread)"
    ):
        await supervisor.run()


async def test_starting_a_replacement_is_retried(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    supervisor._served.update((1, 2))
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(30):  # only a test that hangs takes this long
        while len(caplog.records) < 6:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
        supervisor._stop()
        await running
    assert {record.message for record in caplog.records} == {"worker ended unexpectedly"}


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_failed_start_terminates_the_other_workers_at_any_stage(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    failing, calls = asyncio.create_subprocess_exec, itertools.count()
    started: list[asyncio.subprocess.Process] = []

    async def first_only(*_: str, **__: object) -> asyncio.subprocess.Process:
        if next(calls):
            for _turn in range(turns):
                await asyncio.sleep(0)
            return await failing("")
        started.append(await REAL_START("sleep", "5"))
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", first_only)
    with pytest.raises(StartFailed):
        await supervisor.run()
    assert all(each.returncode == -signal.SIGTERM for each in started)  # which makes a serving worker drain
