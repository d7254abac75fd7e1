"""The supervisor's end of the channel to a worker, and the worker's process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.runtime import worker_process
from authz_service.runtime.worker_process import WorkerProcess, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

HUNG_AFTER = worker_process._MAX_TIMEOUTS
NOTHING_MISSING: dict[str, Any] = {"missing": [], "also_missing": []}


class FakeProcess:
    """A worker's process that ends when it is killed."""

    def __init__(self) -> None:
        self.returncode: int | None = None

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a worker", timeout)
        return self.returncode


class Channel:
    """A worker's process and the worker's end of its channel."""

    def __init__(self) -> None:
        own_end, self.worker_end = socket.socketpair()
        self.fake = FakeProcess()
        self.changed = threading.Condition()
        self.process = WorkerProcess(self.fake, own_end, self.changed)  # type: ignore[arg-type] # all that it uses
        self.worker_end.settimeout(0)

    def requests(self) -> bytes:
        """What was requested since the last call."""
        try:
            return self.worker_end.recv(1 << 16)
        except BlockingIOError:
            return b""

    def receive(self, reply: dict[str, Any]) -> None:
        """Receive a reply, and process it."""
        self.process._end(self.process._store(reply))

    def end(self, *replies: bytes) -> list[bool]:
        """End the worker after these replies; returns whether it served after each."""
        for each in replies:
            self.worker_end.sendall(each)
        self.worker_end.close()
        return [self.process.serves for _ in self.process.replies()]


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.worker_end.close()
    channel.process._channel.close()


def line(reply: object) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def test_a_reply_that_is_cut_off_by_the_workers_end_is_ignored(channel: Channel) -> None:
    served = channel.end(line({"missing": ["keys"], "also_missing": ["more"]}), b'{"metrics": [["authz_ch')
    process = channel.process
    assert (served, process.missing, process.also_missing, process.serves) == ([True], ["keys"], ["more"], False)


def test_replies_arrive_one_by_one_however_they_are_split(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_MAX_READ", 3)
    channel.process.request("metrics")
    assert channel.end(line(NOTHING_MISSING), line({"metrics": []})) == [True, True]


def test_a_worker_that_sends_without_end_is_not_received_without_end(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_MAX_REPLY_BYTES", 1000)
    channel.worker_end.send(b"x" * 2000)
    assert list(channel.process.replies()) == []  # although the channel is open


def test_a_request_is_done_once_its_reply_has_been_processed(channel: Channel) -> None:
    metrics = channel.process.request("metrics")
    channel.worker_end.sendall(line({"metrics": []}))
    replies = channel.process.replies()
    next(replies)  # it arrived, and the merged metrics do not contain it yet
    assert not metrics.is_done
    channel.worker_end.close()
    assert list(replies) == []
    assert metrics.is_done


def test_a_request_is_sent_once_until_its_reply_arrives(channel: Channel) -> None:
    replies = [channel.process.request(each) for each in ("metrics", "missing", "metrics")]
    assert channel.requests() == b"missing\nmetrics\n"
    assert replies[0] is replies[2]
    channel.receive(NOTHING_MISSING)
    assert [reply.is_done for reply in replies] == [False, True, False]
    channel.process.request("missing")
    assert channel.requests() == b"missing\n"


def test_a_worker_that_does_not_reply_in_time_is_unresponsive_until_it_does(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_REPLY_TIMEOUT", 0.001)
    wait_for([channel.process.request("missing")], channel.changed, lambda: False)
    assert channel.process.unresponsive
    reply = channel.process.request("missing")
    channel.receive(NOTHING_MISSING)
    wait_for([reply], channel.changed, lambda: False)
    assert not channel.process.unresponsive


def test_a_wait_that_is_abandoned_proves_nothing_about_the_worker(channel: Channel) -> None:
    wait_for([channel.process.request("missing")], channel.changed, lambda: True)
    assert not channel.process.unresponsive


def test_nothing_waits_for_a_worker_that_has_ended(channel: Channel) -> None:
    reply = channel.process.request("metrics")
    channel.end()
    assert reply.is_done
    assert channel.process.request("metrics").is_done  # of a caller that looked before


def test_a_serving_worker_that_no_longer_replies_is_killed(channel: Channel) -> None:
    process = channel.process
    for _ in range(100):  # while it fetches its first keys
        process._kill_if_hung()
    assert channel.fake.returncode is None
    channel.receive(NOTHING_MISSING)
    channel.requests()
    for _ in range(HUNG_AFTER):  # the first of them requests
        process._kill_if_hung()
    assert (channel.requests(), channel.fake.returncode) == (b"missing\n", None)
    process._kill_if_hung()
    assert process.ended() == "it no longer replied"


def test_a_slow_worker_is_not_killed(channel: Channel) -> None:
    channel.receive(NOTHING_MISSING)
    for _ in range(100):
        for _kill_if_hung in range(HUNG_AFTER):  # longer than the time limit for a reply
            channel.process._kill_if_hung()
        channel.receive(NOTHING_MISSING)
    assert channel.fake.returncode is None


def test_sending_to_a_worker_that_reads_nothing_does_not_wait(channel: Channel) -> None:
    for _ in range(10_000):
        channel.process.send_reload()
    channel.process.request("metrics")


def test_waiting_for_a_worker_that_closed_its_channel_is_limited(channel: Channel) -> None:
    assert channel.process.ended() == "it closed its channel and did not exit"


def test_the_cause_of_a_workers_end_is_its_exit_status(channel: Channel) -> None:
    channel.fake.kill()
    assert channel.process.ended() == "status -9"
