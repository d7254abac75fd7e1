"""Both admin servers pass the same tests: that of the supervisor, and that of a sidecar.

The latter is tested on uvloop, which the program uses, and on asyncio's own event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from support import admin_client
from support.admin_client import ThreadedServer

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"plain": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True, params=["event loop", "threads"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that a test uses."""
    if request.param == "threads":
        for module in (admin_client, request.module):
            monkeypatch.setattr(module, "AdminServer", ThreadedServer, raising=False)
