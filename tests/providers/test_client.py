"""Whatever a provider sends, a request ends in time with a reason, and delays no other task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tracemalloc
from typing import TYPE_CHECKING

import h11
import pytest
import trustme

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.http1 import MAX_READ, TcpConnection, TurnBudget
from authz_service.providers.client import ProviderClient
from authz_service.providers.client_resources import ClientResources
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
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.raw_provider import Script

HANG_TIMEOUT = 30.0  # seconds; reached only if a test fails
AUTHORITY = trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return server_context() if request.param else None


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ProviderClient]:
    client = client_of(tmp_path)
    yield client
    await client.close()


def client_of(folder: Path, resources: ClientResources | None = None, max_connections: int = 64) -> ProviderClient:
    authority = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(authority)
    settings = Keys.read({"ca_file": str(authority)})
    return ProviderClient(settings, accept="*/*", max_connections=max_connections, resources=resources)


async def failure(client: ProviderClient, url: str, seconds: float = HANG_TIMEOUT) -> str:
    """Why a request fails; not because of a timeout, which is far longer than the test."""
    async with asyncio.timeout(seconds):
        with pytest.raises(FetchFailed) as failed:
            await client.get(url, MAX_BYTES)
    return str(failed.value)


async def body(client: ProviderClient, url: str) -> bytes:
    async with asyncio.timeout(HANG_TIMEOUT):
        return (await client.get(url, MAX_BYTES)).body


# Endless responses.


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_endless_response_is_given_up_with_a_reason(
    client: ProviderClient, tls: ssl.SSLContext | None, kind: str
) -> None:
    async with RawProvider(send_endless(kind), tls) as provider:
        why = await failure(client, provider.url)
    assert why.startswith(f"the response from {provider.url} ")


@pytest.mark.parametrize(
    ("prefix", "drip"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (OK + b"a: ", b"b"),
        (OK + b"Content-Length: 99999\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["status line", "header", "content", "chunk extension", "chunks"],
)
async def test_a_response_in_drips_is_ended_by_the_timeout(
    client: ProviderClient, tls: ssl.SSLContext | None, prefix: bytes, drip: bytes
) -> None:
    async with RawProvider(send_repeatedly(prefix, drip, interval=0.001), tls) as provider:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await body(client, provider.url)


async def test_an_endless_handshake_is_given_up_with_a_reason(client: ProviderClient) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = b"\x16\x03\x03\x40\x00" + b"\x02\x00\xff\xff" + b"\x00" * 16380
        while True:
            writer.write(hello)
            await writer.drain()

    async with RawProvider(script) as provider:
        why = await failure(client, provider.url.replace("http:", "https:"))
    assert why.startswith("TLS with ")


@pytest.mark.parametrize("data", [b"", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_an_incomplete_handshake_fails(client: ProviderClient, data: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)

    async with RawProvider(script) as provider:
        assert await failure(client, provider.url.replace("http:", "https:"))


async def test_a_response_in_records_of_one_byte_is_read(client: ProviderClient) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in EMPTY_OBJECT:
            writer.write(bytes([byte]))

    async with RawProvider(script, server_context()) as provider:
        assert await body(client, provider.url) == b"{}"


# The share of the event loop that many hostile providers take together.


@pytest.mark.parametrize("kind", ["informational responses", "header lines", "chunks with extensions", "content"])
async def test_twenty_hostile_responses_at_once_do_not_delay_other_tasks(
    tmp_path: Path, tls: ssl.SSLContext | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = [0]  # bytes that h11 parses between two turns of another task
    receive = h11.Connection.receive_data

    def record(connection: h11.Connection, data: bytes) -> None:
        parsed[-1] += len(data)
        receive(connection, data)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            parsed.append(0)

    monkeypatch.setattr(h11.Connection, "receive_data", record)
    client = client_of(tmp_path, ClientResources(TurnBudget(SlowStepTimer())))
    async with RawProvider(send_endless(kind), tls) as provider:
        taking_turns = asyncio.create_task(take_turns())
        reasons = await asyncio.gather(*(failure(client, provider.url) for _ in range(20)))
        taking_turns.cancel()
    await client.close()
    assert len(reasons) == 20
    # One step before and one after the other task in the same turn of the loop.
    assert max(parsed) <= 2 * max(MAX_HEAD_BYTES, MAX_READ)


async def test_no_more_than_max_read_bytes_are_read_ahead(
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


async def test_hostile_responses_take_little_memory(tmp_path: Path, tls: ssl.SSLContext | None) -> None:
    client = client_of(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(RawProvider(send_endless(kind), tls)) for kind in ENDLESS]
        for provider in providers:
            await failure(client, provider.url)
        tracemalloc.start()
        try:
            for provider in providers:
                await failure(client, provider.url)
                gc.collect()  # the provider's end of a TLS connection is a cycle with 256 KiB
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    await client.close()
    assert peak < 4_000_000  # the responses are endless, and RawProvider buffers some of them in this process


# Reused connections.


def respond_with(*responses: bytes) -> Script:
    """Sends one of the responses to each request on a connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for response in responses:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            await writer.drain()
        await reader.read()

    return script


def json_response(text: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%b" % (len(text), text)


async def test_a_connection_is_reused(client: ProviderClient, tls: ssl.SSLContext | None) -> None:
    async with RawProvider(respond_with(*[EMPTY_OBJECT] * 5), tls) as provider:
        for _ in range(5):
            await body(client, provider.url)
        assert provider.connections == 1


async def test_no_more_than_the_maximum_number_of_connections_is_open(
    tmp_path: Path, tls: ssl.SSLContext | None
) -> None:
    most = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        while await reader.readuntil(b"\r\n\r\n"):
            most = max(most, len(provider._running))
            writer.write(EMPTY_OBJECT)

    client = client_of(tmp_path, max_connections=3)
    async with RawProvider(script, tls) as provider:
        await asyncio.gather(*(body(client, provider.url) for _ in range(30)))
        assert most <= 3
        await client.close()


@pytest.mark.parametrize("cut", [0, 1, 17, len(EMPTY_OBJECT)])
async def test_response_splitting_does_not_produce_the_next_response(
    client: ProviderClient, tls: ssl.SSLContext | None, cut: int
) -> None:
    """An attacker who controls a part of one response continues it with a forged one."""
    forged = json_response(b'{"for": "the next one"}')

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            if b"/next" in request:
                writer.write(json_response(b'{"for": "itself"}'))
                continue
            writer.write(EMPTY_OBJECT + forged[:cut])
            await asyncio.sleep(0)
            writer.write(forged[cut:])

    async with RawProvider(script, tls) as provider:
        for _ in range(5):
            assert await body(client, f"{provider.origin}/first") == b"{}"
            await asyncio.sleep(0.01)
            assert await body(client, f"{provider.origin}/next") == b'{"for": "itself"}'


async def test_data_in_the_socket_buffer_makes_a_connection_unusable(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await go_on.wait()
        writer.write(json_response(b'{"for": "the next one"}'))
        await reader.read()

    async with RawProvider(script, tls) as provider:
        await body(client, provider.url)
        (idle,) = client._idle._idle
        go_on.set()
        # The data stays in the socket's buffer: neither the client nor the loop reads it.
        idle.connection._tcp._transport.pause_reading()
        await asyncio.sleep(0.05)
        assert not idle.connection.is_idle


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_idle_connection_that_the_provider_closed_is_not_used(
    client: ProviderClient, tls: ssl.SSLContext | None, end: str
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await writer.drain()
        if end == "abort":
            await asyncio.sleep(0.01)
            writer.transport.abort()

    async with RawProvider(script, tls) as provider:
        for number in range(3):
            assert await body(client, provider.url) == b"{}"
            await asyncio.sleep(0.05)
            assert provider.connections == number + 1


def abort_at_the_second_request() -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    return script


async def test_a_get_over_an_idle_connection_that_the_provider_closes_is_sent_again(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    async with RawProvider(abort_at_the_second_request(), tls) as provider:
        for _ in range(2):
            assert await body(client, provider.url) == b"{}"
        assert provider.connections == 2


async def test_a_post_is_never_sent_twice(client: ProviderClient, tls: ssl.SSLContext | None) -> None:
    async with RawProvider(abort_at_the_second_request(), tls) as provider:
        await client.post(provider.url, b"", {}, MAX_BYTES, {200})
        with pytest.raises(FetchFailed):
            await client.post(provider.url, b"", {}, MAX_BYTES, {200})
        assert provider.connections == 1


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 2"])
async def test_a_get_over_a_new_connection_is_not_sent_again(
    client: ProviderClient, tls: ssl.SSLContext | None, data: bytes
) -> None:
    async with RawProvider(send(data), tls) as provider:
        await failure(client, provider.url)
        assert provider.connections == 1


async def test_a_get_with_an_incomplete_response_is_not_sent_again(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 2")

    async with RawProvider(script, tls) as provider:
        await body(client, provider.url)
        assert await failure(client, provider.url) == f"the response from {provider.url} ended before it was complete"
        assert provider.connections == 1


async def test_the_connection_of_a_cancelled_request_is_not_reused(
    client: ProviderClient, tls: ssl.SSLContext | None
) -> None:
    requested = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            requested.set()
            if b"/slow" in request:
                await asyncio.sleep(0.05)
            writer.write(json_response(b'"slow"' if b"/slow" in request else b'"quick"'))

    async with RawProvider(script, tls) as provider:
        slow = asyncio.create_task(client.get(f"{provider.origin}/slow", MAX_BYTES))
        await requested.wait()
        slow.cancel()
        await asyncio.wait([slow])
        assert await body(client, f"{provider.origin}/quick") == b'"quick"'
        assert provider.connections == 2


async def test_an_idle_connection_is_closed_after_the_keepalive_timeout(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EMPTY_OBJECT)
        await reader.read()
        ended.set()

    client = ProviderClient(Keys(), accept="*/*", max_connections=2, keepalive_timeout=0.01)
    async with RawProvider(script) as provider:
        await body(client, provider.url)
        async with asyncio.timeout(HANG_TIMEOUT):
            await ended.wait()
        assert len(client._idle) == 0
