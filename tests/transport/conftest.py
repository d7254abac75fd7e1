"""A server on asyncio, and the event loops under which servers are tested: uvloop's, and asyncio's own without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop

from authz_service.telemetry.metrics import Metrics
from authz_service.transport import asyncio_server
from transport.socket_client import Checks, asyncio_server_of, connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from authz_service.transport.asyncio_server import AsyncioServer

_ON_BOTH = {
    "test_servers.py",
    "test_asyncio_server.py",
    "test_asyncio_protocol.py",
    "test_grpc_methods.py",
    "test_peers.py",
    "test_listener.py",
}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    plain = {"plain": asyncio.new_event_loop}
    return plain | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH else plain


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(transport="asyncio")


@pytest_asyncio.fixture
async def server(checks: Checks, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncioServer]:
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 3600.0)
    server = asyncio_server_of(checks, metrics=metrics)
    await server.start()
    await server.set_serving(serving=True)
    yield server
    await server.stop(0)
    assert not connections(server)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives the server"
    assert checks.in_progress == 0
