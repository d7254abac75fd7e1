"""The memory that one connection, and all together, may use."""

from __future__ import annotations

import tracemalloc

from authz_service.transport.http2 import frames, limits
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.memory import GUARANTEED, SHARED, Memory
from authz_service.transport.http2.service import OUT_OF_MEMORY
from transport.http2.client import CHECK, DENIED, Client, EchoService, data, framed

PART = framed(b"x" * 1_000_000)[:-1]


def with_unfinished_requests(octets: int, memory: Memory | None = None) -> Client:
    """A client whose unfinished requests have so many octets."""
    client = Client(EchoService(manual=True, denied=(CHECK,)), memory=memory)
    for _ in range(octets // len(PART)):
        client.send(client.headers(client.next_stream), data(client.next_stream - 2, PART, 0))
    return client


def test_unfinished_requests_are_buffered_up_to_a_limit_and_denied_beyond_it() -> None:
    client = with_unfinished_requests(2 * SHARED)
    streams = list(client.connection._streams.open.values())
    buffered = sum(len(stream.body) for stream in streams)
    assert SHARED // 2 - 2_000_000 < buffered <= client.share.used <= SHARED // 2 + GUARANTEED
    client.send(client.request(b"y" * 16_000))
    assert client.service.served == [b"y" * 16_000]  # a request in a single frame is not buffered
    whole = sum(stream.unserved is None for stream in streams)
    assert whole == buffered // len(PART) > 0
    client.send(*[data(stream.stream_id, b"x") for stream in streams])
    assert client.service.served[1:] == [b"x" * 1_000_000] * whole
    assert client.service.denials == [OUT_OF_MEMORY] * (len(streams) - whole)
    assert sum(len(stream.body) for stream in client.connection._streams.open.values()) == 0
    client.send(client.headers(5001), data(5001, framed(b"y" * 100_000)))
    assert client.service.served[-1] == b"y" * 100_000


def test_the_memory_of_requests_is_released_with_them() -> None:
    client = with_unfinished_requests(10 * len(PART))
    assert client.share.used == client.memory.used + GUARANTEED == 10 * len(PART)
    client.send(frames.rst_stream(1, ErrorCode.CANCEL), data(3, b""), frames.window_update(5, 0))
    assert client.share.used == 7 * len(PART)
    client.connection.lost()
    assert client.share.used == client.memory.used == 0


def test_greedy_connections_leave_room_for_ordinary_requests_on_the_next_one() -> None:
    memory = Memory()
    greedy = [with_unfinished_requests(SHARED, memory) for _ in range(30)]
    assert SHARED * 9 // 10 < memory.used <= SHARED
    assert sum(each.share.used for each in greedy) <= SHARED + 30 * GUARANTEED
    client = Client(memory=memory)
    ordinary = framed(b"y" * 3000)
    for _ in range(10):
        client.send(client.headers(client.next_stream), data(client.next_stream - 2, ordinary, 0))
    client.send(*[data(stream_id, b"") for stream_id in range(1, 20, 2)])
    assert client.service.served == [b"y" * 3000] * 10
    for each in greedy:
        each.connection.lost()
    assert memory.used == 0


def test_requests_in_tiny_frames_use_no_more_memory_than_is_counted() -> None:
    """An object for each octet that arrives alone would use forty times as much."""
    client = Client(EchoService(manual=True))
    client.send(client.headers(1))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(40_000):
        client.send(data(1, b"x", 0))
        if number % 1000 == 0:
            client.connection.tick()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert client.share.used == 40_000
    assert after - before < 100_000


def test_idle_streams_are_counted() -> None:
    memory = Memory(shared=1 << 20, guaranteed=0)
    first, second = (Client(EchoService(manual=True, denied=(CHECK,)), memory=memory) for _ in range(2))
    for client in (first, second):
        client.send(*[client.headers(client.next_stream) for _ in range(limits.MAX_CONCURRENT_STREAMS)])
    assert len(first.connection._streams.open) == limits.UNCOUNTED_STREAMS + 512
    assert len(second.connection._streams.open) == limits.UNCOUNTED_STREAMS + 256
    assert first.responses[first.next_stream - 2].messages == [DENIED]
    assert memory.used == 768 * limits.STREAM_OCTETS


def test_blocked_responses_are_counted() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(*[client.request(b"x" * 1000) for _ in range(10)])
    assert client.share.used == 10 * 1005
    client.send(frames.window_update(1, 500))
    assert client.share.used == 10 * 1005 - 500
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 2000}))
    assert client.share.used == 0


def test_blocked_responses_beyond_the_limit_are_reset() -> None:
    memory = Memory(shared=0, guaranteed=50_000)
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}, memory=memory)
    client.send(*[client.request(b"x" * 1000) for _ in range(60)])
    assert 49_000 < client.share.used <= 50_000
    assert client.responses[119].reset == ErrorCode.ENHANCE_YOUR_CALM
    assert not client.connection.closed


def test_an_incomplete_field_block_is_counted() -> None:
    client = Client()
    block = client.block()
    client.send(client.headers(1, block[:3], 0))
    assert client.share.used == limits.FIELD_BLOCK_OCTETS <= GUARANTEED
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[3:]))
    assert client.share.used == 0


def test_a_streaming_request_beyond_the_limit_is_refused() -> None:
    memory = Memory(shared=0, guaranteed=100)
    client = Client(EchoService(manual=True), memory=memory)
    client.service.streaming_paths = frozenset({CHECK.encode()})
    client.send(client.headers(1), data(1, framed(b"one") + framed(b"two" * 30)[:5], 0))
    assert (client.service.served, client.share.used) == ([b"one"], 5)
    client.send(data(1, b"x" * 96, 0))
    assert client.responses[1].status == "12"
    assert client.share.used == 0
