"""Whatever a provider sends, a request for it ends with a reason, in time, and holds nobody else up."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tracemalloc
from typing import TYPE_CHECKING

import h11
import pytest
import trustme

from authz_service.core.errors import FetchFailed
from authz_service.http1 import MAX_READ, TcpConnection, TurnBudget
from authz_service.providers.client import Network, ProviderClient
from authz_service.providers.exchange import MAX_HEAD_BYTES
from support.raw_provider import (
    EMPTY_OBJECT,
    ENDLESS,
    MAX_BYTES,
    OK,
    RawProvider,
    SlowStepTimer,
    send,
    send_endless,
    send_repeatedly,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.raw_provider import Script

GUARD = 30.0  # seconds: no test waits for it
AUTHORITY = trustme.CA()


def server_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return server_tls() if request.param else None


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ProviderClient]:
    made = client_of(tmp_path)
    yield made
    await made.close()


def client_of(folder: Path, network: Network | None = None, max_connections: int = 64) -> ProviderClient:
    authority = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(authority)
    return ProviderClient(accept="*/*", max_connections=max_connections, network=network, ca_file=authority)


async def failure(client: ProviderClient, url: str, seconds: float = GUARD) -> str:
    """Why a request fails. None of it is due to its time: that is far longer than the test."""
    async with asyncio.timeout(seconds):
        with pytest.raises(FetchFailed) as failed:
            await client.get(url, MAX_BYTES)
    return str(failed.value)


async def body(client: ProviderClient, url: str) -> bytes:
    async with asyncio.timeout(GUARD):
        return (await client.get(url, MAX_BYTES)).body


# Answers without end.


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_without_end_is_left_with_a_reason(
    client: ProviderClient, tls: ssl.SSLContext | None, kind: str
) -> None:
    async with RawProvider(send_endless(kind), tls) as provider:
        why = await failure(client, provider.url)
    assert why.startswith(f"the answer of {provider.url} ")


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (OK + b"a: ", b"b"),
        (OK + b"Content-Length: 99999\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["status line", "header", "content", "chunk extension", "chunks"],
)
async def test_an_answer_in_drips_ends_with_its_time(
    client: ProviderClient, tls: ssl.SSLContext | None, begin: bytes, drip: bytes
) -> None:
    async with RawProvider(send_repeatedly(begin, drip, interval=0.001), tls) as provider:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await body(client, provider.url)


async def test_a_handshake_without_end_is_left_with_a_reason(client: ProviderClient) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = b"\x16\x03\x03\x40\x00" + b"\x02\x00\xff\xff" + b"\x00" * 16380
        while True:
            writer.write(hello)
            await writer.drain()

    async with RawProvider(talk) as provider:
        why = await failure(client, provider.url.replace("http:", "https:"))
    assert why.startswith("TLS with ")


@pytest.mark.parametrize("octets", [b"", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_handshake_that_breaks_off_is_a_failure(client: ProviderClient, octets: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(octets)

    async with RawProvider(talk) as provider:
        assert await failure(client, provider.url.replace("http:", "https:"))


async def test_an_answer_in_records_of_one_octet_is_read(client: ProviderClient) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for octet in EMPTY_OBJECT:
            writer.write(bytes([octet]))

    async with RawProvider(talk, server_tls()) as provider:
        assert await body(client, provider.url) == b"{}"


# What many of them take of the event loop together.


@pytest.mark.parametrize("kind", ["informational responses", "header lines", "chunks with extensions", "content"])
async def test_twenty_hostile_answers_at_once_leave_everybody_else_their_turn(
    tmp_path: Path, tls: ssl.SSLContext | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = [0]  # octets that h11 was handed between two turns of a task that only wants its turn
    receive = h11.Connection.receive_data

    def record(connection: h11.Connection, octets: bytes) -> None:
        parsed[-1] += len(octets)
        receive(connection, octets)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            parsed.append(0)

    monkeypatch.setattr(h11.Connection, "receive_data", record)
    client = client_of(tmp_path, Network(TurnBudget(SlowStepTimer())))
    async with RawProvider(send_endless(kind), tls) as provider:
        taking_turns = asyncio.create_task(take_turns())
        reasons = await asyncio.gather(*(failure(client, provider.url) for _ in range(20)))
        taking_turns.cancel()
    await client.close()
    assert len(reasons) == 20
    # The one before and the one behind this task in the same turn.
    assert max(parsed) <= 2 * max(MAX_HEAD_BYTES, MAX_READ)


async def test_no_connection_is_read_further_than_a_piece_ahead(
    tmp_path: Path, tls: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    update = TcpConnection.buffer_updated

    def record(connection: TcpConnection, nbytes: int) -> None:
        update(connection, nbytes)
        read.append(len(connection._received))

    monkeypatch.setattr(TcpConnection, "buffer_updated", record)
    client = client_of(tmp_path)
    async with RawProvider(send_endless("content"), tls) as provider:
        await failure(client, provider.url)
    await client.close()
    assert max(read) == MAX_READ


async def test_hostile_answers_take_little_memory(tmp_path: Path, tls: ssl.SSLContext | None) -> None:
    client = client_of(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(RawProvider(send_endless(kind), tls)) for kind in ENDLESS]
        for provider in providers:
            await failure(client, provider.url)
        tracemalloc.start()
        try:
            for provider in providers:
                await failure(client, provider.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    await client.close()
    assert peak < 4_000_000  # what they send, and the provider of the test sends it ahead, is without end


# Connections that are used again.


def answering(*answers: bytes, then: Callable[[asyncio.StreamWriter], None] = lambda _: None) -> Script:
    """One of these to each request on a connection, and then this."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for octets in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(octets)
            await writer.drain()
        then(writer)
        await reader.read()

    return talk


def saying_json(text: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%b" % (len(text), text)


async def test_a_connection_is_used_again(client: ProviderClient, tls: ssl.SSLContext | None) -> None:
    async with RawProvider(answering(*[EMPTY_OBJECT] * 5), tls) as provider:
        for _ in range(5):
            await body(client, provider.url)
        assert provider.connections == 1


async def test_of_many_connections_only_as_many_as_allowed_are_open(tmp_path: Path, tls: ssl.SSLContext | None) -> None:
    most = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        while await reader.readuntil(b"\r\n\r\n"):
            most = max(most, len(provider._running))
            writer.write(EMPTY_OBJECT)

    client = client_of(tmp_path, max_connections=3)
    async with RawProvider(talk, tls) as provider:
        await asyncio.gather(*(body(client, provider.url) for _ in range(30)))
        assert most <= 3
        await client.close()


@pytest.mark.parametrize("cut", [0, 1, 17, len(EMPTY_OBJECT)])
async def test_who_splits_an_answer_does_not_write_the_next_one(
    client: ProviderClient, tls: ssl.SSLContext | None, cut: int
) -> None:
    """What an upstream lets a token write into its answer goes on behind that answer's end."""
    forged = saying_json(b'{"for": "the next one"}')

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            if b"/next" in request:
                writer.write(saying_json(b'{"for": "itself"}'))
                continue
            writer.write(EMPTY_OBJECT + forged[:cut])
            await asyncio.sleep(0)
            writer.write(forged[cut:])

    async with RawProvider(talk, tls) as provider:
        for _ in range(5):
            assert await body(client, f"{provider.origin}/first") == b"{}"
            await asyncio.sleep(0.01)
            assert await body(client, f"{provider.origin}/next") == b'{"for": "itself"}'


async def test_what_came_just_before_the_next_request_is_seen_although_the_loop_has_not_looked(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    go_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await go_on.wait()
        writer.write(saying_json(b'{"for": "the next one"}'))
        await reader.read()

    async with RawProvider(talk, tls) as provider:
        await body(client, provider.url)
        (idle,) = client._idle
        go_on.set()
        # Neither reads what has come, nor lets the loop do so: the system's buffer has it.
        idle.channel._wire._transport.pause_reading()
        await asyncio.sleep(0.05)
        assert not idle.channel.is_quiet


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_connection_that_ended_while_nobody_used_it_is_not_used(
    client: ProviderClient, tls: ssl.SSLContext | None, end: str
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await writer.drain()
        if end == "abort":
            await asyncio.sleep(0.01)
            writer.transport.abort()

    async with RawProvider(talk, tls) as provider:
        for number in range(3):
            assert await body(client, provider.url) == b"{}"
            await asyncio.sleep(0.05)
            assert provider.connections == number + 1


def ending_at_the_second_request() -> Script:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    return talk


async def test_a_fetch_over_a_kept_connection_that_just_ended_is_sent_once_more(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    async with RawProvider(ending_at_the_second_request(), tls) as provider:
        for _ in range(2):
            assert await body(client, provider.url) == b"{}"
        assert provider.connections == 2


async def test_a_post_is_never_sent_twice(client: ProviderClient, tls: ssl.SSLContext | None) -> None:
    async with RawProvider(ending_at_the_second_request(), tls) as provider:
        await client.post(provider.url, b"", {}, MAX_BYTES, {200})
        with pytest.raises(FetchFailed):
            await client.post(provider.url, b"", {}, MAX_BYTES, {200})
        assert provider.connections == 1


@pytest.mark.parametrize("octets", [b"", b"HTTP/1.1 2"])
async def test_a_fetch_over_a_new_connection_is_not_sent_twice(
    client: ProviderClient, tls: ssl.SSLContext | None, octets: bytes
) -> None:
    async with RawProvider(send(octets), tls) as provider:
        await failure(client, provider.url)
        assert provider.connections == 1


async def test_a_fetch_that_got_a_part_of_its_answer_is_not_sent_twice(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 2")

    async with RawProvider(talk, tls) as provider:
        await body(client, provider.url)
        assert await failure(client, provider.url) == f"the answer of {provider.url} ended before it was complete"
        assert provider.connections == 1


async def test_who_gives_up_leaves_no_connection_on_which_an_answer_is_still_to_come(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            asked.set()
            if b"/slow" in request:
                await asyncio.sleep(0.05)
            writer.write(saying_json(b'"slow"' if b"/slow" in request else b'"quick"'))

    async with RawProvider(talk, tls) as provider:
        slow = asyncio.create_task(client.get(f"{provider.origin}/slow", MAX_BYTES))
        await asked.wait()
        slow.cancel()
        await asyncio.wait([slow])
        assert await body(client, f"{provider.origin}/quick") == b'"quick"'
        assert provider.connections == 2


async def test_an_idle_connection_is_closed_after_its_time(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.read()
        ended.set()

    client = ProviderClient(accept="*/*", max_connections=2, keepalive=0.01)
    async with RawProvider(talk) as provider:
        await body(client, provider.url)
        async with asyncio.timeout(GUARD):
            await ended.wait()
        assert client._idle == []
