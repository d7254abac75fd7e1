"""A peer that causes endless work closes its own connection, with the right code, after a limited amount of it."""

from __future__ import annotations

import pytest

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport.http2 import compression, frames, limits
from authz_service.transport.http2.frames import ErrorCode
from transport.http2.client import CHECK, DENIED, HEAD, Client, EchoService, data, field_block_frames, framed

PING = frames.frame(frames.PING, 0, 0, b"12345678")


def test_cancelled_requests_never_close_the_connection_and_leave_nothing_behind() -> None:
    """CVE-2023-44487 (rapid reset). No limit on open streams applies to them, but each costs no more than a request.

    Any client of a proxy may disconnect at any time, and the proxy cancels a request each time.
    """
    client = Client(EchoService(manual=True))
    cancelled: list[int] = []
    for number in range(20 * limits.MAX_RESETS):
        stream_id = client.next_stream
        client.send(client.request())
        client.service.streams.pop().on_cancel = lambda number=number: cancelled.append(number)
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
    assert not client.connection.closed
    assert cancelled == list(range(20 * limits.MAX_RESETS))
    assert not client.connection._streams.open
    assert client.share.used == client.memory.used == 0


def test_too_many_stream_errors_close_the_connection() -> None:
    """CVE-2025-8671: they make us reset streams. No client can make a proxy cause them."""
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    for _ in range(2 * limits.MAX_RESETS):
        if client.connection.closed:
            break
        client.send(client.request(), frames.window_update(client.next_stream - 2, 0))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert client.closed[0][0] == ConnectionFailure.FLOOD


ODD = [("tracestate", " "), ("tracestate", "a=b "), ("X-A", "b"), ("connection", "close"), ("te", "gzip"), (":x", "y")]


@pytest.mark.parametrize("field", ODD)
def test_no_number_of_requests_with_odd_fields_closes_the_connection(field: tuple[str, str]) -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(frames.window_update(0, 1 << 20))
    for _ in range(12_000):
        client.send(client.request(b"m", field))
    assert not client.connection.closed
    assert all(answer.status == "0" for stream_id, answer in client.responses.items() if stream_id)


def test_cancellations_among_answered_requests_do_not_close_the_connection() -> None:
    client = Client(EchoService(manual=True))
    for _ in range(5 * limits.MAX_RESETS):
        stream_id = client.next_stream
        client.send(client.request(), client.request())
        client.service.streams.pop().answer(b"a")
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
    assert not client.connection.closed


def test_an_endless_field_block_closes_the_connection() -> None:
    """CVE-2024-27316: one CONTINUATION after another."""
    client = Client()
    client.send(client.headers(1, b"", 0))
    sent = 0
    while not client.connection.closed:
        client.send(frames.frame(frames.CONTINUATION, 0, 1, b"x" * frames.MAX_FRAME_SIZE))
        sent += frames.MAX_FRAME_SIZE
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert sent <= limits.MAX_FIELD_BLOCK + frames.MAX_FRAME_SIZE


def test_endless_empty_continuation_frames_close_the_connection() -> None:
    client = Client()
    client.send(client.headers(1, b"", 0))
    client.send(*[frames.frame(frames.CONTINUATION, 0, 1)] * (limits.MAX_CONTINUATIONS + 1))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_field_block_that_expands_to_a_long_list_is_denied() -> None:
    """The HPACK bomb: one long entry in the dynamic table, and thousands of references to it."""
    client = Client(EchoService(denied=("",)))
    value = "x" * 3900
    client.send(client.request(b"m", ("bomb", value)))
    assert client.responses[1].status == "0"
    reference = client.encoder.encode([("bomb", value)])
    assert len(reference) == 1
    block = reference * 1000
    client.send(client.headers(3, block), data(3, framed(b"m")))
    assert client.responses[3].messages == [DENIED]
    client.send(client.headers(5, block * 10), data(5, framed(b"m")))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("field", [b"\x82", compression.encode((b"a", b""))], ids=["indexed", "literal"])
def test_a_header_list_with_too_many_fields_closes_the_connection(field: bytes) -> None:
    """``hpack``'s own decoder takes minutes for 4 MB of literals."""
    client = Client()
    client.send(field_block_frames(1, client.block() + field * 100_000))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_the_longest_field_block_is_neither_buffered_nor_decoded() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    size = 15_700_000
    length = b"\xff" + bytes((size - 127) >> shift & 127 | 128 for shift in (0, 7, 14)) + bytes(((size - 127) >> 21,))
    sent = field_block_frames(1, client.block() + b"\x00\x0atracestate" + length + b"\x8c" * size)
    for at in range(0, len(sent), 32 << 10):
        client.send(sent[at : at + (32 << 10)])
        assert client.share.used <= limits.FIELD_BLOCK_OCTETS
        block = client.connection._reader.incomplete
        assert block is None or len(block.block._tail) < 100
    client.send(data(1, framed(b"m")))
    assert client.responses[1].messages == [DENIED]
    client.next_stream = 3
    assert client.call(b"next").messages == [b"next"]


def test_an_overlong_integer_in_a_field_block_closes_the_connection() -> None:
    """CVE-2026-59980 of hpack before 4.2: the time to decode it was quadratic in its length."""
    client = Client()
    length = b"\x7f" + b"\x80" * 20 + b"\0"  # 127 with many octets that add nothing
    client.send(client.headers(1, client.block() + b"\0" + length + b"a" * 127 + b"\x01b"))
    assert client.error_code == ErrorCode.COMPRESSION_ERROR


FLOODS = {
    "PING": PING,
    "SETTINGS": frames.settings({}),
    "SETTINGS with a change": frames.settings({4: 65_535}),
    "acknowledgments": frames.frame(frames.SETTINGS, 1, 0),
    "PRIORITY": frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x01\x10"),
    "WINDOW_UPDATE": frames.window_update(0, 1),
    "GOAWAY": frames.goaway(0, ErrorCode.NO_ERROR),
    "unknown frames": frames.frame(0x77, 0, 0, b""),
    "RST_STREAM on a closed stream": frames.rst_stream(1, ErrorCode.CANCEL),
    "empty DATA": frames.frame(frames.DATA, 0, 3),
    "DATA with padding only": frames.frame(frames.DATA, frames.PADDED, 3, b"\x05\0\0\0\0\0"),
    "trailers": frames.frame(frames.HEADERS, 4, 1, b""),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_frames_that_carry_no_request_closes_the_connection(flood: str) -> None:
    client = Client(settings={})
    client.send(client.request(), client.headers(3))
    many = limits.MAX_FRAMES + 3 * limits.FRAMES_PER_REQUEST
    for _ in range(many):
        client.send(FLOODS[flood])
    assert client.error_code in {ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("frame", [PING, frames.window_update(0, 1), frames.settings({})])
def test_the_same_frames_spread_over_time_or_among_requests_are_accepted(frame: bytes) -> None:
    client = Client()
    for _ in range(3):
        client.send(*[frame] * (limits.MAX_FRAMES - 10))
        client.connection.tick()
    for _ in range(limits.MAX_FRAMES):
        client.send(client.request(), *[frame] * 5, frames.window_update(0, 6))
    assert not client.connection.closed


def test_a_message_in_tiny_frames_closes_the_connection() -> None:
    client = Client()
    client.send(client.headers(1))
    for _ in range(limits.MAX_FRAMES + limits.FRAMES_PER_REQUEST + 1):
        client.send(data(1, b"x", 0))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_window_of_0_blocks_no_more_responses_than_streams_are_allowed() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    for _ in range(limits.MAX_CONCURRENT_STREAMS + 5):
        client.send(client.request(b"x" * 100))
    buffered = sum(len(stream.send_buffer) for stream in client.connection._streams.open.values())
    assert buffered == limits.MAX_CONCURRENT_STREAMS * 105
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}), frames.window_update(0, 1 << 20))
    assert not client.connection._streams.open


def test_windows_that_widen_by_one_octet_at_a_time_close_the_connection() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(client.request(b"x" * 60_000))
    while not client.connection.closed:
        client.send(frames.window_update(1, 1))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.responses[1].data) <= limits.MAX_FRAMES + 2 * limits.FRAMES_PER_REQUEST


BLOCKED = 500  # responses that wait for a window

VISITS = {
    "WINDOW_UPDATE": [frames.window_update(0, 1)],
    "SETTINGS": [frames.settings({4: size}) for size in (0, 1, 0)],
}


@pytest.mark.parametrize("kind", VISITS)
def test_frames_that_visit_every_blocked_response_count_as_many(kind: str) -> None:
    """Two thousand frames that each visit a thousand streams would take half of every second."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(*[client.request(b"x" * 5000) for _ in range(BLOCKED)])
    client.connection.tick()
    sent = 0
    while not client.connection.closed:
        client.send(VISITS[kind][sent % len(VISITS[kind])])
        sent += 1
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert sent < limits.MAX_FRAMES // 3


def test_only_the_last_window_of_one_settings_frame_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame can contain 2,730 settings, and each would change every stream."""
    client = Client()
    applied: list[int] = []
    monkeypatch.setattr(client.connection._writer, "resize_windows", applied.append)
    client.send(frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\0\0\0\4\0\0\0\5" * 1000))
    assert applied == [5]


def test_settings_that_make_a_window_too_large_close_the_connection() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), frames.window_update(1, (1 << 31) - 1 - 65_535))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 65_536}))
    assert client.error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_a_negative_window_blocks_until_it_is_positive() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}))
    client.service.streams[0].answer(b"a")
    assert client.responses[1].messages == [b"a"]


def test_cached_headers_follow_a_table_that_is_resized_and_evicted() -> None:
    """A cached result is valid only until the table changes."""
    client = Client()
    paths = [f"/{number}/{'x' * 200}" for number in range(60)]
    for turn in range(3):
        client.encoder.header_table_size = (4096, 300, 4096)[turn]
        for path in paths:
            client.send(client.headers(client.next_stream, client.block(head=(*HEAD[:2], (":path", path), HEAD[3]))))
            client.send(data(client.next_stream - 2, framed(b"a")))
            assert client.service.streams[-1].headers.path == path.encode()


def test_a_streaming_request_is_not_served_while_its_responses_are_blocked() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.service.manual, client.service.max_message_bytes = True, 1000
    client.service.streaming_paths = frozenset({CHECK.encode()})
    client.send(client.headers(1), data(1, framed(b"first"), 0))
    client.service.streams[0].send(b"x" * 10_000)
    client.send(data(1, framed(b"second") * 10, 0))
    assert client.service.served == [b"first"]
    client.send(frames.window_update(1, 20_000))
    assert client.service.served == [b"first", *[b"second"] * 10]
    client.service.streams[0].send(b"x" * 50_000)
    client.send(data(1, framed(b"y" * 900) * 2, 0))
    assert client.responses[1].status == ""
    assert client.connection._streams.open[1].end_frame


# Turns of the event loop.


def test_after_enough_requests_the_connection_pauses_and_all_are_answered() -> None:
    client = Client()
    client.send(frames.window_update(0, 1 << 20), *[client.request(b"%d" % number) for number in range(1000)])
    assert 5 < client.pauses < 20
    assert [client.responses[stream_id].messages[0] for stream_id in range(1, 2000, 2)] == [
        b"%d" % n for n in range(1000)
    ]


def test_a_long_field_block_is_decoded_in_several_turns() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    long = compression.encode((b"tracestate", b"x" * 500_000))
    client.send(field_block_frames(1, client.block() + long), data(1, framed(b"m")))
    assert client.pauses >= 10
    assert client.responses[1].messages == [DENIED]


def test_octets_received_during_a_pause_are_handled_afterwards() -> None:
    client = Client()
    client.connection.pause()
    client.connection.receive(client.request(b"a"))
    client.connection.receive(client.request(b"b"))
    assert (client.service.served, client.connection.buffered > 50) == ([], True)
    client.connection.resume()
    assert (client.service.served, client.connection.buffered) == ([b"a", b"b"], 0)
    client.connection.pause()
    client.connection.receive(client.request(b"c"))
    client.connection.lost()
    client.connection.resume()
    assert client.service.served == [b"a", b"b"]


def test_endless_messages_of_a_streaming_request_close_the_connection() -> None:
    """A short message may have a long response, and one read brings thousands of messages."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 30})
    client.service.manual = True
    client.service.streaming_paths = frozenset({CHECK.encode()})
    client.send(client.headers(1), *[data(1, framed(b"") * 3000, 0)] * 2)
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.service.served) <= limits.MAX_FRAMES + limits.FRAMES_PER_REQUEST
