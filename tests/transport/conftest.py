"""The event loops under which the servers are tried: the program's, and the one of where uvloop is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_ON_BOTH = {"test_servers.py", "test_asyncio_server.py"}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    plain = {"plain": asyncio.new_event_loop}
    return plain | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH else plain
