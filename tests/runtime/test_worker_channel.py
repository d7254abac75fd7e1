"""A worker replies to its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

from authz_service.runtime import worker_channel
from authz_service.telemetry.merged_metrics import decode
from authz_service.telemetry.metrics import Metrics
from support.sidecar_process import HANG_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


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
        values = {
            name: value
            for each in decode((await supervisor.reply_to("metrics"))["metrics"])
            for name, value in each.values.items()
        }
        assert values["authz_checks_in_flight"] == 7


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
