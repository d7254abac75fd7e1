"""The decision log in a file that others rotate, or at a unix socket: complete lines, and no writer waits."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.config.model import Logging
from authz_service.core.attributes import Attributes
from authz_service.core.correlation import NO_CORRELATION
from authz_service.core.decision import Deny
from authz_service.core.reasons import Reason
from authz_service.telemetry import logs
from authz_service.telemetry.background_log_stream import PartlyWritten
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.decision_output import DecisionOutput, ReaderSocket, RotatedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 30.0  # seconds; only a test that hangs takes this long


# The file.


def test_lines_are_appended_and_a_new_file_is_readable_by_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "decisions.log"
    before = os.umask(0)
    try:
        RotatedFile(path).write("one\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    again = RotatedFile(path)
    again.write("two\n")
    again.write("three\n")
    assert path.read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("create", [True, False], ids=["create", "nocreate"])
def test_after_a_rotation_lines_go_to_the_new_file(tmp_path: Path, create: bool) -> None:  # noqa: FBT001
    path, rotated = tmp_path / "decisions.log", tmp_path / "decisions.log.1"
    file = RotatedFile(path)
    file.write("one\n")
    path.rename(rotated)
    if create:
        path.touch(mode=0o600)
    file.write("two\n")
    assert (rotated.read_text(), path.read_text()) == ("one\n", "two\n")


def test_after_copytruncate_lines_start_at_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "decisions.log"
    file = RotatedFile(path)
    file.write("one\n")
    os.truncate(path, 0)
    file.write("two\n")
    assert path.read_bytes() == b"two\n"


def test_a_fifo_without_a_reader_loses_lines_and_blocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.fifo"
    os.mkfifo(path)
    file = RotatedFile(path)
    with pytest.raises(OSError, match="No such device or address"):
        file.write("one\n")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file.write("two\n")
    assert os.read(reader, 100) == b"two\n"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        file.write("three\n")


def test_several_writers_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "decisions.log"
    lines = {letter * 5000 for letter in "abcd"}

    def write(line: str) -> None:
        file = RotatedFile(path)
        for _ in range(200):
            file.write(f"{line}\n")

    threads = [threading.Thread(target=write, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = path.read_text().splitlines()
    assert (len(written), set(written)) == (800, lines)


def test_a_full_disk_is_an_error_and_a_line_cut_short_is_ended_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="No space"):
        RotatedFile(Path("/dev/full")).write("line\n")
    file, write = RotatedFile(tmp_path / "decisions.log"), os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        with pytest.raises(OSError, match="No space"):
            file.write("first\n")
    file.write("second\n")
    assert (tmp_path / "decisions.log").read_text() == "fir\nsecond\n"


def test_several_lines_are_one_write_and_those_that_a_full_disk_took_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = RotatedFile(tmp_path / "decisions.log"), os.write
    file.write("one\ntwo\n")
    for taken, complete in ((0, 0), (3, 0), (6, 0), (12, 2), (0, 0), (1, 0), (0, 0), (1, 0), (7, 1)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", lambda descriptor, data, taken=taken: write(descriptor, data[:taken]))
            with pytest.raises(PartlyWritten, match="No space") as raised:
                file.write("alpha\nbeta\ngamma\n")
        assert raised.value.lines == complete
    file.write("end\n")
    assert (tmp_path / "decisions.log").read_text().split("\n") == [
        *("one", "two", "alp", "alpha", "alpha", "beta", "a", "alpha", "b", "end", "")
    ]


# The socket.


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "sock"


def listening(kind: socket.SocketKind, place: Path) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX, kind)
    reader.settimeout(TIMEOUT)
    reader.bind(str(place))
    if kind == socket.SOCK_STREAM:
        reader.listen()
    return reader


def test_each_line_is_a_datagram(place: Path) -> None:
    with listening(socket.SOCK_DGRAM, place) as reader:
        sender = ReaderSocket(place)
        sender.write("one\n")
        sender.write("x" * 25_000 + "\n")
        assert reader.recv(1 << 16) == b"one\n"
        assert len(reader.recv(1 << 16)) == 25_001
        sender.close()


def test_each_of_several_lines_is_a_datagram_and_those_that_arrived_are_counted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_service.telemetry.decision_output._SEND_TIMEOUT", 0.01)
    with listening(socket.SOCK_DGRAM, place) as reader:
        sender = ReaderSocket(place)
        sender.write("one\ntwo\n")
        assert [reader.recv(100) for _ in range(2)] == [b"one\n", b"two\n"]
        with pytest.raises(PartlyWritten) as raised:
            sender.write("line\n" * 10_000)  # more than the socket holds
        for _ in range(raised.value.lines):
            assert reader.recv(100) == b"line\n"
        reader.setblocking(False)  # noqa: FBT003 - the socket's interface
        with pytest.raises(BlockingIOError):
            reader.recv(100)


def test_a_reader_that_accepts_connections_gets_a_stream(place: Path) -> None:
    with listening(socket.SOCK_STREAM, place) as reader:
        sender = ReaderSocket(place)
        sender.write("one\n")
        sender.write("two\n")
        sender.close()
        with reader.accept()[0] as connection:
            assert connection.makefile().read() == "one\ntwo\n"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_reader_may_come_and_go(place: Path, kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz_service.telemetry.decision_output._RECONNECT_INTERVAL", 0.0)
    sender = ReaderSocket(place)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - there is none
            sender.write("lost\n")
        with listening(kind, place) as reader:
            sender.write("arrived\n")
            end = reader.accept()[0] if kind == socket.SOCK_STREAM else reader
            assert end.recv(100) == b"arrived\n"
            end.close()
        place.unlink()
    sender.close()


def test_a_missing_reader_is_not_tried_for_each_line(place: Path) -> None:
    sender = ReaderSocket(place)
    with pytest.raises(FileNotFoundError):
        sender.write("lost\n")
    for _ in range(100):
        with pytest.raises(ConnectionRefusedError):
            sender.write("lost\n")


# Both, as the decision log uses them.


@pytest.fixture
def output() -> Iterator[DecisionOutput]:
    with DecisionOutput() as output:
        yield output
    logs.configure("info", "json", _Discarded())  # of the tests after these, which may log a lot


class _Discarded:
    def write(self, text: str) -> None:
        """Write nowhere."""

    def flush(self) -> None:
        """Nothing is buffered."""


class _Kept(_Discarded):
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def configured(output: DecisionOutput, level: str = "info", **settings: Any) -> _Kept:
    """The log other than decisions."""
    kept = _Kept()
    parsed = Logging.read({"level": level} | {name: str(value) for name, value in settings.items()})
    logs.configure(level, "json", kept, None, output.stream_for(parsed))
    return kept


def log(path: str) -> None:
    DecisionLog("all").write(Attributes("GET", "h", path, {}), Deny(Reason.NO_RULE), "id", NO_CORRELATION, 0.001)


def wait_for(condition: Any) -> None:
    for _ in range(int(TIMEOUT / 0.01)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


def test_decisions_go_to_the_file_alone_and_at_every_level(output: DecisionOutput, tmp_path: Path) -> None:
    path = tmp_path / "decisions.log"
    other = configured(output, level="error", decisions_file=path)
    log("decision")
    logging.getLogger("authz.app").error("other")
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    assert '"event": "decision"' in path.read_text()
    assert ("decision" in other.text, "other" in other.text) == (False, True)


def test_a_changed_place_is_used_at_once_and_the_old_one_gets_what_was_for_it(
    output: DecisionOutput, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    configured(output, decisions_file=one)
    first = output.stream_for(Logging.read({"decisions_file": str(one)}))
    log("first")
    configured(output, decisions_file=two)
    assert output.stream_for(Logging.read({"decisions_file": str(two)})) is not first
    log("second")
    wait_for(lambda: two.exists() and '"second"' in two.read_text())
    wait_for(lambda: '"first"' in one.read_text())
    assert "second" not in one.read_text()
    other = configured(output)
    log("third")
    assert "third" in other.text


def test_a_destination_for_which_there_is_no_thread_leaves_the_previous_one_in_use(
    output: DecisionOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    one = tmp_path / "one.log"
    configured(output, decisions_file=one)
    with monkeypatch.context() as changed:
        changed.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            configured(output, decisions_file=tmp_path / "two.log")
    log("after")
    wait_for(lambda: one.exists() and '"after"' in one.read_text())


def test_a_full_disk_loses_lines_that_are_counted_and_reported_once(output: DecisionOutput) -> None:
    lost: list[int] = []
    output.count_with(lost.append)
    other = configured(output, decisions_file="/dev/full")
    for _ in range(20):
        log("decision")
    wait_for(lambda: sum(lost) == 20)
    assert other.text.count("lines of the decision log were lost") == 1
    assert "No space left on device" in other.text


def test_a_disk_that_stalls_delays_nobody(output: DecisionOutput, tmp_path: Path) -> None:
    """A pipe without a reader blocks its writer as a disk can."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    lost: list[int] = []
    output.count_with(lost.append)
    configured(output, decisions_file=path)
    for _ in range(11_000):  # returns, although nothing is read: more than the pipe and the backlog hold
        log("x" * 500)
    read = bytearray()

    def drained() -> bool:
        try:
            while data := os.read(end, 1 << 16):
                read.extend(data)
        except BlockingIOError:
            pass
        return read.count(b"\n") + sum(lost) == 11_000

    wait_for(drained)
    assert sum(lost) > 0
    os.close(end)


def test_a_reader_that_stalls_delays_nobody(output: DecisionOutput, place: Path) -> None:
    lost: list[int] = []
    output.count_with(lost.append)
    with listening(socket.SOCK_DGRAM, place) as reader:
        configured(output, decisions_socket=place)
        for _ in range(11_000):
            log("decision")
        reader.settimeout(0.01)
        received = 0

        def drained() -> bool:
            nonlocal received
            try:
                while reader.recv(1 << 16):
                    received += 1
            except TimeoutError:
                pass
            return received + sum(lost) == 11_000

        wait_for(drained)
        assert sum(lost) > 0
