from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.http_provider import Provider
from support.introspection_clients import IntrospectionClients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as provider:
        yield provider


@pytest.fixture
async def clients(provider: Provider, tmp_path: Path) -> AsyncIterator[IntrospectionClients]:
    clients = IntrospectionClients(provider, tmp_path)
    yield clients
    await clients.close()
