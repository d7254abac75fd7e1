"""Several processes that serve as one: ``server.workers``.

Law: a supervisor decides nothing and answers no proxy. It holds the address for its workers, starts each as the program
itself, replaces one that dies or hangs, tells of all of them at the one admin address, and ends when they have ended. A
worker is the whole sidecar but for the admin address: it keeps keys, reloads and drains by itself, and shares nothing
but the address. With one worker there is no supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_service.admin.server import AdminServer
from authz_service.config.model import Server
from authz_service.config.values import host_port
from authz_service.core.errors import StartFailed
from authz_service.runtime import application
from authz_service.runtime.application import Worker
from authz_service.telemetry import logs, merging
from authz_service.telemetry.logs import fields
from authz_service.telemetry.merging import MergedMetrics
from authz_service.telemetry.metrics import SupervisorMetrics
from authz_service.telemetry.stream import BackgroundStream
from authz_service.transport.addresses import Held, Shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prometheus_client import Metric

    from authz_service.config.model import Settings

_PATIENCE = 5.0  # seconds for a worker to answer; then it is told of as it was
_MAX_ANSWER = 1 << 30  # bytes, of which none is kept ready: a longer one would end the supervisor
_MAX_MISSED = 6  # times _PATIENCE that a question of ours may wait: then the worker hangs
_LONG_LIFE = 60.0  # seconds after which a death is nothing that goes on
_MAX_REST = 30.0  # seconds before a worker is replaced that dies again and again

_logger = logging.getLogger("authz.workers")


def run(file: Path, told: str | None = None) -> None:
    """Serve by a configuration file until SIGTERM or SIGINT, with as many processes as it says.

    ``told`` is what a supervisor tells this process, which is then one of its workers.

    Raises:
        ConfigError: when the configuration is refused.
        StartFailed: when it cannot listen.
    """
    loaded = application.read(file)
    if told is not None:
        application.run(file, loaded, _heard(told))
    elif loaded.settings.server.workers == 1:
        application.run(file, loaded)
    else:
        how = loaded.settings.logging
        with BackgroundStream(sys.stderr) as stream, asyncio.Runner() as runner:
            logs.configure(how.level, how.format, stream)
            application.tell_warnings(loaded.warnings)
            runner.run(Supervisor(file, loaded.settings).run())


def _said(worker: Worker) -> str:
    """What a worker is told, as an argument of its command."""
    server = worker.server.model_dump(mode="json", include=set(application.FIXED), exclude_none=True)
    return json.dumps(worker._replace(server=server))  # type: ignore[arg-type] # the others are plain values


def _heard(told: str) -> Worker:
    number, channel, server, shared = json.loads(told)
    return Worker(number, channel, Server.model_validate(server), Shared(*shared))


class Supervisor:
    """Runs the workers of one configuration."""

    def __init__(self, file: Path, settings: Settings) -> None:
        """Nothing is held and nothing runs yet."""
        self._file = file
        self._server = settings.server
        self._numbers = range(1, settings.server.workers + 1)
        self._processes: dict[int, _Process] = {}  # those that live, by their numbers
        self._served: set[int] = set()  # the numbers of which there was a worker that served
        self._stopping = asyncio.Event()
        self._own = SupervisorMetrics()
        self._metrics = MergedMetrics(self._own.registry)
        self._admin = AdminServer(
            address=host_port(settings.server.admin_address),
            metrics=self._metrics,
            missing=self._missing,
            ask=self._ask,
        )

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, and then until all have finished what is in flight.

        Raises:
            StartFailed: when an address cannot be had, or when a worker ends before it has served.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._held = Held(self._server.grpc_address)
        self._shared = self._held.shared(self._server.grpc_address)
        self._port = self._held.port
        keeping: list[asyncio.Task[None]] = []
        try:
            await self._admin.start()
            keeping = [asyncio.create_task(self._keep(number)) for number in self._numbers]
            await asyncio.gather(*keeping)
            _logger.info("stopped")
        except StartFailed:
            self._stop()  # those that serve already finish what is in flight
            await asyncio.gather(*keeping, return_exceptions=True)
            raise
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._admin.stop()
            self._held.release()
            self._held.remove()

    def _stop(self) -> None:
        _logger.info("stopping")
        self._stopping.set()
        self._held.release()  # from here on the address is the workers' alone
        for process in self._processes.values():
            process.stop()

    def _reload(self) -> None:
        for process in self._processes.values():
            process.tell("reload")

    # One worker, and who comes after it.

    async def _keep(self, number: int) -> None:
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            cause = await self._one_life(number)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise StartFailed(f"worker {number} ended before it served: {cause}")
            deaths = 1 if time.monotonic() - began > _LONG_LIFE else deaths + 1
            rest = _rest(deaths)
            _logger.error("a worker died", extra=fields(number=number, cause=cause, replaced_in_s=rest))
            self._own.worker_restarted()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest)

    async def _one_life(self, number: int) -> str:
        """Start a worker and stay with it until it ends; returns how it did."""
        try:
            process = await _started(self._file, number, self._server, self._shared)
        except (OSError, RuntimeError) as error:  # too many processes or, where asyncio waits in one, threads
            cause = error.strerror if isinstance(error, OSError) else "no thread can be had"
            return f"not started: {cause}"  # it may be otherwise soon
        self._processes[number] = process
        if self._stopping.is_set():
            process.stop()
        watching = asyncio.create_task(process.kill_once_it_hangs())
        try:
            async for _ in process.answers():
                self._metrics.said(number, process.metrics)
                if number not in self._served:
                    self._serves(number)
            return await process.ended()
        finally:
            watching.cancel()
            del self._processes[number]
            self._metrics.departed(number)
            await process.kill()

    def _serves(self, number: int) -> None:
        self._served.add(number)
        if len(self._served) == len(self._numbers):
            application.tell_listening(self._server, self._port, self._admin.port, workers=len(self._numbers))

    # What the admin server tells.

    def _serving(self) -> Iterator[_Process]:
        return (each for each in self._processes.values() if each.serves)

    async def _ask(self, what: str) -> None:
        await asyncio.gather(*(each.ask(what) for each in self._serving()))

    def _missing(self) -> list[str]:
        if self._stopping.is_set():
            return ["shutting down"]
        return [
            f"worker {number}{what}" for number in self._numbers for what in _missing_of(self._processes.get(number))
        ]


def _missing_of(process: _Process | None) -> list[str]:
    if process is None or not process.serves:
        return [""]
    return [" does not answer"] if process.silent else [f": {each}" for each in process.missing]


def _rest(deaths: int) -> float:
    """How long to wait after so many deaths in a row: not at all, one second, two, four ..."""
    return min(2.0 ** min(deaths - 2, 10), _MAX_REST) if deaths > 1 else 0.0  # nor overflow after a thousand


async def _started(file: Path, number: int, server: Server, shared: Shared) -> _Process:
    ours, theirs = socket.socketpair()
    async with contextlib.AsyncExitStack() as undone:
        undone.enter_context(ours)
        with theirs:
            command = _command(file, Worker(number, theirs.fileno(), server, shared))
            inherited = [theirs.fileno(), *([] if shared.descriptor is None else [shared.descriptor])]
            process = await asyncio.create_subprocess_exec(*command, pass_fds=inherited)
        undone.push_async_callback(_killed, process)  # if we are to end just now, nobody else would know of it
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MAX_ANSWER)
        undone.pop_all()
    return _Process(process, reader, writer)


def _command(file: Path, worker: Worker) -> list[str]:
    # What lies in the working directory, or where the environment or the user would have it, is imported only if it is
    # by ourselves as well.
    flags = {"-P": str(Path.cwd()) not in sys.path, "-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    safe = [option for option, chosen in flags.items() if chosen]
    return [sys.executable, *safe, "-m", "authz_service", "serve", "--config", str(file), "--worker", _said(worker)]


async def _killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


class _Process:
    """A worker's process, and what it said last."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.metrics: list[Metric] = []
        self.missing: list[str] = []
        self.serves = False  # it answers once it does
        self.silent = False  # it left a question unanswered
        self._hung = False  # it left so many unanswered that it was killed
        self._process = process
        self._reader = reader
        self._writer = writer
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._begin("missing")

    def tell(self, what: str) -> None:
        """Say something to it; it hears it once it serves."""
        self._writer.write(f"{what}\n".encode())

    async def ask(self, what: str) -> None:
        """Wait until it has said this anew, but not for ever."""
        answered, _ = await asyncio.wait([self._begin(what)], timeout=_PATIENCE)
        self.silent = not answered

    def _begin(self, what: str) -> asyncio.Future[None]:
        if what not in self._asked:
            self._asked[what] = asyncio.get_running_loop().create_future()
            self.tell(what)
        return self._asked[what]

    async def answers(self) -> AsyncIterator[None]:
        """Take in what it says, until it says no more."""
        with contextlib.suppress(ConnectionError):
            async for line in self._reader:
                if line.endswith(b"\n"):  # else it died amid a word
                    self._take_in(json.loads(line))
                    yield
        self.serves = False
        for asked in self._asked.values():
            asked.set_result(None)

    def _take_in(self, said: dict[str, Any]) -> None:
        self.serves = True
        if (missing := said.get("missing")) is not None:
            self.missing = missing
        if (metrics := said.get("metrics")) is not None:
            self.metrics = merging.read(metrics)
        for what in said:
            self._asked.pop(what).set_result(None)

    def stop(self) -> None:
        """Ask it to drain and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def kill_once_it_hangs(self) -> None:
        """End it when it serves and does not answer any more.

        Nobody else would: it would keep its connections, and the calls on them would wait for nothing. Several waits
        instead of a long one: when the whole container was frozen, only one of them is over at once.
        """
        missed = 0
        while missed < _MAX_MISSED:
            asked = self._begin("missing")
            await asyncio.wait([asked], timeout=_PATIENCE)
            missed = 0 if asked.done() or not self.serves else missed + 1
            if asked.done():
                await asyncio.sleep(_PATIENCE)
        self._hung = True
        if self._process.returncode is None:  # else it ended just now
            self._process.kill()

    async def ended(self) -> str:
        """Wait for its end, but not for ever; returns how it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_MISSED * _PATIENCE):
                status = await self._process.wait()
                return "it did not answer any more" if self._hung else f"status {status}"
        return "it hung at its end"

    async def kill(self) -> None:
        """End it if it has not ended."""
        self._writer.close()
        await _killed(self._process)
