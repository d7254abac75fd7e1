"""What an operator sees of a running sidecar: its log, its pages, its metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.demo.sidecar import Sidecar

HANG_GUARD = 30.0  # seconds: no test waits for it


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(HANG_GUARD):
        while not is_so():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


def told(sidecar: Sidecar, event: str) -> list[dict[str, Any]]:
    """The lines of its log about this event."""
    return [record for record in sidecar.log() if record["event"] == event]


async def page(sidecar: Sidecar, path: str) -> tuple[int, str]:
    """Status and text of what its admin address answers."""
    async with aiohttp.ClientSession() as session, session.get(f"{sidecar.admin_url}{path}") as answer:
        return answer.status, await answer.text()


async def values(sidecar: Sidecar, name: str, **labels: str) -> list[float]:
    """Of every sample of this name that has these labels, among others."""
    _, text = await page(sidecar, "/metrics")
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
