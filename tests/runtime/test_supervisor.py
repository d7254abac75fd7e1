"""The supervisor starts, replaces and stops its workers."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.errors import StartFailed
from authz_service.runtime import supervisor as module
from authz_service.runtime.handover import Supervision
from authz_service.runtime.supervisor import Supervisor, _backoff
from support.sidecar_process import HANG_TIMEOUT
from support.uncovered import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable

REAL_START = subprocess.Popen


def test_a_worker_is_replaced_at_once_and_with_a_growing_delay_if_it_ends_again() -> None:
    assert [_backoff(ends) for ends in range(1, 9)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert _backoff(10_000) == 30


def fail(*_: object, **__: object) -> Any:
    raise BlockingIOError(errno.EAGAIN, "nothing left")


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor that cannot start a process and tries again without delay."""
    monkeypatch.setattr(subprocess, "Popen", fail)
    monkeypatch.setattr(module, "_backoff", lambda _: 0.001)
    server = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0", "workers": 2}
    return Supervisor(Supervision("/none.yaml", 2, "127.0.0.1:0", ("127.0.0.1", 0), "info", "json", server))


def eventually(condition: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Do something once a condition is met, beside the test."""

    def wait() -> None:
        until = time.monotonic() + HANG_TIMEOUT
        while not condition() and time.monotonic() < until:
            time.sleep(0.001)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_worker_that_cannot_be_started_is_an_error_at_startup(supervisor: Supervisor) -> None:
    with pytest.raises(StartFailed, match="before it served: not started: nothing left"):
        supervisor.run()


def test_starting_a_replacement_is_retried(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    supervisor._served.update((1, 2))
    terminating = eventually(lambda: len(caplog.records) >= 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    supervisor.run()
    terminating.join()
    assert {record.message for record in caplog.records if record.levelname == "ERROR"} == {"worker ended unexpectedly"}


@pytest.mark.parametrize("delay", [0, 0.001, 0.01])
def test_a_failed_start_terminates_the_other_workers_at_any_stage(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    calls = itertools.count()
    started: list[subprocess.Popen[bytes]] = []

    def first_only(*_: object, pass_fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
        if next(calls):
            time.sleep(delay)
            fail()
        started.append(REAL_START(["sleep", "5"], pass_fds=pass_fds))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", first_only)
    with pytest.raises(StartFailed):
        supervisor.run()
    assert all(each.returncode == -signal.SIGTERM for each in started)  # which makes a serving worker drain


def test_a_system_without_threads_fails_the_start(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("a message of Python")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StartFailed, match="the system allows no further thread"):
        supervisor.run()


def test_signals_have_their_usual_effect_again_after_a_run(supervisor: Supervisor) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with pytest.raises(StartFailed):
        supervisor.run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


# Its memory: it decides nothing, so it loads next to nothing.

HEAVY = {  # each takes megabytes, or is not its work
    *("asyncio", "ssl", "cryptography", "jwt", "yaml", "google", "grpc", "pydantic", "prometheus_client", "uvloop"),
    *("argparse", "concurrent", "email", "http.client", "http.server", "multiprocessing", "urllib.request"),
}
NOT_ITS_WORK = {"authorizer", "cli", "config", "http1", "keys", "providers", "rules", "tokens"}


def test_it_loads_no_part_that_decides_and_no_large_library() -> None:
    code = "import sys, authz_service.runtime.supervisor; print(*sys.modules)"
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())
    parents = {".".join(name.split(".")[: n + 1]) for name in loaded for n in range(name.count(".") + 1)}
    assert not parents & (HEAVY | {f"authz_service.{name}" for name in NOT_ITS_WORK})
