"""The admin port serves metrics, liveness and readiness, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from authz_service.admin.server import AdminServer
from authz_service.core.errors import StartFailed
from authz_service.telemetry.connection_log import FailureLog
from authz_service.telemetry.metrics import Metrics
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

NO_FAILURES = FailureLog(lambda _: None)


def nothing_missing() -> tuple[str, ...]:
    return ()


@asynccontextmanager
async def serving(
    missing: Callable[[], Sequence[str]] = nothing_missing, metrics: Metrics | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    metrics = metrics or Metrics(transport="grpcio")
    server = AdminServer(address=("127.0.0.1", 0), metrics=metrics, missing=missing, failures=NO_FAILURES)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            yield session
    finally:
        await server.stop()


async def test_healthz_returns_200_even_when_not_ready() -> None:
    async with serving(lambda: ["keys of main"]) as session, session.get("/healthz") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok"}


async def test_readyz_names_what_is_missing_and_returns_200_once_nothing_is() -> None:
    missing = ["keys of main", "keys of other"]
    async with serving(lambda: missing) as session:
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert response.content_type == "application/json"
            assert await response.json() == {"ready": False, "missing": ["keys of main", "keys of other"]}
        missing.clear()
        async with session.get("/readyz") as response:
            assert response.status == 200
            assert await response.json() == {"ready": True, "missing": []}


async def test_metrics_are_prometheus_text_unless_openmetrics_is_requested() -> None:
    async with serving() as session:
        async with session.get("/metrics") as response:
            assert (response.content_type, response.charset) == ("text/plain", "utf-8")
            assert not (await response.text()).endswith("# EOF\n")
        accept = "application/openmetrics-text;version=1.0.0"
        async with session.get("/metrics", headers={"Accept": accept}) as response:
            assert response.content_type == "application/openmetrics-text"
            assert (await response.text()).endswith("# EOF\n")


async def test_an_unusual_accept_header_gets_a_response() -> None:
    async with serving() as session:
        for accept in ("text/plain;version=x", "application/openmetrics-text;version=2.\u00ff", ";;,=,", "x" * 5000):
            async with session.get("/metrics", headers={"Accept": accept}) as response:
                assert response.status == 200


async def test_a_scrape_does_not_block_the_event_loop() -> None:
    class Slow(Metrics):
        rendering = may_end = False

        def exposition(self, *, openmetrics: bool) -> Iterator[str]:
            self.rendering = True
            while not self.may_end:
                time.sleep(0.001)
                yield ""
            yield from super().exposition(openmetrics=openmetrics)

    slow = Slow(transport="grpcio")
    async with serving(metrics=slow) as session:
        scrape = asyncio.create_task(session.get("/metrics"))
        await wait_until(lambda: slow.rendering)
        async with session.get("/healthz") as response:
            assert response.status == 200
        assert not scrape.done()
        slow.may_end = True
        async with await scrape as response:
            assert response.status == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with serving() as session, session.head(path) as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert await response.read() == b""


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/favicon.ico", "/..%2fmetrics"])
async def test_any_other_path_is_a_404_problem_that_repeats_nothing(path: str) -> None:
    async with serving() as session, session.get(path) as response:
        assert response.status == 404
        assert response.content_type == "application/problem+json"
        assert await response.json() == {"type": "about:blank", "title": "Not Found", "status": 404}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with serving() as session, session.request(method, "/metrics", data=b"x" * 100_000) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nowhere"])
async def test_responses_are_not_cached_and_reveal_no_version(path: str) -> None:
    async with serving() as session, session.get(path) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers


@pytest.mark.filterwarnings("default")
async def test_an_unexpected_error_is_a_500_without_its_message() -> None:
    def fail() -> tuple[str, ...]:
        raise RuntimeError("a secret")

    async with serving(fail) as session, session.get("/readyz") as response:
        assert response.status == 500
        assert "secret" not in await response.text()


async def test_connections_are_kept_alive_for_the_next_scrape() -> None:
    async with serving() as session:
        for _ in range(2):
            async with session.get("/healthz") as response:
                assert response.headers.get("Connection") != "close"
                await response.read()


async def test_an_address_in_use_is_an_error_that_names_the_key_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        server = AdminServer(
            address=("127.0.0.1", port),
            metrics=Metrics(transport="grpcio"),
            missing=nothing_missing,
            failures=NO_FAILURES,
        )
        with pytest.raises(StartFailed, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*admin_address"):
            await server.start()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "no-such-host.invalid"])
async def test_an_address_of_another_machine_or_of_none_is_an_error(host: str) -> None:
    server = AdminServer(
        address=(host, 0), metrics=Metrics(transport="grpcio"), missing=nothing_missing, failures=NO_FAILURES
    )
    with pytest.raises(StartFailed, match="admin_address"):
        await server.start()
    await server.stop()


async def test_after_stop_the_port_is_free_and_stopping_again_is_harmless() -> None:
    server = AdminServer(
        address=("127.0.0.1", 0), metrics=Metrics(transport="grpcio"), missing=nothing_missing, failures=NO_FAILURES
    )
    await server.stop()
    assert server.port == 0
    await server.start()
    port = server.port
    assert port > 0
    await server.stop()
    await server.stop()
    again = AdminServer(
        address=("127.0.0.1", port), metrics=Metrics(transport="grpcio"), missing=nothing_missing, failures=NO_FAILURES
    )
    await again.start()
    assert again.port == port
    await again.stop()


async def test_an_idle_connection_does_not_delay_stopping() -> None:
    server = AdminServer(
        address=("127.0.0.1", 0), metrics=Metrics(transport="grpcio"), missing=nothing_missing, failures=NO_FAILURES
    )
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(5):
        await server.stop()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
