"""The sidecar in its own process, as an operator observes it: its log, its admin pages, its metrics."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from authz_service.demo.sidecar import Sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HANG_TIMEOUT = 30.0  # seconds; only a test that hangs takes this long
_PROGRAM = (sys.executable, "-m", "authz_service")


class SidecarProcess(Sidecar):
    """The demo's sidecar; it need not become ready, and another installation can run it."""

    def __init__(
        self, config: Path, log: Path, *, wait_until_ready: bool = True, program: Sequence[str] = _PROGRAM
    ) -> None:
        super().__init__(config, log)
        self._wait_until_ready = wait_until_ready
        self._program = program

    def _command(self) -> list[str]:
        return [*self._program, "serve", "--config", str(self._config)]

    async def _started(self) -> None:
        if self._wait_until_ready:
            await super()._started()
        else:
            await self._listening()

    def records(self, event: str) -> list[dict[str, Any]]:
        """The log records of this event."""
        return [record for record in self.log() if record["event"] == event]

    async def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page of the admin address."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}{path}") as response:
            return response.status, await response.text()

    async def metric(self, name: str, **labels: str) -> list[float]:
        """The values of all samples with this name and at least these labels."""
        _, exposition = await self.get("/metrics")
        samples = [each for family in text_string_to_metric_families(exposition) for each in family.samples]
        return [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]


def workers(supervisor: int) -> list[int]:
    """The processes of its workers."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return sorted(map(int, children.split()))


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a change that another process makes."""
    async with asyncio.timeout(HANG_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)
