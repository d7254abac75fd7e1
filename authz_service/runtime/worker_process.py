"""The supervisor's end of the channel to a worker, and the worker's process.

``worker_channel`` is the other end, and describes the requests.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from authz_service.runtime.handover import Worker, command_of
from authz_service.telemetry import merged_metrics

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from authz_service.telemetry.instruments import Samples
    from authz_service.transport.addresses import SharedAddress

_REPLY_TIMEOUT = 5.0  # seconds; after that the previous reply is used
_MAX_REPLY_BYTES = 1 << 30  # of all that was received and not decoded yet; a worker that sends more is killed
_MAX_TIMEOUTS = 6  # in a row: then the worker hangs
_MAX_READ = 1 << 16  # bytes


def start_worker(
    file: str, number: int, server: dict[str, Any], shared: SharedAddress, changed: threading.Condition
) -> WorkerProcess:
    """Start a worker as a process.

    Raises:
        OSError: when the system allows no further process or descriptor.
    """
    own_end, worker_end = socket.socketpair()
    with worker_end:
        worker = Worker(number, worker_end.fileno(), server, shared)
        command = command_of("authz_service", "serve", "--config", file, "--worker", worker.encode())
        inherited = [worker.channel, *([] if shared.descriptor is None else [shared.descriptor])]
        try:
            process = subprocess.Popen(command, pass_fds=inherited)  # noqa: S603 - our own program
        except BaseException:
            own_end.close()
            raise
    return WorkerProcess(process, own_end, changed)


class WorkerProcess:
    """A worker's process, with its latest replies.

    One thread calls ``replies`` and then ``ended``; any thread may call the other methods.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, changed: threading.Condition) -> None:
        """``changed`` is notified of each reply, and of the end of the channel."""
        self.metrics: list[Samples] = []
        self.missing: list[str] = []
        self.also_missing: list[str] = []
        self.serves = False  # set by the first reply: a worker replies only once it serves
        self.unresponsive = False  # the latest request timed out
        self._replies_no_more = False
        self._hung = False  # it was killed after too many timeouts
        self._timeouts = 0  # in a row
        self._process = process
        self._channel = channel
        self._channel.settimeout(0.0)
        self._changed = changed
        self._pending: dict[str, Reply] = {}  # by request
        self.request("missing")

    def send_reload(self) -> None:
        """Make the worker reload its configuration, as soon as it serves."""
        with self._changed:
            self._send("reload")

    def request(self, request: str) -> Reply:
        """The next reply to ``metrics`` or ``missing``."""
        with self._changed:
            if self._replies_no_more:  # since the caller looked
                return Reply(self, is_done=True)
            if request not in self._pending:
                self._pending[request] = Reply(self)
                self._send(request)
            return self._pending[request]

    def _send(self, request: str) -> None:
        # It cannot be sent to a worker that has ended, or that has not read for so long that it will be killed.
        with contextlib.suppress(OSError):
            self._channel.send(f"{request}\n".encode())

    def replies(self) -> Iterator[None]:
        """Receive replies until the channel closes. A worker that serves and no longer replies is killed.

        A request is done once the caller has processed its reply: a caller that waited for it then finds it everywhere.
        """
        received = bytearray()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        next_check = time.monotonic() + _REPLY_TIMEOUT
        while len(received) < _MAX_REPLY_BYTES:
            wait = next_check - time.monotonic()
            if wait <= 0:
                self._kill_if_hung()
                next_check = time.monotonic() + _REPLY_TIMEOUT
            elif poll.poll(wait * 1000):
                if not (data := self._read()):
                    break  # the worker may have ended in the middle of a reply
                received += data
                if b"\n" in data:
                    *lines, received = received.split(b"\n")
                    for line in lines:
                        request = self._store(json.loads(line))
                        yield
                        self._end(request)
        with self._changed:
            self.serves, self._replies_no_more = False, True
            self._end(*self._pending)

    def _read(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return self._channel.recv(_MAX_READ)
        return b""

    def _kill_if_hung(self) -> None:
        """Kill the worker if it serves and no longer replies. Called once in each time limit for a reply.

        It would keep its connections, and the calls on them would never end. Several timeouts in a row rather than one
        long one: after the whole container was frozen, only one of them is over at once.
        """
        timed_out = "missing" in self._pending and self.serves
        self._timeouts = self._timeouts + 1 if timed_out else 0
        if self._timeouts >= _MAX_TIMEOUTS:
            self._hung = True
            self._process.kill()
        else:
            self.request("missing")

    def _store(self, reply: dict[str, Any]) -> str:
        """Store a reply; returns its request."""
        metrics = reply.get("metrics")
        decoded = None if metrics is None else merged_metrics.decode(metrics)
        with self._changed:
            self.serves = True
            if (missing := reply.get("missing")) is not None:
                self.missing = missing
                self.also_missing = reply["also_missing"]
            if decoded is not None:
                self.metrics = decoded
        return "metrics" if "metrics" in reply else "missing"

    def _end(self, *requests: str) -> None:
        with self._changed:
            for request in requests:
                self._pending.pop(request).is_done = True
            self._changed.notify_all()

    def terminate(self) -> None:
        """Make the worker drain and end."""
        self._process.terminate()

    def ended(self) -> str:
        """Wait for the end, within a time limit; returns its cause."""
        try:
            status = self._process.wait(_MAX_TIMEOUTS * _REPLY_TIMEOUT)
        except subprocess.TimeoutExpired:
            return "it closed its channel and did not exit"
        return "it no longer replied" if self._hung else f"status {status}"

    def kill(self) -> None:
        """Kill the worker unless it has ended."""
        with self._changed:  # no thread sends to a descriptor that is closed, and perhaps another's
            self._channel.close()
        self._process.kill()
        self._process.wait()


class Reply:
    """The reply to a request, for which several threads may wait."""

    def __init__(self, process: WorkerProcess, *, is_done: bool = False) -> None:
        self.process = process
        self.is_done = is_done  # it arrived, or never will


def wait_for(replies: Iterable[Reply], changed: threading.Condition, abandoned: Callable[[], bool]) -> None:
    """Wait until these replies have arrived, within a time limit, or until the wait is abandoned."""
    with changed:
        changed.wait_for(lambda: abandoned() or all(reply.is_done for reply in replies), _REPLY_TIMEOUT)
        if not abandoned():
            for reply in replies:
                reply.process.unresponsive = not reply.is_done
