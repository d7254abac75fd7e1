"""Runs each async test with uvloop, which the program uses, and with asyncio's loop, for platforms without uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"plain": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
