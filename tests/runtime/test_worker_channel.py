"""Both ends of the channel between the supervisor and a worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.config.model import Server
from authz_service.runtime import worker_channel
from authz_service.runtime.worker_channel import Worker, WorkerProcess
from authz_service.telemetry.merged_metrics import decode
from authz_service.telemetry.metrics import Metrics
from authz_service.transport.addresses import SharedAddress
from support.sidecar_process import HANG_TIMEOUT
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


# The worker's end.


class SupervisorEnd:
    """The other end of a worker's channel."""

    def __init__(self) -> None:
        self.metrics = Metrics(transport="asyncio")
        self.missing = ["keys of issuer main"]
        self.also_missing = ["keys of issuer partner"]
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        own_end, worker_end = socket.socketpair()
        serving = asyncio.create_task(
            worker_channel.serve_requests(
                worker_end.detach(),
                metrics=self.metrics,
                missing=lambda: self.missing,
                also_missing=lambda: self.also_missing,
                reload=self.reload,
            )
        )
        self.reader, self.writer = await asyncio.open_unix_connection(sock=own_end, limit=1 << 20)
        yield
        self.writer.close()
        async with asyncio.timeout(HANG_TIMEOUT):
            await serving  # ends with the supervisor

    async def reply_to(self, *requests: str) -> Any:
        self.writer.write("".join(f"{each}\n" for each in requests).encode())
        async with asyncio.timeout(HANG_TIMEOUT):
            return json.loads(await self.reader.readline())


async def test_a_worker_replies_with_its_current_metrics_and_what_is_missing() -> None:
    supervisor = SupervisorEnd()
    async with supervisor.connected():
        assert await supervisor.reply_to("missing") == {
            "missing": ["keys of issuer main"],
            "also_missing": ["keys of issuer partner"],
        }
        supervisor.missing = supervisor.also_missing = []
        supervisor.metrics.in_flight = 7
        assert await supervisor.reply_to("missing") == {"missing": [], "also_missing": []}
        families = {family.name: family for family in decode((await supervisor.reply_to("metrics"))["metrics"])}
        assert families["authz_checks_in_flight"].samples[0].value == 7


async def test_a_reload_has_no_reply() -> None:
    supervisor = SupervisorEnd()
    async with supervisor.connected():
        assert (await supervisor.reply_to("reload", "missing"))["missing"] == supervisor.missing
        assert supervisor.reloads == 1


async def test_metrics_that_cannot_be_collected_are_null_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = SupervisorEnd()

    def fail() -> Any:
        raise RuntimeError

    monkeypatch.setattr(supervisor.metrics.registry, "collect", fail)
    with caplog.at_level(logging.ERROR):
        async with supervisor.connected():
            assert await supervisor.reply_to("metrics") == {"metrics": None}
            assert (await supervisor.reply_to("missing"))["missing"] == supervisor.missing
    assert "metrics could not be collected" in caplog.text


async def test_a_supervisor_that_ends_during_a_reply_ends_the_channel() -> None:
    supervisor = SupervisorEnd()
    async with supervisor.connected():
        supervisor.writer.write(b"metrics\n" * 20)
        supervisor.writer.transport.abort()


# The supervisor's end.


async def test_a_reply_that_is_cut_off_by_the_workers_end_is_ignored() -> None:
    own_end, worker_end = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=own_end)
    process = WorkerProcess(None, reader, writer)  # type: ignore[arg-type] # only its replies matter
    with worker_end:
        worker_end.sendall(b'{"missing": ["keys"], "also_missing": ["more"]}\n{"metrics": [["authz_ch')
        worker_end.shutdown(socket.SHUT_WR)
        serves = [process.serves async for _ in process.replies()]
    writer.close()
    assert (serves, process.missing, process.also_missing, process.serves) == ([True], ["keys"], ["more"], False)


class FakeProcess:
    """A worker's process that ends when it is killed, and records the requests that it receives."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.returncode: int | None = None
        self.ended = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.requests.append(data)

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL
        self.ended.set()

    async def wait(self) -> int | None:
        await self.ended.wait()
        return self.returncode


NOTHING_MISSING: dict[str, Any] = {"missing": [], "also_missing": []}


def worker_process(fake: FakeProcess) -> WorkerProcess:
    return WorkerProcess(fake, None, fake)  # type: ignore[arg-type] # all that it uses


@in_virtual_time
async def test_a_serving_worker_that_no_longer_replies_is_killed() -> None:
    fake = FakeProcess()
    process = worker_process(fake)
    watchdog = asyncio.create_task(process.kill_once_it_hangs())
    await asyncio.sleep(3600)  # fetching its first keys
    assert not fake.ended.is_set()
    process._receive(NOTHING_MISSING)
    await asyncio.sleep(20)
    assert (fake.requests, fake.ended.is_set()) == ([b"missing\n"] * 2, False)
    await watchdog
    assert await process.ended() == "it no longer replied"


@in_virtual_time
async def test_a_slow_worker_is_not_killed() -> None:
    fake = FakeProcess()
    process = worker_process(fake)
    watchdog = asyncio.create_task(process.kill_once_it_hangs())
    for _ in range(100):
        await asyncio.sleep(24.0)  # longer than the time limit for a reply
        if "missing" in process._pending:
            process._receive(NOTHING_MISSING)
    assert (fake.returncode, len(fake.requests) > 50) == (None, True)
    watchdog.cancel()
    await asyncio.gather(watchdog, return_exceptions=True)


@in_virtual_time
async def test_waiting_for_a_worker_that_closed_its_channel_is_limited() -> None:
    assert await worker_process(FakeProcess()).ended() == "it closed its channel and did not exit"


@in_virtual_time
async def test_the_cause_of_a_workers_end_is_its_exit_status() -> None:
    fake = FakeProcess()
    fake.kill()
    assert await worker_process(fake).ended() == "status -9"


@pytest.mark.parametrize("isolated", [0, 1])
def test_workers_are_isolated_from_the_environment_if_their_supervisor_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isolated: int
) -> None:
    flags = SimpleNamespace(ignore_environment=isolated, no_user_site=isolated)
    server = Server.model_validate({})
    with monkeypatch.context() as changed:
        changed.setattr(sys, "flags", flags)
        command = worker_channel.command_of(tmp_path, Worker(1, 3, server, SharedAddress("127.0.0.1:1")))
    options = command[1 : command.index("-m")]
    assert [each in options for each in ("-E", "-s")] == [bool(isolated)] * 2


def test_a_worker_is_passed_on_the_command_line_unchanged() -> None:
    server = Server.model_validate({"grpc_address": "127.0.0.1:1", "admin_address": "127.0.0.1:2", "workers": 3})
    worker = Worker(2, 7, server, SharedAddress("127.0.0.1:1", 9))
    assert Worker.decode(worker.encode()) == worker
