"""The channel between the supervisor and one worker process, with both of its ends.

The supervisor sends requests as lines: ``metrics`` and ``missing`` are replied to by a JSON object with that member, in
order, and ``missing`` with ``also_missing`` beside it; ``reload`` has no reply. Replying must not delay a decision. The
socket is one of a pair that only these two processes hold, so it ends with the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.config.model import Server
from authz_service.runtime.preflight import RESTART_ONLY
from authz_service.telemetry import merged_metrics
from authz_service.transport.addresses import SharedAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from prometheus_client import Metric

    from authz_service.telemetry.metrics import Metrics

_REPLY_TIMEOUT = 5.0  # seconds; after that the previous reply is used
_MAX_REPLY_BYTES = 1 << 30  # not preallocated; a longer reply would end the supervisor
_MAX_TIMEOUTS = 6  # in a row: then the worker hangs

_logger = logging.getLogger("authz.admin")


class Worker(NamedTuple):
    """The parameters that the supervisor passes to a worker."""

    number: int  # from 1
    channel: int  # descriptor of the worker's end
    server: Server  # the settings that only a restart changes, as the supervisor read them
    shared: SharedAddress

    def encode(self) -> str:
        """This worker as a command-line argument."""
        server = self.server.model_dump(mode="json", include=set(RESTART_ONLY), exclude_none=True)
        return json.dumps(self._replace(server=server))  # type: ignore[arg-type] # the other members are plain values

    @classmethod
    def decode(cls, argument: str) -> Worker:
        """The worker of such an argument."""
        number, channel, server, shared = json.loads(argument)
        return cls(number, channel, Server.model_validate(server), SharedAddress(*shared))


# The worker's end.


async def serve_requests(
    descriptor: int,
    *,
    metrics: Metrics,
    missing: Callable[[], Sequence[str]],
    also_missing: Callable[[], Sequence[str]],
    reload: Callable[[], None],
) -> None:
    """Reply to the requests that arrive on this socket, until the supervisor closes it."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        async for line in reader:
            request = line.decode().strip()
            if request == "reload":
                reload()
                continue
            if request == "metrics":
                reply = f'{{"metrics": {await _encoded_metrics(metrics)}}}'
            else:
                reply = json.dumps({"missing": list(missing()), "also_missing": list(also_missing())})
            writer.write(f"{reply}\n".encode())
            await writer.drain()


async def _encoded_metrics(metrics: Metrics) -> str:
    try:
        return await asyncio.to_thread(merged_metrics.encode, metrics.registry)
    except Exception:
        # Unreadable metrics are no reason to stop deciding; the supervisor keeps the previous ones.
        _logger.exception("metrics could not be collected; the supervisor keeps the previous ones")
        return "null"


# The supervisor's end.


async def start_worker(file: Path, number: int, server: Server, shared: SharedAddress) -> WorkerProcess:
    """Start a worker as a process.

    Raises:
        OSError: when the system allows no further process or descriptor.
        RuntimeError: when it allows no further thread, which asyncio may need to wait for the process.
    """
    own_end, worker_end = socket.socketpair()
    async with contextlib.AsyncExitStack() as undo:
        undo.enter_context(own_end)
        with worker_end:
            command = command_of(file, Worker(number, worker_end.fileno(), server, shared))
            inherited = [worker_end.fileno(), *([] if shared.descriptor is None else [shared.descriptor])]
            process = await asyncio.create_subprocess_exec(*command, pass_fds=inherited)
        undo.push_async_callback(_kill, process)  # a cancellation here would leave it running unnoticed
        reader, writer = await asyncio.open_unix_connection(sock=own_end, limit=_MAX_REPLY_BYTES)
        undo.pop_all()
    return WorkerProcess(process, reader, writer)


def command_of(file: Path, worker: Worker) -> list[str]:
    """The command that starts a worker."""
    # The worker imports from the working directory, the environment's and the user's folders only if we do so too.
    flags = {"-P": str(Path.cwd()) not in sys.path, "-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    options = [option for option, chosen in flags.items() if chosen]
    serve = ["-m", "authz_service", "serve", "--config", str(file), "--worker", worker.encode()]
    return [sys.executable, *options, *serve]


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


class WorkerProcess:
    """A worker's process, with its latest replies."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.metrics: list[Metric] = []
        self.missing: list[str] = []
        self.also_missing: list[str] = []
        self.serves = False  # set by the first reply: a worker replies only once it serves
        self.unresponsive = False  # the latest request timed out
        self._hung = False  # it was killed after too many timeouts
        self._process = process
        self._reader = reader
        self._writer = writer
        self._pending: dict[str, asyncio.Future[None]] = {}  # by request
        self._pending_reply("missing")

    def send_reload(self) -> None:
        """Make the worker reload its configuration, as soon as it serves."""
        self._send("reload")

    async def request(self, request: str) -> None:
        """Wait for a new reply to ``metrics`` or ``missing``, within a time limit."""
        done, _ = await asyncio.wait([self._pending_reply(request)], timeout=_REPLY_TIMEOUT)
        self.unresponsive = not done

    def _pending_reply(self, request: str) -> asyncio.Future[None]:
        if request not in self._pending:
            self._pending[request] = asyncio.get_running_loop().create_future()
            self._send(request)
        return self._pending[request]

    def _send(self, request: str) -> None:
        self._writer.write(f"{request}\n".encode())

    async def replies(self) -> AsyncIterator[None]:
        """Receive replies until the channel closes."""
        with contextlib.suppress(ConnectionError):
            async for line in self._reader:
                if line.endswith(b"\n"):  # else the worker ended in the middle of a reply
                    self._receive(json.loads(line))
                    yield
        self.serves = False
        for pending in self._pending.values():
            pending.set_result(None)

    def _receive(self, reply: dict[str, Any]) -> None:
        self.serves = True
        if (missing := reply.get("missing")) is not None:
            self.missing = missing
            self.also_missing = reply["also_missing"]
        if (metrics := reply.get("metrics")) is not None:
            self.metrics = merged_metrics.decode(metrics)
        request = "metrics" if "metrics" in reply else "missing"
        self._pending.pop(request).set_result(None)

    def terminate(self) -> None:
        """Make the worker drain and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def kill_once_it_hangs(self) -> None:
        """Kill the worker when it serves and no longer replies.

        It would keep its connections, and the calls on them would never end. Several timeouts in a row rather than one
        long one: after the whole container was frozen, only one of them is over at once.
        """
        timeouts = 0
        while timeouts < _MAX_TIMEOUTS:
            pending = self._pending_reply("missing")
            await asyncio.wait([pending], timeout=_REPLY_TIMEOUT)
            timeouts = 0 if pending.done() or not self.serves else timeouts + 1
            if pending.done():
                await asyncio.sleep(_REPLY_TIMEOUT)
        self._hung = True
        if self._process.returncode is None:  # else it ended just now
            self._process.kill()

    async def ended(self) -> str:
        """Wait for the end, within a time limit; returns its cause."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_TIMEOUTS * _REPLY_TIMEOUT):
                status = await self._process.wait()
                return "it no longer replied" if self._hung else f"status {status}"
        return "it closed its channel and did not exit"

    async def kill(self) -> None:
        """Kill the worker unless it has ended."""
        self._writer.close()
        await _kill(self._process)
