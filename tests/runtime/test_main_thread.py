"""The main thread of a program without an event loop: handles signals, and calls functions for other threads."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from authz_service.runtime.main_thread import MainThread

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_call_by_another_thread_takes_place_in_this_one_and_has_its_outcome() -> None:
    results: list[object] = []

    def call(main_thread: MainThread) -> None:
        results.append(main_thread.call(threading.get_ident))
        with pytest.raises(ZeroDivisionError):
            main_thread.call(lambda: 1 // 0)
        main_thread.call(lambda: results.append("end"))

    with MainThread({}) as main_thread:
        caller = threading.Thread(target=call, args=(main_thread,))
        caller.start()
        main_thread.run_while(lambda: "end" not in results)
        caller.join()
    assert results == [threading.get_ident(), "end"]


def test_no_signal_is_lost_however_many_came_before_it() -> None:
    handled: list[str] = []
    on_signal: dict[int, Callable[[], None]] = {
        signal.SIGHUP: lambda: handled.append("SIGHUP"),
        signal.SIGTERM: lambda: handled.append("SIGTERM"),
    }
    with MainThread(on_signal) as main_thread:
        os.kill(os.getpid(), signal.SIGHUP)
        with contextlib.suppress(BlockingIOError):
            while True:
                main_thread._wake.send(bytes([signal.SIGHUP]))  # as Python does for each signal
        os.kill(os.getpid(), signal.SIGTERM)
        caller = threading.Thread(target=main_thread.call, args=(lambda: handled.append("end"),))
        caller.start()
        main_thread.run_while(lambda: "end" not in handled)
        caller.join()
    assert {"SIGHUP", "SIGTERM"} <= set(handled)
