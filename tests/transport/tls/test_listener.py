"""TLS handshakes that fail or never end: each is counted, logged once with a remedy, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import ssl
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme

from authz_service.core.connection_failure import REMEDIES, ConnectionFailure
from authz_service.telemetry.metrics import Metrics
from authz_service.transport import asyncio_server, peers
from authz_service.transport.asyncio_protocol import PeerProtocol
from authz_service.transport.http2 import frames
from authz_service.transport.http2.timeouts import PREFACE_TIMEOUT
from authz_service.transport.tls import listener
from authz_service.transport.tls import server as tls_server
from authz_service.transport.tls.allocator import trim_function
from support.samples import sample_value
from transport.pki import TlsFiles
from transport.socket_client import (
    HANG_GUARD,
    Checks,
    SocketClient,
    asyncio_server_of,
    connections,
    failed_connections,
    pass_seconds,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


LIMIT = 3


class Served:
    """A server with TLS, and its metrics."""

    def __init__(self, checks: Checks, folder: Path, address: str = "127.0.0.1:0") -> None:
        self.authority = trustme.CA()
        files = TlsFiles(folder, self.authority.issue_cert("localhost"))
        self.metrics = Metrics(transport="asyncio")
        self.server = asyncio_server_of(checks, address, tls=files.settings, metrics=self.metrics)

    def counted(self, name: str, **labels: str) -> float | None:
        return sample_value(self.metrics, f"authz_transport_{name}", labels)

    @property
    def results(self) -> dict[str, float]:
        """Connections by result, without those of which there are none."""
        names = ("accepted", "empty", "failed", "refused")
        counted = {name: self.counted("connections_total", result=name) or 0 for name in names}
        return {name: count for name, count in counted.items() if count}

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.server.port), source_address=(source, 0))
        connected.settimeout(0)
        return connected

    @contextlib.asynccontextmanager
    async def client(self, source: str = "127.0.0.1") -> AsyncIterator[SocketClient]:
        """A client over TLS."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection(
            sock=self.connect(source), ssl=context, server_hostname="localhost"
        )
        client = SocketClient(reader, writer)
        client.send(frames.PREFACE, frames.settings({}))
        try:
            yield client
        finally:
            writer.transport.abort()


@pytest_asyncio.fixture
async def served(checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 3600.0)
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", LIMIT)
    served = Served(checks, tmp_path)
    await served.server.start()
    yield served
    async with asyncio.timeout(HANG_GUARD):
        await served.server.stop(0)
    await until(lambda: not connections(served.server))
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives the server"


async def closed(connected: socket.socket) -> None:
    """Wait until the server has closed the connection."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(connected, 1 << 16):
                pass
    connected.close()


CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # its first octets


@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 without TLS"),
        (frames.PREFACE, "HTTP/2 without TLS"),
        (b"PRI", "HTTP/2 without TLS"),
        (b"\0", "an unknown protocol without TLS"),
        (b"secret", "an unknown protocol without TLS"),
    ],
)
async def test_a_client_without_tls_is_recognized_and_nothing_that_it_sent_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture, octets: bytes, cause: str
) -> None:
    for _ in range(3):
        client = served.connect()
        client.send(octets)
        await closed(client)
    (line,) = failed_connections(caplog)
    assert line["peer"].startswith("127.0.0.1:")
    del line["peer"]
    assert line == {
        "reason": "plaintext_on_tls_port",
        "cause": cause,
        "remedy": REMEDIES[ConnectionFailure.PLAINTEXT],
    }
    assert served.counted("failures_total", reason="plaintext_on_tls_port") == 3
    assert served.results == {"failed": 3}
    assert served.counted("connections") == 0


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_is_closed_without_an_octet_is_no_failure(
    served: Served, caplog: pytest.LogCaptureFixture, *, reset: bool
) -> None:
    """As TCP health checks do."""
    caplog.set_level(logging.DEBUG, "authz")
    client = served.connect()
    await until(lambda: served.counted("connections") == 1)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    await until(lambda: served.counted("connections") == 0)
    assert served.results == {"empty": 1}
    assert not caplog.records


async def test_a_connection_that_is_closed_after_the_tls_handshake_is_no_failure(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """As TLS health checks do."""
    context = ssl.create_default_context()
    served.authority.configure_trust(context)
    _, writer = await asyncio.open_connection(sock=served.connect(), ssl=context, server_hostname="localhost")
    writer.close()
    await until(lambda: served.results == {"empty": 1})
    assert not failed_connections(caplog)


@pytest.mark.parametrize("octets", [b"", CLIENT_HELLO, b"\x16"])
async def test_a_handshake_that_is_not_completed_in_time_is_closed(
    served: Served, caplog: pytest.LogCaptureFixture, octets: bytes
) -> None:
    client = served.connect()
    client.send(octets)
    await until(lambda: served.counted("connections") == 1)
    await asyncio.sleep(0.05)  # so that the octets are read; otherwise the test tests less
    pass_seconds(served.server, PREFACE_TIMEOUT)
    assert not failed_connections(caplog)
    pass_seconds(served.server, 2)
    await closed(client)
    await until(lambda: served.counted("connections") == 0)
    (line,) = failed_connections(caplog)
    in_time = "the handshake was not completed" if octets else "nothing was received"
    assert (line["reason"], line["cause"]) == ("unfinished", f"{in_time} in time")
    assert served.results == {"failed": 1}


async def test_the_client_of_a_failed_handshake_receives_an_alert(served: Served) -> None:
    context = ssl.create_default_context()
    served.authority.configure_trust(context)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")
    with pytest.raises(ssl.SSLError) as raised:
        await asyncio.open_connection(sock=served.connect(), ssl=context, server_hostname="localhost")
    assert raised.value.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


async def test_a_peer_that_leaves_within_the_handshake_is_a_failure(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client = served.connect()
    client.send(CLIENT_HELLO)
    await asyncio.sleep(0.05)  # so that it is read; otherwise the test tests less
    client.close()
    await until(lambda: served.results == {"failed": 1})
    (line,) = failed_connections(caplog)
    cause = "the peer closed the connection during the handshake"
    assert (line["reason"], line["cause"]) == ("tls_handshake", cause)


async def test_a_host_whose_connections_send_nothing_excludes_no_other_and_not_itself(
    served: Served, checks: Checks, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20 * LIMIT):
            stack.enter_context(served.connect())
        await until(lambda: (served.counted("failures_total", reason="too_many_connections") or 0) >= 19 * LIMIT)
        assert served.counted("connections") == LIMIT
        async with served.client("127.0.0.2") as other, served.client() as same:
            for each in (other, same):
                await each.call(each.check())
            assert served.counted("connections") == LIMIT
    assert checks.count == 2
    assert len(failed_connections(caplog)) == 1


async def test_half_handshakes_count_against_the_limit(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(5 * LIMIT):
            client = stack.enter_context(served.connect())
            client.send(CLIENT_HELLO)
            await until(lambda number=number: sum(served.results.values()) >= number + 1 - LIMIT)  # type: ignore[misc]
            await asyncio.sleep(0.005)
            assert len(connections(served.server)) <= LIMIT + 1
        async with served.client() as whole:
            await whole.call(whole.check())


async def test_a_host_has_few_handshakes_at_the_same_time_and_excludes_no_other_and_not_itself(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has memory of TLS, which a client without a certificate must not exhaust."""
    monkeypatch.setattr(listener, "_MAX_HANDSHAKES", LIMIT)
    served = Served(checks, tmp_path)
    await served.server.start()
    with contextlib.ExitStack() as stack:
        for _ in range(10 * LIMIT):
            stack.enter_context(served.connect()).send(CLIENT_HELLO)
        await until(lambda: served.counted("failures_total", reason="too_many_connections") == 9 * LIMIT)
        await until(lambda: served.counted("connections") == LIMIT)
        silent = [stack.enter_context(served.connect()) for _ in range(5 * LIMIT)]
        stack.enter_context(served.connect("127.0.0.3")).send(CLIENT_HELLO)
        async with served.client("127.0.0.2") as other, served.client() as same:
            for each in (other, same):
                await each.call(each.check())
            await until(lambda: served.counted("connections") == len(silent) + LIMIT - 1 + 3)
    await served.server.stop(0)
    assert checks.count == 2


async def test_memory_that_many_connections_have_left_is_returned_to_the_system(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(tls_server, "_TRIM_AFTER", LIMIT)
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 0.01)
    monkeypatch.setattr(tls_server, "trim_function", lambda: trims.append)
    served = Served(checks, tmp_path)
    await served.server.start()
    for number in range(2 * LIMIT):
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        await closed(client)
        await until(lambda number=number: len(trims) == (number + 1) // LIMIT)  # type: ignore[misc]
    await served.server.stop(0)


def test_the_c_library_returns_memory() -> None:
    trim = trim_function()
    assert trim is not None
    assert trim(0) in {0, 1}  # whether there was something to return


async def test_a_storm_of_failures_logs_one_line_and_keeps_nothing(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        await closed(client)
    assert len(failed_connections(caplog)) == 1
    assert served.counted("failures_total", reason="plaintext_on_tls_port") == 100
    assert not connections(served.server)
    assert len(asyncio.all_tasks()) == 1


async def test_nothing_of_a_lost_connection_waits_for_the_garbage_collector(
    served: Served, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TLS has allocated for it is large, and invisible to the collector."""
    made: list[weakref.ref[PeerProtocol]] = []
    connection_made = PeerProtocol.connection_made

    def remember(protocol: PeerProtocol, transport: asyncio.BaseTransport) -> None:
        made.append(weakref.ref(protocol))
        connection_made(protocol, transport)

    monkeypatch.setattr(PeerProtocol, "connection_made", remember)
    gc.disable()
    try:
        async with served.client() as client:
            await client.call(client.check())
        await until(lambda: not connections(served.server))
        await until(lambda: made[0]() is None)
    finally:
        gc.enable()
    assert checks.count == len(made) == 1


async def test_stopping_ends_handshakes(served: Served) -> None:
    with served.connect() as silent, served.connect() as half:
        half.send(CLIENT_HELLO)
        await until(lambda: served.counted("connections") == 2)
        await asyncio.sleep(0.05)  # so that it is read; otherwise the test tests less
        async with asyncio.timeout(HANG_GUARD):
            await served.server.stop(HANG_GUARD)
        assert not connections(served.server)
        for each in (silent, half):
            await closed(each)


async def test_tls_over_a_unix_socket(checks: Checks, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(checks, tmp_path, address=f"unix:{tmp_path}/s")
    await served.server.start()
    context = ssl.create_default_context()
    served.authority.configure_trust(context)
    reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s", ssl=context, server_hostname="localhost")
    client = SocketClient(reader, writer)
    client.send(frames.PREFACE, frames.settings({}))
    await client.call(client.check())
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(f"{tmp_path}/s")
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: served.results == {"accepted": 1, "failed": 1})
    writer.transport.abort()
    await served.server.stop(HANG_GUARD)
    assert [line["peer"] for line in failed_connections(caplog)] == ["unix"]


async def test_without_resources_for_another_connection_it_accepts_again_later(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_RETRY_DELAY", 0.01)
    tls_listener: Any = served.server._servers[0]
    tls_listener._socket = Exhausted(tls_listener._socket)
    async with served.client() as client:
        await client.call(client.check())
    assert tls_listener._socket.failures == 2
    (record,) = [each for each in caplog.records if each.getMessage() == "cannot accept connections"]
    assert record.fields == {"cause": "Too many open files"}  # type: ignore[attr-defined] # ours


class Exhausted:
    """A listening socket of a process that has too many open files for a while."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.failures = 0

    def fileno(self) -> int:
        return self.real.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures < 2:
            self.failures += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.real.accept()

    def close(self) -> None:
        self.real.close()


def test_every_failure_of_openssl_has_a_reason() -> None:
    for reason in ("SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_CERTIFICATE_EXPIRED"):
        failure, cause = listener._failure_of(error(reason))
        assert failure == ConnectionFailure.SERVER_CERTIFICATE_REFUSED
        assert cause == reason.lower().replace("_", " ")
    for other in ("NO_SHARED_CIPHER", "TLSV1_ALERT_INTERNAL_ERROR", "A_REASON_OF_A_NEWER_OPENSSL", None):
        assert listener._failure_of(error(other))[0] == ConnectionFailure.TLS_HANDSHAKE


def error(reason: Any) -> ssl.SSLError:
    made = ssl.SSLError(1, "whatever the peer sent")
    made.reason = reason
    return made
