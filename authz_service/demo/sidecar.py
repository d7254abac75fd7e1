"""The sidecar as its users start it: the command, a configuration file, and nothing else.

Law: it is a black box. What is known of it is what it logs and what it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from authz_service.demo import child

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

_START = 30.0  # seconds until it must be ready
_LOOK = 0.02  # seconds between two looks
_STOP = 15.0  # seconds to drain
_PROGRAM = (sys.executable, "-m", "authz_service")


class Sidecar:
    """A running ``authz-service serve``, from entering to leaving its context."""

    def __init__(
        self, config: Path, log: Path, *, wait_until_ready: bool = True, program: Sequence[str] = _PROGRAM
    ) -> None:
        """``program`` starts authz-service: this one, or one that is installed elsewhere."""
        self._program = program
        self._config = config
        self._log = log
        self._wait_until_ready = wait_until_ready
        self.process: asyncio.subprocess.Process | None = None
        self.admin_url = ""

    async def __aenter__(self) -> Self:
        command = [*self._program, "serve", "--config", str(self._config)]
        self.process = await child.start("the sidecar", command, self._log)
        async with child.starting("the sidecar", self.process, self._log, _START):
            await self._listening()
            if self._wait_until_ready:
                await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def _listening(self) -> None:
        while not self.admin_url:
            self._still_runs()
            await asyncio.sleep(_LOOK)
            for record in self.log():
                if record["event"] == "listening":
                    self.admin_url = f"http://127.0.0.1:{record['admin_port']}"

    async def ready(self) -> None:
        """Wait until it says that it is ready."""
        async with aiohttp.ClientSession() as session:
            while not await self._says_ready(session):
                self._still_runs()
                await asyncio.sleep(_LOOK)

    async def _says_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.admin_url}/readyz") as answer:
                return answer.ok
        except aiohttp.ClientError:  # it may just have ended, which the next look finds
            return False

    def _still_runs(self) -> None:
        child.still_runs("the sidecar", self._running(), self._log)

    def _running(self) -> asyncio.subprocess.Process:
        if self.process is None:
            raise AssertionError("it was never started")
        return self.process

    async def stop(self) -> int:
        """Ask it to end, and wait; returns its exit status."""
        return await child.stop(self._running(), _STOP)
