"""The sidecar as users start it: the command and a configuration file, and nothing else.

It is a black box: the demo sees only its log and its HTTP responses.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from authz_service.core.errors import StartFailed
from authz_service.demo import child_process

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_START_TIMEOUT = 30.0
_POLL_INTERVAL = 0.02
_STOP_TIMEOUT = 15.0  # includes draining


class Sidecar:
    """A running ``authz-service serve`` while its context is open."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self.admin_url = ""

    async def __aenter__(self) -> Self:
        process = await child_process.start("authz-service", self._command(), self._log)
        self._process = process
        async with child_process.stop_unless_ready("authz-service", process, self._log, _START_TIMEOUT):
            await self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The running process."""
        if self._process is None:
            raise StartFailed("authz-service was never started")
        return self._process

    def log(self) -> list[dict[str, Any]]:
        """The complete lines of its log so far."""
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def ready(self) -> None:
        """Wait until /readyz answers 200."""
        async with aiohttp.ClientSession() as session:
            while not await self._is_ready(session):
                self._require_running()
                await asyncio.sleep(_POLL_INTERVAL)

    async def stop(self) -> int:
        """Stop it and wait; returns its exit status."""
        return await child_process.stop(self.process, _STOP_TIMEOUT)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "authz_service", "serve", "--config", str(self._config)]

    async def _started(self) -> None:
        """Wait until it serves."""
        await self._listening()
        await self.ready()

    async def _listening(self) -> None:
        while not self.admin_url:
            self._require_running()
            await asyncio.sleep(_POLL_INTERVAL)
            for record in self.log():
                if record["event"] == "listening":
                    self.admin_url = f"http://127.0.0.1:{record['admin_port']}"

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.admin_url}/readyz") as response:
                return response.ok
        except aiohttp.ClientError:  # it may have exited, which the next poll reports
            return False

    def _require_running(self) -> None:
        child_process.require_running("authz-service", self.process, self._log)
