"""The main thread of a program without an event loop: handles signals, and calls functions for other threads."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class MainThread:
    """The thread that enters this context: Python's main thread. Afterwards signals have their usual effect again."""

    def __init__(self, on_signal: Mapping[int, Callable[[], None]]) -> None:
        """``on_signal`` has what is called for each signal, by ``run_while``."""
        self._on_signal = on_signal
        self._received: set[int] = set()  # signals that are not handled yet
        self._usual: dict[int, Any] = {}  # handlers
        self._calls: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()
        self._wake.settimeout(0.0)  # as signal.set_wakeup_fd requires

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in self._on_signal:
            self._usual[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wake.close()

    def run_while(self, condition: Callable[[], bool]) -> None:
        """Handle signals and calls while the condition holds, which they change."""
        while condition():
            self._woken.recv(1024)
            for number in tuple(self._received):
                self._received.discard(number)
                self._on_signal[number]()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._calls.get_nowait().run()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the main thread; returns its result, or raises its exception. For other threads."""
        call = _Call(function)
        self._calls.put(call)
        self._wake_up()
        return call.result()

    def _receive(self, number: int, _frame: object) -> None:
        # Python wakes the thread for a signal, but may call this only later.
        self._received.add(number)
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake: so many octets are waiting
            self._wake.send(b"\0")


class _Call(Generic[T]):
    """A call of a function in another thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._done = threading.Event()
        self._outcome: list[T] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._outcome.append(self._function())
        except Exception as error:  # noqa: BLE001 - raised again by result()
            self._error = error
        self._done.set()

    def result(self) -> T:
        """Wait for the call, and return or raise as the function did."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._outcome[0]
