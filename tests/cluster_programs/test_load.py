"""The load of the cluster tests loses no request from sight."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from support.pod_programs import PODS, TIMEOUT, finish, running_shop, start

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Callable, Coroutine

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def _orders(url: str, **changes: Any) -> dict[str, Any]:
    return {"name": f"test-{url}", "url": url, "rate": 200, "seconds": 0.5, "connections": 2} | changes


@asynccontextmanager
async def _server(handle: Callable[[StreamReader, StreamWriter], Coroutine[Any, Any, None]]) -> AsyncIterator[str]:
    async def accept(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _load(url: str, **changes: Any) -> dict[str, Any]:
    lines = await asyncio.to_thread(lambda: finish(start("load.py", _orders(url, **changes))))
    result: dict[str, Any] = lines[-1]
    return result


async def test_kept_connections_carry_all_requests_at_the_rate() -> None:
    with running_shop() as shop:
        result = await _load(shop.url)
    assert result["requests"] == result["answers"]["200"]
    assert 1 < result["requests"] <= 101
    assert (result["lost"], result["connections"], result["unannounced"]) == (0, 2, 0)


async def test_new_connections_carry_one_request_each() -> None:
    with running_shop() as shop:
        result = await _load(shop.url, keep=False)
    assert result["requests"] == result["connections"] == result["answers"]["200"]


async def test_another_status_is_lost_and_reported_without_the_token() -> None:
    async def deny(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Bearer secret" in head
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")

    async with _server(deny) as url:
        result = await _load(url, token="secret")
        expected = await _load(url, token="secret", expected=403)
    assert result["answers"] == {"403": result["requests"]}
    assert result["lost"] == result["requests"]
    assert result["failures"][0].endswith(" s: 403: no")
    assert len(result["failures"]) <= 20
    assert "secret" not in json.dumps(result)
    assert expected["lost"] == 0


async def test_a_connection_closed_between_requests_is_unannounced_and_loses_none() -> None:
    async def answer_once(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_OK)

    async with _server(answer_once) as url:
        result = await _load(url, rate=20, connections=1)
    assert result["answers"] == {"200": result["requests"]}
    assert result["announced"] == 0
    assert result["unannounced"] >= result["requests"] - 1 > 0


async def test_a_connection_closed_after_announcement_is_announced() -> None:
    async def answer_once(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))

    async with _server(answer_once) as url:
        result = await _load(url)
    assert result["answers"] == {"200": result["requests"]}
    assert result["announced"] == result["requests"]
    assert result["unannounced"] == 0


async def test_requests_without_an_answer_are_lost_by_kind_and_connection() -> None:
    async def answer_first(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_OK)
        await reader.readuntil(b"\r\n\r\n")

    async def close(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with _server(answer_first) as url:
        kept = await _load(url)
    async with _server(close) as url:
        new = await _load(url)
    refused = await _load(url)
    assert kept["lost"] == kept["answers"]["closed before the answer (kept connection)"] > 0
    assert new["answers"] == {"closed before the answer (new connection)": new["requests"]}
    assert refused["answers"] == {"ConnectionRefusedError (new connection)": refused["requests"]}


def test_it_ends_early_on_request_once_an_answer_has_come() -> None:
    with running_shop() as shop:
        process = start("load.py", _orders(shop.url, name="early", seconds=600))
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {}
        command = [sys.executable, str(PODS / "load.py"), "stop", "early"]
        subprocess.run(command, check=True, timeout=TIMEOUT)
        (result,) = finish(process)
    assert result["lost"] == 0
