"""What a worker tells its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

from authz_service.runtime import worker_channel
from authz_service.telemetry.merging import decode
from authz_service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

HANG_GUARD = 30.0  # seconds: no test waits for it


class Supervisor:
    """The other end."""

    def __init__(self) -> None:
        self.metrics = Metrics(transport="asyncio")
        self.missing = ["keys of issuer main"]
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        ours, theirs = socket.socketpair()
        answering = asyncio.create_task(
            worker_channel.serve_requests(
                theirs.detach(), metrics=self.metrics, missing=lambda: self.missing, reload=self.reload
            )
        )
        self.reader, self.writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        yield
        self.writer.close()
        async with asyncio.timeout(HANG_GUARD):
            await answering  # ends when we do

    async def heard(self, *asked: str) -> Any:
        self.writer.write("".join(f"{each}\n" for each in asked).encode())
        async with asyncio.timeout(HANG_GUARD):
            return json.loads(await self.reader.readline())


async def test_it_says_what_is_missing_and_what_it_counts_as_they_are_now() -> None:
    supervisor = Supervisor()
    async with supervisor.asking():
        assert await supervisor.heard("missing") == {"missing": ["keys of issuer main"]}
        supervisor.missing = []
        supervisor.metrics.in_flight = 7
        assert await supervisor.heard("missing") == {"missing": []}
        families = {family.name: family for family in decode((await supervisor.heard("metrics"))["metrics"])}
        assert families["authz_checks_in_flight"].samples[0].value == 7


async def test_it_reloads_without_a_word() -> None:
    supervisor = Supervisor()
    async with supervisor.asking():
        assert await supervisor.heard("reload", "missing") == {"missing": supervisor.missing}
        assert supervisor.reloads == 1


async def test_numbers_that_cannot_be_read_are_told_so_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor()

    def faulty() -> Any:
        raise RuntimeError

    monkeypatch.setattr(supervisor.metrics.registry, "collect", faulty)
    with caplog.at_level(logging.ERROR):
        async with supervisor.asking():
            assert await supervisor.heard("metrics") == {"metrics": None}
            assert await supervisor.heard("missing") == {"missing": supervisor.missing}
    assert "metrics could not be collected" in caplog.text


async def test_a_supervisor_that_is_gone_while_it_is_answered_is_gone() -> None:
    supervisor = Supervisor()
    async with supervisor.asking():
        supervisor.writer.write(b"metrics\n" * 20)
        supervisor.writer.transport.abort()
