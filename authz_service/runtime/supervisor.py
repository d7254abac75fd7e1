"""Runs several worker processes that serve as one: ``server.workers``.

The supervisor decides nothing and answers no proxy. It reserves the address for its workers, starts each worker as the
program itself, replaces a worker that ends or hangs, reports all of them at the one admin address, and ends when they
have ended. A worker is a whole sidecar without the admin address: it fetches keys, reloads and drains independently,
and shares only the address. With one worker there is no supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

from authz_service.admin.server import AdminServer
from authz_service.config.values import host_port
from authz_service.core import backoff
from authz_service.core.errors import StartFailed
from authz_service.runtime import application, preflight
from authz_service.runtime.background_tasks import cancel_all
from authz_service.runtime.worker_channel import Worker, start_worker
from authz_service.telemetry import logs
from authz_service.telemetry.background_log_stream import BackgroundLogStream
from authz_service.telemetry.connection_log import FailureLog
from authz_service.telemetry.logs import fields
from authz_service.telemetry.merged_metrics import MergedMetrics
from authz_service.telemetry.metrics import SupervisorMetrics
from authz_service.transport.addresses import ReservedAddress

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.model import Settings
    from authz_service.runtime.worker_channel import WorkerProcess

_STABLE_AFTER = 60.0  # seconds: the end of a worker that lived so long does not count as a repeated one
_FIRST_BACKOFF = 1.0  # seconds before a worker is replaced that ended twice in a row; doubled with each further end
_MAX_BACKOFF = 30.0  # seconds

_logger = logging.getLogger("authz.workers")


def run(file: Path, worker: str | None = None) -> None:
    """Serve by a configuration file until SIGTERM or SIGINT, with as many processes as it configures.

    ``worker`` is the encoded ``Worker`` where a supervisor started this process.

    Raises:
        ConfigError: when the configuration is rejected.
        StartFailed: when it cannot listen.
    """
    loaded = preflight.read(file)
    if worker is not None:
        application.run(file, loaded, Worker.decode(worker))
    elif loaded.settings.server.workers == 1:
        application.run(file, loaded)
    else:
        settings = loaded.settings.logging
        with BackgroundLogStream(sys.stderr) as stream, asyncio.Runner() as runner:
            logs.configure(settings.level, settings.format, stream)
            runner.run(Supervisor(file, loaded.settings).run())


class Supervisor:
    """Runs the workers of one configuration."""

    def __init__(self, file: Path, settings: Settings) -> None:
        """Reserve the address for the workers, until ``run`` ends; nothing runs yet.

        Raises:
            StartFailed: when the address cannot be used.
        """
        self._file = file
        self._server = settings.server
        self._address = ReservedAddress(settings.server.grpc_address)
        self._shared = self._address.shared
        self._port = self._address.port
        self._numbers = range(1, settings.server.workers + 1)
        self._processes: dict[int, WorkerProcess] = {}  # the running ones, by number
        self._served: set[int] = set()  # the numbers of workers that have served
        self._stopping = asyncio.Event()
        self._own = SupervisorMetrics()
        self._metrics = MergedMetrics(self._own.registry)
        self._admin = AdminServer(
            address=host_port(settings.server.admin_address),
            metrics=self._metrics,
            missing=self._missing,
            also_missing=self._also_missing,
            refresh=self._refresh,
            failures=FailureLog(lambda _: self._own.record_grpc_on_admin_port()),
        )

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, and then until all workers have finished their requests in flight.

        Raises:
            StartFailed: when the admin address cannot be used, or when a worker ends before it has served.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        slots: list[asyncio.Task[None]] = []
        try:
            await self._admin.start()
            slots = [asyncio.create_task(self._keep_running(number)) for number in self._numbers]
            await asyncio.gather(*slots)
            _logger.info("stopped")
        except StartFailed:
            self._stop()  # workers that already serve finish their requests in flight
            await asyncio.gather(*slots, return_exceptions=True)
            raise
        finally:
            await cancel_all(slots)
            await self._admin.stop()
            self._address.release()
            self._address.unlink()

    def _stop(self) -> None:
        _logger.info("stopping")
        self._stopping.set()
        self._address.release()  # from now on only the workers listen
        for process in self._processes.values():
            process.terminate()

    def _reload(self) -> None:
        for process in self._processes.values():
            process.send_reload()

    # One worker and its replacements.

    async def _keep_running(self, number: int) -> None:
        ends = 0  # in a row, of short-lived workers
        while not self._stopping.is_set():
            started = time.monotonic()
            cause = await self._run_worker(number)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise StartFailed(f"worker {number} ended before it served: {cause}")
            ends = 1 if time.monotonic() - started > _STABLE_AFTER else ends + 1
            delay = _backoff(ends)
            _logger.error("worker ended unexpectedly", extra=fields(number=number, cause=cause, replaced_in_s=delay))
            self._own.record_worker_restart()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_worker(self, number: int) -> str:
        """Start a worker and accompany it until it ends; returns the cause of its end."""
        try:
            process = await start_worker(self._file, number, self._server, self._shared)
        except (OSError, RuntimeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "the system allows no further thread"
            return f"not started: {cause}"  # which may be temporary
        self._processes[number] = process
        if self._stopping.is_set():
            process.terminate()
        watchdog = asyncio.create_task(process.kill_once_it_hangs())
        try:
            async for _ in process.replies():
                self._metrics.update(number, process.metrics)
                if number not in self._served:
                    self._record_served(number)
            return await process.ended()
        finally:
            watchdog.cancel()
            del self._processes[number]
            self._metrics.remove(number)
            await process.kill()

    def _record_served(self, number: int) -> None:
        self._served.add(number)
        if len(self._served) == len(self._numbers):
            application.log_listening(self._server, self._port, self._admin.port, workers=len(self._numbers))

    # For the admin server.

    async def _refresh(self, request: str) -> None:
        serving = [process for process in self._processes.values() if process.serves]
        await asyncio.gather(*(process.request(request) for process in serving))

    def _missing(self) -> list[str]:
        if self._stopping.is_set():
            return ["shutting down"]
        return [
            f"worker {number}{problem}"
            for number in self._numbers
            for problem in _missing_of(self._processes.get(number))
        ]

    def _also_missing(self) -> list[str]:
        return [
            f"worker {number}: {each}" for number, process in self._processes.items() for each in process.also_missing
        ]


def _missing_of(process: WorkerProcess | None) -> list[str]:
    if process is None or not process.serves:
        return [""]
    return [" does not answer"] if process.unresponsive else [f": {each}" for each in process.missing]


def _backoff(ends: int) -> float:
    """Seconds to wait after so many ends in a row: none after the first."""
    return backoff.exponential(ends - 1, initial=_FIRST_BACKOFF, maximum=_MAX_BACKOFF)
