"""A Node.js program that exchanges lines of JSON with a test."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from authz_service.demo import child_process

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

RESPONSE_TIMEOUT = 10.0
_START_TIMEOUT, _STOP_TIMEOUT = 30.0, 5.0
_MAX_LINE = 1 << 20  # bytes


class NodeProgram:
    """A running program while its context is open. It writes one line when it is ready, and one for each request."""

    def __init__(self, name: str, script: Path, arguments: Sequence[str], log: Path) -> None:
        self._name = name
        self._script = script
        self._arguments = arguments
        self._log = log
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self.greeting: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        command = ("node", self._script.name, *self._arguments)
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=self._script.parent, stdin=pipe, stdout=pipe, stderr=log, limit=_MAX_LINE
            )
        async with child_process.stop_unless_ready(self._name, self._process, self._log, _START_TIMEOUT):
            self.greeting = await self._reply(self._process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        await child_process.stop(self._process, _STOP_TIMEOUT)

    async def request(self, command: dict[str, Any]) -> dict[str, Any]:
        """The reply to a command."""
        assert self._process is not None
        assert self._process.stdin is not None
        async with self._lock, asyncio.timeout(RESPONSE_TIMEOUT):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            return await self._reply(self._process)

    async def _reply(self, process: Process) -> dict[str, Any]:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            await process.wait()
            child_process.require_running(self._name, process, self._log)
        reply: dict[str, Any] = json.loads(line)
        return reply
