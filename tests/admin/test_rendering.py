"""Metrics are rendered in slices, one rendering at a time, and not all the time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from authz_service.admin import limits, rendering
from authz_service.admin.rendering import MetricsRenderer
from authz_service.telemetry.metrics import Metrics
from support.admin_client import HEALTH, OPENMETRICS, SCRAPE, serving
from support.sidecar_process import HANG_TIMEOUT, wait_until
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator


class SlowMetrics:
    """Metrics whose rendering ends when the test allows it."""

    def __init__(self) -> None:
        self.formats: list[bool] = []
        self.concurrent = 0
        self.max_concurrent = 0
        self.started = 0
        self.may_end = 0

    def exposition(self, *, openmetrics: bool) -> Iterator[str]:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        self.started += 1
        while not self.may_end:
            time.sleep(0.001)
            yield ""
        self.may_end -= 1
        self.concurrent -= 1
        self.formats.append(openmetrics)
        yield str(len(self.formats))


async def test_clients_that_request_metrics_during_a_rendering_share_the_next_one() -> None:
    slow = SlowMetrics()
    async with serving(slow) as running:
        clients = [await running.connect() for _ in range(20)]
        clients[0].send(SCRAPE)
        await wait_until(lambda: slow.started == 1)
        for client in clients[1:]:
            client.send(SCRAPE)
        await wait_until(lambda: sum(each.has_request for each in running.server._connections) == 20)
        slow.may_end = 2
        bodies = [(await client.response())[2] for client in clients]
        assert bodies == [b"1", *[b"2"] * 19]
        assert (len(slow.formats), slow.max_concurrent) == (2, 1)


async def test_each_format_is_rendered_separately_and_one_at_a_time() -> None:
    slow = SlowMetrics()
    async with serving(slow) as running:
        clients = [await running.connect() for _ in range(10)]
        for number, client in enumerate(clients):
            client.send(OPENMETRICS if number % 2 else SCRAPE)
        slow.may_end = 10
        for client in clients:
            assert (await client.response())[0] == 200
        assert slow.max_concurrent == 1
        assert set(slow.formats) == {False, True}


async def test_a_rendering_whose_client_disconnected_does_not_block_the_next_one() -> None:
    slow = SlowMetrics()
    async with serving(slow) as running:
        disconnected = await running.connect()
        disconnected.send(SCRAPE)
        await wait_until(lambda: slow.started == 1)
        disconnected.writer.transport.abort()
        slow.may_end = 2
        assert await (await running.connect()).request(SCRAPE) == 200


async def test_a_failed_rendering_is_a_500_and_the_next_one_is_tried() -> None:
    class Failing:
        failures = 1

        def exposition(self, *, openmetrics: bool) -> Iterator[str]:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("a secret")
            yield "x"

    async with serving(Failing()) as running:
        client = await running.connect()
        client.send(SCRAPE)
        status, _, body = await client.response()
        assert (status, b"secret" in body) == (500, False)
        assert await client.request(SCRAPE) == 200


async def test_stopping_waits_for_a_response_in_progress() -> None:
    slow = SlowMetrics()
    async with serving(slow) as running:
        client, idle = await running.connect(), await running.connect()
        client.send(SCRAPE)
        await wait_until(lambda: slow.started == 1)
        stopping = asyncio.create_task(running.server.stop())
        assert await idle.read_to_end() == b""
        assert not stopping.done()
        slow.may_end = 1
        assert (await client.response())[2] == b"1"
        await stopping


async def test_stopping_waits_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_TIMEOUT", 0.01)
    slow = SlowMetrics()
    async with serving(slow) as running:
        client = await running.connect()
        client.send(SCRAPE)
        await wait_until(lambda: slow.started == 1)
        async with asyncio.timeout(HANG_TIMEOUT):
            await running.server.stop()
        slow.may_end = 1
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("server", ["event loop"], indirect=True)
@in_virtual_time
async def test_scrapes_in_a_loop_render_for_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    renderings: list[float] = []

    async def render(_pieces: object) -> bytes:
        renderings.append(loop.time())
        await asyncio.sleep(0.02)
        return b""

    monkeypatch.setattr(rendering, "in_slices", render)
    monkeypatch.setattr(time, "monotonic", loop.time)
    renderer = MetricsRenderer(Metrics(transport="grpcio"))

    async def scrape() -> None:
        while loop.time() < 20.0:
            await renderer.render("")

    await asyncio.gather(*(scrape() for _ in range(10)))
    assert 90 <= len(renderings) <= 102  # of 20 ms each, in 20 s
    await renderer.close()


@pytest.mark.parametrize("server", ["event loop"], indirect=True)
@in_virtual_time
async def test_the_pause_between_renderings_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def render(_pieces: object) -> bytes:
        await asyncio.sleep(5.0)
        return b""

    monkeypatch.setattr(rendering, "in_slices", render)
    monkeypatch.setattr(time, "monotonic", loop.time)
    renderer = MetricsRenderer(Metrics(transport="grpcio"))
    await renderer.render("")
    await renderer.render("")
    assert loop.time() == 11.0
    await renderer.close()


async def test_other_clients_are_served_between_the_pieces_of_a_rendering() -> None:
    slow = SlowMetrics()
    async with serving(slow) as running:
        scraping, probing = await running.connect(), await running.connect()
        scraping.send(SCRAPE)
        await wait_until(lambda: slow.started == 1)
        for _ in range(3):
            assert await probing.request(HEALTH) == 200
        slow.may_end = 1
        assert (await scraping.response())[2] == b"1"
