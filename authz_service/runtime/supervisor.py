"""Runs several worker processes that serve as one: ``server.workers``. It is a program of its own.

The supervisor decides nothing and answers no proxy. It reserves the address for its workers, starts each worker as the
program itself, replaces a worker that ends or hangs, reports all of them at the one admin address, and ends when they
have ended. A worker is a whole sidecar without the admin address: it fetches keys, reloads and drains independently,
and shares only the address. With one worker there is no supervisor.

It imports neither asyncio, which with ssl would double its memory, nor what reads configurations or decides requests.
One thread watches each worker; the main thread starts the workers, so that they are its children, and handles signals.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from authz_service.admin.threaded_server import ThreadedAdminServer
from authz_service.core import backoff
from authz_service.core.errors import StartFailed
from authz_service.exit_status import status_of
from authz_service.runtime.handover import Supervision
from authz_service.runtime.listening import log_listening
from authz_service.runtime.main_thread import MainThread
from authz_service.runtime.worker_process import start_worker, wait_for
from authz_service.telemetry import logs
from authz_service.telemetry.background_log_stream import BackgroundLogStream
from authz_service.telemetry.connection_log import FailureLog
from authz_service.telemetry.logs import fields
from authz_service.telemetry.merged_metrics import MergedMetrics
from authz_service.telemetry.supervisor_metrics import SupervisorMetrics
from authz_service.transport.addresses import ReservedAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.core.connection_failure import ConnectionFailure
    from authz_service.runtime.worker_process import WorkerProcess

_STABLE_AFTER = 60.0  # seconds: the end of a worker that lived so long does not count as a repeated one
_FIRST_BACKOFF = 1.0  # seconds before a worker is replaced that ended twice in a row; doubled with each further end
_MAX_BACKOFF = 30.0  # seconds

_M_ARENA_MAX = -8  # of mallopt, in glibc's malloc.h

_logger = logging.getLogger("authz.workers")


def main(argument: str) -> int:
    """Run the program with an encoded ``Supervision``; returns the exit status."""
    supervision = Supervision.decode(argument)

    def run() -> int:
        _share_one_arena()
        with BackgroundLogStream(sys.stderr) as stream:
            logs.configure(supervision.log_level, supervision.log_format, stream)
            Supervisor(supervision).run()
        return 0

    return status_of(run)


def _share_one_arena() -> None:
    """Let all threads allocate from one arena: glibc gives each its own, which keeps what the thread ever used."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # not every C library has it
        libc.mallopt(_M_ARENA_MAX, 1)


class Supervisor:
    """Runs the workers of one configuration."""

    def __init__(self, supervision: Supervision) -> None:
        """Reserve the address for the workers, until ``run`` ends; nothing runs yet.

        Raises:
            StartFailed: when the address cannot be used.
        """
        self._supervision = supervision
        self._address = ReservedAddress(supervision.grpc_address)
        self._shared = self._address.shared
        self._port = self._address.port
        self._numbers = range(1, supervision.workers + 1)
        self._changed = threading.Condition()  # of what is guarded by it: a reply, an end, a request that was abandoned
        self._processes: dict[int, WorkerProcess] = {}  # the running ones, by number
        self._served: set[int] = set()  # the numbers of workers that have served
        self._slots: set[int] = set()  # the numbers of workers that run or will be replaced
        self._failure: Exception | None = None  # the first one that ended a slot
        self._stopping = threading.Event()
        self._own = SupervisorMetrics()
        self._metrics = MergedMetrics(self._own.registry)
        self._admin = ThreadedAdminServer(
            address=supervision.admin_address,
            metrics=self._metrics,
            missing=self._missing,
            also_missing=self._also_missing,
            refresh=self._refresh,
            failures=FailureLog(self._record_grpc_on_admin_port),
            changed=self._changed,
        )

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, and then until all workers have finished their requests in flight.

        Raises:
            StartFailed: when the admin address cannot be used, or when a worker ends before it has served.
        """
        on_signal: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
        }
        with MainThread(on_signal) as main_thread:
            try:
                self._admin.start()
                for number in self._numbers:
                    self._slots.add(number)
                    slot = threading.Thread(target=self._fill, args=(number, main_thread), name="worker", daemon=True)
                    slot.start()
                main_thread.run_while(lambda: bool(self._slots))
            except RuntimeError:
                raise StartFailed("the system allows no further thread") from None
            finally:
                self._admin.stop()
                self._address.release()
                self._address.unlink()
        if self._failure is not None:
            raise self._failure
        _logger.info("stopped")

    # In the main thread.

    def _stop(self) -> None:
        if self._stopping.is_set():
            return
        _logger.info("stopping")
        self._stopping.set()
        self._address.release()  # from now on only the workers listen
        for process in self._processes.values():
            process.terminate()

    def _reload(self) -> None:
        for process in self._processes.values():
            process.send_reload()

    def _start_worker(self, number: int) -> WorkerProcess:
        supervision = self._supervision
        process = start_worker(supervision.file, number, supervision.server, self._shared, self._changed)
        self._processes[number] = process
        if self._stopping.is_set():
            process.terminate()
        return process

    def _remove_worker(self, number: int) -> None:
        with self._changed:
            del self._processes[number]
            self._metrics.remove(number)

    def _end_slot(self, number: int, failure: Exception | None) -> None:
        self._slots.discard(number)
        if failure is not None:
            self._failure = self._failure or failure
            self._stop()  # workers that already serve finish their requests in flight

    # One worker and its replacements, in a thread of their own.

    def _fill(self, number: int, main_thread: MainThread) -> None:
        failure = None
        try:
            self._keep_running(number, main_thread)
        except Exception as error:  # noqa: BLE001 - raised again by run()
            failure = error
        main_thread.call(lambda: self._end_slot(number, failure))

    def _keep_running(self, number: int, main_thread: MainThread) -> None:
        ends = 0  # in a row, of short-lived workers
        while not self._stopping.is_set():
            started = time.monotonic()
            cause = self._run_worker(number, main_thread)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise StartFailed(f"worker {number} ended before it served: {cause}")
            ends = 1 if time.monotonic() - started > _STABLE_AFTER else ends + 1
            delay = _backoff(ends)
            _logger.error("worker ended unexpectedly", extra=fields(number=number, cause=cause, replaced_in_s=delay))
            with self._changed:
                self._own.record_worker_restart()
            self._stopping.wait(delay)

    def _run_worker(self, number: int, main_thread: MainThread) -> str:
        """Start a worker and watch it until it ends; returns the cause of its end."""
        try:
            process = main_thread.call(lambda: self._start_worker(number))
        except OSError as error:
            return f"not started: {error.strerror}"  # which may be temporary
        try:
            for _ in process.replies():
                self._update(number, process)
            return process.ended()
        finally:
            process.kill()
            main_thread.call(lambda: self._remove_worker(number))

    def _update(self, number: int, process: WorkerProcess) -> None:
        with self._changed:
            self._metrics.update(number, process.metrics)
            if number in self._served:
                return
            self._served.add(number)
            if len(self._served) < len(self._numbers):
                return
        server = self._supervision.server
        log_listening(
            server["grpc_address"], self._port, server["admin_address"], self._admin.port, workers=len(self._numbers)
        )

    # For the admin server, in its threads.

    def _record_grpc_on_admin_port(self, _failure: ConnectionFailure) -> None:
        with self._changed:
            self._own.record_grpc_on_admin_port()

    def _refresh(self, request: str, abandoned: Callable[[], bool]) -> None:
        replies = [process.request(request) for process in list(self._processes.values()) if process.serves]
        wait_for(replies, self._changed, abandoned)

    def _missing(self) -> list[str]:
        if self._stopping.is_set():
            return ["shutting down"]
        return [
            f"worker {number}{problem}"
            for number in self._numbers
            for problem in _missing_of(self._processes.get(number))
        ]

    def _also_missing(self) -> list[str]:
        running = list(self._processes.items())
        return [f"worker {number}: {each}" for number, process in running for each in process.also_missing]


def _missing_of(process: WorkerProcess | None) -> list[str]:
    if process is None or not process.serves:
        return [""]
    return [" does not answer"] if process.unresponsive else [f": {each}" for each in process.missing]


def _backoff(ends: int) -> float:
    """Seconds to wait after so many ends in a row: none after the first."""
    return backoff.exponential(ends - 1, initial=_FIRST_BACKOFF, maximum=_MAX_BACKOFF)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
