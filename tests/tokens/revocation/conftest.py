from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.transmitter import Transmitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def transmitter() -> AsyncIterator[Transmitter]:
    async with Transmitter() as transmitter:
        yield transmitter
