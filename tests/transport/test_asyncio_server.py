"""What the server on asyncio does for and with its sockets, beyond what both servers do.

Seconds are told by hand: the server's own do not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.core.errors import StartFailed
from authz_service.transport import asyncio_protocol, asyncio_server, peers
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.codec import encode_response
from authz_service.transport.grpc_methods import SERVICE
from authz_service.transport.http2 import frames
from authz_service.transport.http2.connection import CloseReason
from authz_service.transport.http2.frames import MAX_WINDOW
from authz_service.transport.http2.timeouts import DRAIN_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_TIMEOUT, PREFACE_TIMEOUT
from transport.http2.client import GRPC, ClientHalf, data, framed
from transport.pki import TlsFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from authz_service.core.decision import Deny

HANG_GUARD = 30.0  # seconds: no test waits for it
UNAVAILABLE = "14"
ANSWER = b"a" * 2000  # as long as answers are
CALLS = 8_000  # whose answers are more than all buffers between two sockets take
STREAMS = range(1, 2 * CALLS, 2)
REQUEST = b"r" * 500
MAX_AT_ONCE = 2 << 20  # octets that answer all that an event loop reads at once, which is 256 KiB


class Checks:
    """What is asked of the server, and for whom it works."""

    def __init__(self) -> None:
        self.asked = 0
        self.working = 0
        self.waiting = False

    def check(self, _data: bytes, _time_remaining: float | None) -> Any:
        self.asked += 1
        return self._for_ever() if self.waiting else ANSWER

    def are_working(self, count: int) -> bool:
        return self.working == count

    async def _for_ever(self) -> bytes:
        self.working += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working -= 1
        raise AssertionError("it waits for ever")


def refuse(denial: Deny) -> bytes:
    """The answer to a call that is not handed over."""
    return encode_response(denial, "-")


class Caller(ClientHalf):
    """A client on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer

    def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def check(self, *, method: str = f"/{SERVICE}/Check", message: bytes = b"m") -> bytes:
        stream = self.next_stream
        head = ((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "authz"))
        return self.headers(stream, self.block(head=head, plain=GRPC)) + data(stream, framed(message))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Read until it does."""
        async with asyncio.timeout(HANG_GUARD):
            while not holds():
                heard = await self.reader.read(1 << 16)
                assert heard, "the server has closed the connection"
                self.receive(heard)

    async def answered(self, asking: bytes) -> None:
        """Ask, and wait for the answer."""
        stream = self.next_stream - 2
        self.say(asking)
        await self.until(lambda: stream in self.responses and self.responses[stream].ended)

    def pings(self) -> list[bytes]:
        """Those that want an answer."""
        return [payload for kind, flags, _, payload in self.frames if kind == frames.PING and not flags & frames.ACK]

    async def until_closed(self) -> None:
        """Read until the server says no more, and close."""
        async with asyncio.timeout(HANG_GUARD):
            with contextlib.suppress(ConnectionError):
                while heard := await self.reader.read(1 << 16):
                    self.receive(heard)
        self.writer.close()


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest_asyncio.fixture
async def server(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncioServer]:
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 3600.0)
    server = AsyncioServer("127.0.0.1:0", None, checks.check, lambda: 1 << 20, refuse=refuse)
    await server.start()
    await server.set_serving(serving=True)
    yield server
    await server.stop(0)
    assert not connections(server)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "something goes on after the end"
    assert checks.working == 0


def connections(server: AsyncioServer) -> list[Any]:
    return list(server._peers)


def seconds(server: AsyncioServer, count: int) -> None:
    """Let so many pass."""
    for _ in range(count):
        for peer in connections(server):
            peer.tick()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not holds():  # noqa: ASYNC110 - the server changes it
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def caller(server: AsyncioServer, connected: socket.socket | None = None) -> AsyncIterator[Caller]:
    connected = connected or socket.create_connection(("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=connected)
    try:
        caller = Caller(reader, writer)
        caller.say(frames.PREFACE, frames.settings({}))
        yield caller
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def pouring(server: AsyncioServer, calls: int) -> AsyncIterator[Caller]:
    """A client that asks all of this at once, lets itself be told everything, and has read nothing yet."""
    async with paused(server) as client:
        client.say(*(client.check(message=REQUEST) for _ in range(calls)))
        await until(lambda: bool(connections(server)) and connections(server)[0]._buffered > 0)
        assert not connections(server)[0]._transport.is_reading()
        yield client


# Who does not read.


async def test_who_does_not_read_is_not_read_from_and_little_is_kept_for_it(
    server: AsyncioServer, checks: Checks
) -> None:
    async with pouring(server, CALLS) as slow:
        kept = connections(server)[0]._transport.get_write_buffer_size()
        assert asyncio_protocol.MAX_WRITE_BUFFER < kept < asyncio_protocol.MAX_WRITE_BUFFER + MAX_AT_ONCE
        asked = checks.asked
        assert asked < CALLS
        async with caller(server) as other:  # nobody else notices
            await other.answered(other.check())
        assert checks.asked == asked + 1
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
        await slow.until(lambda: len(slow.responses) > CALLS and all(slow.responses[each].ended for each in STREAMS))
        assert {slow.responses[each].messages[0] for each in STREAMS} == {ANSWER}


async def test_who_never_reads_is_given_up(server: AsyncioServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "authz.transport")
    async with pouring(server, CALLS):
        seconds(server, KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT)
        assert not caplog.records
        seconds(server, 1)
        (told,) = ended(caplog)
        assert (told["reason"], told["cause"]) == ("idle", "the peer does not read")
        assert told["peer"].startswith("127.0.0.1:")
        seconds(server, asyncio_protocol.CLOSE_TIMEOUT + 1)  # our last words are not read either
        await until(lambda: not connections(server))


async def test_who_is_told_that_it_is_wrong_has_time_to_read_it_and_no_more(server: AsyncioServer) -> None:
    async with pouring(server, CALLS) as slow:
        connections(server)[0]._connection.close(CloseReason.FLOOD, "it is wrong")
        seconds(server, asyncio_protocol.CLOSE_TIMEOUT)
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
        await slow.until_closed()
        assert [code for _, code in slow.goaways] == [frames.ErrorCode.ENHANCE_YOUR_CALM]


# Who is not there any more.


async def test_who_says_nothing_is_asked_whether_it_is_there_and_stays_if_it_is(server: AsyncioServer) -> None:
    async with caller(server) as quiet:
        await quiet.answered(quiet.check())
        for _ in range(3):
            seconds(server, KEEPALIVE_IDLE + 1)
            await quiet.until(lambda: bool(quiet.pings()))
            quiet.say(frames.frame(frames.PING, frames.ACK, 0, quiet.pings()[-1]))
            quiet.frames.clear()
            await until(lambda: not connections(server)[0]._connection._timers.ping_pending)
        seconds(server, KEEPALIVE_TIMEOUT)
        await quiet.answered(quiet.check())


async def test_who_does_not_say_that_it_is_there_is_gone(server: AsyncioServer) -> None:
    async with caller(server) as quiet:
        await quiet.answered(quiet.check())
        seconds(server, KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT + 1)
        await quiet.until_closed()
        assert [code for _, code in quiet.goaways] == [frames.ErrorCode.NO_ERROR]
    await until(lambda: not connections(server))


async def test_who_connects_and_does_not_begin_is_gone(server: AsyncioServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: len(connections(server)) == 1)
    seconds(server, PREFACE_TIMEOUT + 1)
    silent = Caller(reader, writer)
    await silent.until_closed()
    assert [code for _, code in silent.goaways] == [frames.ErrorCode.PROTOCOL_ERROR]


async def test_who_asks_much_at_once_is_answered_by_turns_with_others(server: AsyncioServer, checks: Checks) -> None:
    async with caller(server) as eager, caller(server) as other:
        await eager.answered(eager.check())
        await other.answered(other.check())
        eager.say(frames.window_update(0, MAX_WINDOW - 65_535), frames.settings({4: MAX_WINDOW}))
        eager.say(*(eager.check() for _ in range(2000)))
        await other.answered(other.check())
        assert checks.asked < 1500
        last = eager.next_stream - 2
        await eager.until(lambda: last in eager.responses and eager.responses[last].ended)
        assert checks.asked == 2003


# Too many.


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many connections are served."""
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 5)
    return 5


@contextlib.asynccontextmanager
async def callers(server: AsyncioServer, count: int) -> AsyncIterator[list[Caller]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(await stack.enter_async_context(caller(server)))
            await clients[-1].answered(clients[-1].check())
            seconds(server, 1)
        yield clients


def from_another_host(server: AsyncioServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0))


def displaced(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [each for each in ended(caplog) if each["reason"] == "displaced"]


def ended(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was told of connections that we ended."""
    told = [record for record in caplog.records if record.name == "authz.transport"]
    assert {(record.levelname, record.getMessage()) for record in told} <= {("WARNING", "connection closed")}
    return [record.fields for record in told]  # type: ignore[attr-defined] # ours


async def test_where_no_room_is_left_the_connection_that_was_silent_for_longest_makes_it(
    limit: int, server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with callers(server, limit) as clients:
        await clients[0].answered(clients[0].check())
        async with caller(server) as newcomer:
            await newcomer.answered(newcomer.check())
            await clients[1].until(lambda: bool(clients[1].goaways))
            await clients[1].answered(clients[1].check())  # it was on its way
            clients[1].say(frames.frame(frames.PING, frames.ACK, 0, clients[1].pings()[-1]))
            await clients[1].until_closed()
            await until(lambda: len(connections(server)) == limit)
            for each in (*clients[:1], *clients[2:]):
                await each.answered(each.check())
    (told,) = displaced(caplog)
    assert told["peer"].startswith("127.0.0.1:")


async def test_where_all_of_a_host_are_busy_those_that_came_first_stay(
    limit: int, server: AsyncioServer, checks: Checks, caplog: pytest.LogCaptureFixture
) -> None:
    async with callers(server, limit) as clients:
        checks.waiting = True
        for each in clients:
            each.say(each.check())
        await until(lambda: checks.working == limit)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert checks.working == limit
    assert len(displaced(caplog)) == 1


async def test_what_is_no_grpc_is_told_so_in_http_where_it_is_no_check(server: AsyncioServer) -> None:
    async with caller(server) as client:
        stream = client.next_stream
        head = ((":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"))
        await client.answered(client.headers(stream, client.block(head=head, plain=())) + data(stream, framed(b"")))
        assert client.responses[stream].headers == [{":status": "415"}]


async def test_a_host_with_many_connections_shuts_out_no_other_one(
    limit: int, server: AsyncioServer, checks: Checks
) -> None:
    async with callers(server, limit) as clients:
        checks.waiting = True
        for number, each in enumerate(clients, 1):
            each.say(each.check())
            await until(partial(checks.are_working, number))
            seconds(server, 1)
        checks.waiting = False
        async with caller(server, from_another_host(server)) as other:
            await other.answered(other.check())
            assert checks.working == limit - 1
            await clients[0].until_closed()
            last = clients[0].responses[3]
            assert (last.status, CheckResponse.FromString(last.messages[0]).denied_response.status.code) == ("0", 503)
            for _ in range(limit):  # more of them displace their own
                await callers_come_and_stay(server)
            await other.answered(other.check())


async def callers_come_and_stay(server: AsyncioServer) -> None:
    """One that opens a connection, and is told nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(0.01)
    writer.close()


@pytest.mark.parametrize("said", [frames.settings({}), b"GET / HTTP/1.1\r\n\r\n"], ids=["and stay", "to be sent away"])
async def test_however_fast_they_come_few_more_than_allowed_are_there(
    limit: int, server: AsyncioServer, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(peers, "_MAX_CLOSING", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(said if said.startswith(b"GET") else frames.PREFACE + said)
            await asyncio.sleep(0.005)
            assert len(connections(server)) <= limit + 4
        async with caller(server, from_another_host(server)) as other:
            await other.answered(other.check())


def test_there_are_never_more_connections_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, connections in ((1024, 896), (1 << 20, 1024), (100, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert peers.connection_limit() == connections


async def test_of_all_who_do_not_read_a_bounded_part_is_kept(
    server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    memory = server._peers.memory
    memory.shared = 200_000
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            slow = await stack.enter_async_context(paused(server))
            for _ in range(20):
                if not slow.writer.transport.is_closing():
                    slow.say(*(slow.check(message=REQUEST) for _ in range(CALLS // 20)))
                await asyncio.sleep(0.001)
            assert memory.used <= memory.shared
            async with caller(server) as other:
                await other.answered(other.check())
        await until(lambda: 0 < len(connections(server)) < 4)
    assert {each["cause"] for each in ended(caplog)} == {
        "the peer does not read, and the memory for its responses is used up"
    }
    await until(lambda: not connections(server))
    assert memory.used == 0


@contextlib.asynccontextmanager
async def paused(server: AsyncioServer) -> AsyncIterator[Caller]:
    """A client that lets itself be told everything, and reads nothing."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    slow.connect(("127.0.0.1", server.port))
    async with caller(server, slow) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # it is one that reads
        client.say(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: MAX_WINDOW}))
        client.say(frames.window_update(0, MAX_WINDOW - 65_535))
        yield client
        client.writer.transport.abort()  # else it would wait until the server has read all


async def test_who_says_what_is_no_http2_is_told_of_in_the_log_now_and_then(
    server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
    (told,) = ended(caplog)
    assert (told["reason"], told["cause"]) == ("not_http2", "the HTTP/2 connection preface is missing")
    assert told["peer"].startswith("127.0.0.1:")


# Who takes back what it asked.


@pytest.mark.parametrize("together", [True, False])
async def test_a_call_that_is_taken_back_is_not_worked_for_however_soon(
    server: AsyncioServer,
    checks: Checks,
    together: bool,  # noqa: FBT001 - before the work has begun, or amid it
) -> None:
    checks.waiting = True
    async with caller(server) as hasty:
        stream, asking = hasty.next_stream, hasty.check()
        if not together:
            hasty.say(asking)
            await until(lambda: checks.working == 1)
            asking = b""
        hasty.say(asking, frames.rst_stream(stream, frames.ErrorCode.CANCEL))
        await until(lambda: checks.asked == 1 and checks.working == 0 and not server._methods.tasks)
        checks.waiting = False
        await hasty.answered(hasty.check())
        assert stream not in hasty.responses


# The end.


async def test_at_the_end_watchers_are_told_and_what_is_in_flight_has_its_time(
    server: AsyncioServer, checks: Checks
) -> None:
    async with caller(server) as client:
        watching = client.next_stream
        client.say(client.check(method="/grpc.health.v1.Health/Watch", message=b""))
        await client.until(lambda: bool(client.responses.get(watching) and client.responses[watching].data))
        checks.waiting = True
        client.say(client.check())
        await until(lambda: checks.working == 1)
        stopping = asyncio.create_task(server.stop(HANG_GUARD))
        await client.until(lambda: client.responses[watching].ended and bool(client.pings()))
        assert client.responses[watching].status == UNAVAILABLE
        assert checks.working == 1
        assert not stopping.done()
        client.say(frames.rst_stream(client.next_stream - 2, frames.ErrorCode.CANCEL))
        client.say(frames.frame(frames.PING, frames.ACK, 0, client.pings()[-1]))
        await client.until_closed()
        async with asyncio.timeout(HANG_GUARD):
            await stopping


async def test_at_the_end_every_call_is_answered_up_to_the_last_one_that_is_told(
    server: AsyncioServer, checks: Checks
) -> None:
    async with pouring(server, CALLS) as slow:
        stopping = asyncio.create_task(server.stop(HANG_GUARD))
        await until(lambda: server._methods.stopped)
        seconds(server, DRAIN_TIMEOUT + 1)  # its answer to our PING is behind much that we do not read
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
        await slow.until_closed()
        async with asyncio.timeout(HANG_GUARD):
            await stopping
    last, code = slow.goaways[-1]
    assert (last, code) == (2 * checks.asked - 1, frames.ErrorCode.NO_ERROR)
    assert 0 < last < STREAMS[-1]
    assert [each for each in range(1, last + 1, 2) if not slow.responses[each].ended] == []


async def test_at_the_end_nobody_is_waited_for_who_does_not_read(server: AsyncioServer) -> None:
    async with pouring(server, CALLS):
        async with asyncio.timeout(HANG_GUARD):
            await server.stop(0.01)
        assert not connections(server)


async def test_a_tls_handshake_that_outlasts_the_server_leads_nowhere(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 3600.0)
    authority = trustme.CA()
    files = TlsFiles(tmp_path, authority.issue_cert("localhost"))
    server = AsyncioServer("127.0.0.1:0", files.settings, checks.check, lambda: 1 << 20, refuse=refuse)
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as early:
        assert await asyncio.to_thread(asked_over_tls, early, authority)
    with socket.create_connection(("127.0.0.1", server.port)) as late:
        await asyncio.sleep(0.1)  # so that it is accepted; if it is not, less is tried
        async with asyncio.timeout(HANG_GUARD):
            await server.stop(0)
        assert await asyncio.to_thread(asked_over_tls, late, authority) == b""
    assert checks.asked == 1


def asked_over_tls(connected: socket.socket, authority: trustme.CA) -> bytes:
    """What is answered, if anything."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    connected.settimeout(HANG_GUARD)
    speaker = Caller(None, None)  # type: ignore[arg-type] # it only speaks
    try:
        with context.wrap_socket(connected, server_hostname="localhost") as tls:
            tls.sendall(frames.PREFACE + frames.settings({}) + speaker.check())
            return tls.recv(1)
    except (ConnectionError, ssl.SSLEOFError):
        return b""


async def test_a_key_that_openssl_finds_too_weak_is_no_start_and_no_change(tmp_path: Path, checks: Checks) -> None:
    """The parsers of certificates have nothing against it."""
    authority = trustme.CA()
    good, weak = authority.issue_cert("localhost"), WeakPair()
    files = TlsFiles(tmp_path, weak)  # type: ignore[arg-type] # it has what is asked for
    with pytest.raises(StartFailed, match="OpenSSL does not serve with these certificates"):
        AsyncioServer("127.0.0.1:0", files.settings, checks.check, lambda: 1 << 20, refuse=refuse)
    files.write(good)
    server = AsyncioServer("127.0.0.1:0", files.settings, checks.check, lambda: 1 << 20, refuse=refuse)
    await server.start()
    files.write(weak)  # type: ignore[arg-type] # as above
    with socket.create_connection(("127.0.0.1", server.port)) as later:
        assert await asyncio.to_thread(asked_over_tls, later, authority)
    await server.stop(0)


class WeakPair:
    """A certificate for a key of 1,024 bits, which trustme does not make."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is what is tried
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.private_key_pem = trustme.Blob(encoded)
        self.cert_chain_pems = [trustme.Blob(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))]


# Its addresses.


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_many_that_connect_while_it_is_busy_wait_for_it(way: str, checks: Checks, tmp_path: Path) -> None:
    address = "127.0.0.1:0" if way == "tcp" else f"unix:{tmp_path}/s"
    server = AsyncioServer(address, None, checks.check, lambda: 1 << 20, refuse=refuse)
    await server.start()
    with contextlib.ExitStack() as stack:
        for _ in range(500):  # it can accept none meanwhile
            client = stack.enter_context(socket.socket(socket.AF_INET if way == "tcp" else socket.AF_UNIX))
            client.settimeout(0.0 if way == "unix" else HANG_GUARD)
            client.connect(("127.0.0.1", server.port) if way == "tcp" else f"{tmp_path}/s")
        await until(lambda: len(connections(server)) == 500)
    await until(lambda: not connections(server))
    await server.stop(0)
