"""A peer that asks for work without end ends its own connection, with the right code, after a bounded amount of it."""

from __future__ import annotations

import tracemalloc

import pytest

from authz_service.transport.http2 import compression, frames, limits
from authz_service.transport.http2.connection import CloseReason
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.memory import GUARANTEED, SHARED, Memory
from authz_service.transport.http2.service import OUT_OF_MEMORY
from transport.http2.client import CHECK, DENIED, HEAD, Client, EchoService, data, framed

PING = frames.frame(frames.PING, 0, 0, b"12345678")


def test_calls_that_are_taken_back_at_once_are_nobodys_fault_and_leave_nothing_behind() -> None:
    """CVE-2023-44487: no limit on streams in flight holds for them. But one costs what a call costs, and no more.

    Every client of a proxy may go away as often as it likes, and takes a call back each time.
    """
    client = Client(EchoService(manual=True))
    told: list[int] = []
    for number in range(20 * limits.MAX_RESETS):
        stream = client.next_stream
        client.send(client.request())
        client.service.streams.pop().on_cancel = lambda number=number: told.append(number)
        client.send(frames.rst_stream(stream, ErrorCode.CANCEL))
    assert not client.connection.closed
    assert told == list(range(20 * limits.MAX_RESETS))
    assert not client.connection._streams.open
    assert client.share.used == client.memory.used == 0


def test_streams_that_are_broken_again_and_again_end_the_connection() -> None:
    """CVE-2025-8671: what is against the protocol makes us reset the stream. No client can make a proxy do it."""
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    for _ in range(2 * limits.MAX_RESETS):
        if client.connection.closed:
            break
        client.send(client.request(), frames.window_update(client.next_stream - 2, 0))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert client.closed[0][0] == CloseReason.FLOOD


ODD = [("tracestate", " "), ("tracestate", "a=b "), ("X-A", "b"), ("connection", "close"), ("te", "gzip"), (":x", "y")]


@pytest.mark.parametrize("field", ODD)
def test_no_number_of_calls_with_odd_fields_ends_the_connection(field: tuple[str, str]) -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(frames.window_update(0, 1 << 20))
    for _ in range(12_000):
        client.send(client.request(b"m", field))
    assert not client.connection.closed
    assert all(answer.status == "0" for stream, answer in client.responses.items() if stream)


def test_a_proxy_whose_clients_go_away_now_and_then_is_no_attacker() -> None:
    client = Client(EchoService(manual=True))
    for _ in range(5 * limits.MAX_RESETS):
        stream = client.next_stream
        client.send(client.request(), client.request())
        client.service.streams.pop().answer(b"a")
        client.send(frames.rst_stream(stream, ErrorCode.CANCEL))
    assert not client.connection.closed


def test_a_header_block_without_end_ends_the_connection() -> None:
    """CVE-2024-27316: CONTINUATION after CONTINUATION."""
    client = Client()
    client.send(client.headers(1, b"", 0))
    sent = 0
    while not client.connection.closed:
        client.send(frames.frame(frames.CONTINUATION, 0, 1, b"x" * frames.MAX_FRAME_SIZE))
        sent += frames.MAX_FRAME_SIZE
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert sent <= limits.MAX_FIELD_BLOCK + frames.MAX_FRAME_SIZE


def test_a_header_block_in_empty_parts_without_end_ends_the_connection() -> None:
    client = Client()
    client.send(client.headers(1, b"", 0))
    client.send(*[frames.frame(frames.CONTINUATION, 0, 1)] * (limits.MAX_CONTINUATIONS + 1))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_block_that_stands_for_a_large_list_is_denied() -> None:
    """The HPACK bomb: one long entry in the table, and thousands of references to it."""
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


@pytest.mark.parametrize("field", [b"\x82", compression.encode((b"a", b""))], ids=["of the table", "literal"])
def test_a_header_list_of_many_fields_ends_the_connection(field: bytes) -> None:
    """``hpack``'s decoder takes minutes for 4 MB of literals."""
    client = Client()
    client.send(in_frames(1, client.block() + field * 100_000))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def in_frames(stream: int, block: bytes) -> bytes:
    """A header block as it is cut into frames."""
    parts = [block[at : at + frames.MAX_FRAME_SIZE] for at in range(0, len(block), frames.MAX_FRAME_SIZE)]
    last = len(parts) - 1
    return b"".join(
        frames.frame(frames.CONTINUATION if n else frames.HEADERS, frames.END_HEADERS * (n == last), stream, part)
        for n, part in enumerate(parts)
    )


def test_of_a_header_block_that_is_as_long_as_can_be_little_is_kept_and_nothing_decoded() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    size = 15_700_000
    length = b"\xff" + bytes((size - 127) >> shift & 127 | 128 for shift in (0, 7, 14)) + bytes(((size - 127) >> 21,))
    sent = in_frames(1, client.block() + b"\x00\x0atracestate" + length + b"\x8c" * size)
    for at in range(0, len(sent), 32 << 10):
        client.send(sent[at : at + (32 << 10)])
        assert client.share.used <= limits.FIELD_BLOCK_OCTETS
        block = client.connection._reader.incomplete
        assert block is None or len(block.block._tail) < 100
    client.send(data(1, framed(b"m")))
    assert client.responses[1].messages == [DENIED]
    client.next_stream = 3
    assert client.call(b"next").messages == [b"next"]


def test_a_number_in_a_header_block_that_goes_on_and_on_ends_the_connection() -> None:
    """CVE-2026-59980 of hpack before 4.2: such a number was read in a time that grows with its length squared."""
    client = Client()
    length = b"\x7f" + b"\x80" * 20 + b"\0"  # 127, in the longest of words
    client.send(client.headers(1, client.block() + b"\0" + length + b"a" * 127 + b"\x01b"))
    assert client.error_code == ErrorCode.COMPRESSION_ERROR


FLOODS = {
    "PING": PING,
    "SETTINGS": frames.settings({}),
    "SETTINGS that change something": frames.settings({4: 65_535}),
    "acknowledgements": frames.frame(frames.SETTINGS, 1, 0),
    "PRIORITY": frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x01\x10"),
    "WINDOW_UPDATE": frames.window_update(0, 1),
    "GOAWAY": frames.goaway(0, ErrorCode.NO_ERROR),
    "unknown frames": frames.frame(0x77, 0, 0, b""),
    "RST_STREAM of streams that have ended": frames.rst_stream(1, ErrorCode.CANCEL),
    "empty DATA": frames.frame(frames.DATA, 0, 3),
    "DATA of nothing but padding": frames.frame(frames.DATA, frames.PADDED, 3, b"\x05\0\0\0\0\0"),
    "trailers": frames.frame(frames.HEADERS, 4, 1, b""),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_frames_without_end_that_are_no_calls_end_the_connection(flood: str) -> None:
    client = Client(settings={})
    client.send(client.request(), client.headers(3))
    many = limits.MAX_FRAMES + 3 * limits.FRAMES_PER_REQUEST
    for _ in range(many):
        client.send(FLOODS[flood])
    assert client.error_code in {ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("frame", [PING, frames.window_update(0, 1), frames.settings({})])
def test_the_same_frames_spread_over_time_or_among_calls_are_taken(frame: bytes) -> None:
    client = Client()
    for _ in range(3):
        client.send(*[frame] * (limits.MAX_FRAMES - 10))
        client.connection.tick()
    for _ in range(limits.MAX_FRAMES):
        client.send(client.request(), *[frame] * 5, frames.window_update(0, 6))
    assert not client.connection.closed


def test_a_message_in_crumbs_ends_the_connection() -> None:
    client = Client()
    client.send(client.headers(1))
    for _ in range(limits.MAX_FRAMES + limits.FRAMES_PER_REQUEST + 1):
        client.send(data(1, b"x", 0))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_window_of_nothing_holds_back_no_more_than_the_streams_that_are_allowed() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    for _ in range(limits.MAX_CONCURRENT_STREAMS + 5):
        client.send(client.request(b"x" * 100))
    held = sum(len(call.send_buffer) for call in client.connection._streams.open.values())
    assert held == limits.MAX_CONCURRENT_STREAMS * 105
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}), frames.window_update(0, 1 << 20))
    assert not client.connection._streams.open


def test_windows_that_open_one_octet_at_a_time_end_the_connection() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(client.request(b"x" * 60_000))
    while not client.connection.closed:
        client.send(frames.window_update(1, 1))
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.responses[1].data) <= limits.MAX_FRAMES + 2 * limits.FRAMES_PER_REQUEST


HELD = 500  # answers that wait for a window

LOOKS = {
    "WINDOW_UPDATE": [frames.window_update(0, 1)],
    "SETTINGS": [frames.settings({4: size}) for size in (0, 1, 0)],
}


@pytest.mark.parametrize("looks", LOOKS)
def test_frames_that_make_us_look_at_every_held_answer_count_as_many(looks: str) -> None:
    """Two thousand frames that each look at a thousand calls would take half of every second."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(*[client.request(b"x" * 5000) for _ in range(HELD)])
    client.connection.tick()
    sent = 0
    while not client.connection.closed:
        client.send(LOOKS[looks][sent % len(LOOKS[looks])])
        sent += 1
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert sent < limits.MAX_FRAMES // 3


def test_of_many_windows_in_one_frame_of_settings_the_last_one_is_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame holds 2,730 of them, and each would change every call."""
    client = Client()
    applied: list[int] = []
    monkeypatch.setattr(client.connection._writer, "resize_windows", applied.append)
    client.send(frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\0\0\0\4\0\0\0\5" * 1000))
    assert applied == [5]


def test_windows_that_settings_make_too_large_end_the_connection() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), frames.window_update(1, (1 << 31) - 1 - 65_535))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 65_536}))
    assert client.error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_windows_below_nothing_are_waited_out() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}))
    client.service.streams[0].answer(b"a")
    assert client.responses[1].messages == [b"a"]


def test_a_table_that_is_resized_and_evicted_never_gives_another_requests_head() -> None:
    """What is remembered of header blocks holds as long as the table does, and no longer."""
    client = Client()
    paths = [f"/{number}/{'x' * 200}" for number in range(60)]
    for turn in range(3):
        client.encoder.header_table_size = (4096, 300, 4096)[turn]
        for path in paths:
            client.send(client.headers(client.next_stream, client.block(head=(*HEAD[:2], (":path", path), HEAD[3]))))
            client.send(data(client.next_stream - 2, framed(b"a")))
            assert client.service.streams[-1].headers.path == path.encode()


def test_who_asks_again_and_again_without_reading_is_answered_no_more() -> None:
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


# Turns.


def test_after_so_many_calls_others_have_their_turn_and_all_are_answered() -> None:
    client = Client()
    client.send(frames.window_update(0, 1 << 20), *[client.request(b"%d" % number) for number in range(1000)])
    assert 5 < client.pauses < 20
    assert [client.responses[stream].messages[0] for stream in range(1, 2000, 2)] == [b"%d" % n for n in range(1000)]


def test_a_long_header_block_is_taken_in_several_turns() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    long = compression.encode((b"tracestate", b"x" * 500_000))
    client.send(in_frames(1, client.block() + long), data(1, framed(b"m")))
    assert client.pauses >= 10
    assert client.responses[1].messages == [DENIED]


def test_what_comes_while_others_have_their_turn_waits() -> None:
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


# What is kept.


PART = framed(b"x" * 1_000_000)[:-1]


def half_sent(octets: int, memory: Memory | None = None) -> Client:
    """Requests of so much that are not ended."""
    client = Client(EchoService(manual=True, denied=(CHECK,)), memory=memory)
    for _ in range(octets // len(PART)):
        client.send(client.headers(client.next_stream), data(client.next_stream - 2, PART, 0))
    return client


def test_of_requests_that_do_not_end_a_bounded_part_is_kept_and_those_that_were_cut_are_denied() -> None:
    client = half_sent(2 * SHARED)
    calls = list(client.connection._streams.open.values())
    kept = sum(len(call.body) for call in calls)
    assert SHARED // 2 - 2_000_000 < kept <= client.share.used <= SHARED // 2 + GUARANTEED
    client.send(client.request(b"y" * 16_000))
    assert client.service.served == [b"y" * 16_000]  # what is ended by the frame that brings it need not be kept
    whole = sum(call.unserved is None for call in calls)
    assert whole == kept // len(PART) > 0
    client.send(*[data(call.stream_id, b"x") for call in calls])
    assert client.service.served[1:] == [b"x" * 1_000_000] * whole
    assert client.service.denials == [OUT_OF_MEMORY] * (len(calls) - whole)
    assert sum(len(call.body) for call in client.connection._streams.open.values()) == 0
    client.send(client.headers(5001), data(5001, framed(b"y" * 100_000)))
    assert client.service.served[-1] == b"y" * 100_000


def test_what_is_kept_of_requests_is_given_back_with_them() -> None:
    client = half_sent(10 * len(PART))
    assert client.share.used == client.memory.used + GUARANTEED == 10 * len(PART)
    client.send(frames.rst_stream(1, ErrorCode.CANCEL), data(3, b""), frames.window_update(5, 0))
    assert client.share.used == 7 * len(PART)
    client.connection.lost()
    assert client.share.used == client.memory.used == 0


def test_however_many_connections_hoard_the_next_one_finds_room_for_what_is_usual() -> None:
    memory = Memory()
    hoarding = [half_sent(SHARED, memory) for _ in range(30)]
    assert SHARED * 9 // 10 < memory.used <= SHARED
    assert sum(each.share.used for each in hoarding) <= SHARED + 30 * GUARANTEED
    client = Client(memory=memory)
    usual = framed(b"y" * 3000)
    for _ in range(10):
        client.send(client.headers(client.next_stream), data(client.next_stream - 2, usual, 0))
    client.send(*[data(stream, b"") for stream in range(1, 20, 2)])
    assert client.service.served == [b"y" * 3000] * 10
    for each in hoarding:
        each.connection.lost()
    assert memory.used == 0


def test_requests_in_crumbs_take_no_more_room_than_they_count_for() -> None:
    """An object for each octet that came alone would take forty times of it."""
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


def test_streams_that_do_nothing_count_by_what_they_take() -> None:
    memory = Memory(shared=1 << 20, guaranteed=0)
    first, second = (Client(EchoService(manual=True, denied=(CHECK,)), memory=memory) for _ in range(2))
    for client in (first, second):
        client.send(*[client.headers(client.next_stream) for _ in range(limits.MAX_CONCURRENT_STREAMS)])
    assert len(first.connection._streams.open) == limits.UNCOUNTED_STREAMS + 512
    assert len(second.connection._streams.open) == limits.UNCOUNTED_STREAMS + 256
    assert first.responses[first.next_stream - 2].messages == [DENIED]
    assert memory.used == 768 * limits.STREAM_OCTETS


def test_answers_that_are_not_let_out_count_by_what_they_take() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(*[client.request(b"x" * 1000) for _ in range(10)])
    assert client.share.used == 10 * 1005
    client.send(frames.window_update(1, 500))
    assert client.share.used == 10 * 1005 - 500
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 2000}))
    assert client.share.used == 0


def test_answers_for_which_no_room_is_left_end_in_a_reset() -> None:
    memory = Memory(shared=0, guaranteed=50_000)
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}, memory=memory)
    client.send(*[client.request(b"x" * 1000) for _ in range(60)])
    assert 49_000 < client.share.used <= 50_000
    assert client.responses[119].reset == ErrorCode.ENHANCE_YOUR_CALM
    assert not client.connection.closed


def test_a_header_block_that_is_begun_counts_until_it_is_ended() -> None:
    client = Client()
    block = client.block()
    client.send(client.headers(1, block[:3], 0))
    assert client.share.used == limits.FIELD_BLOCK_OCTETS <= GUARANTEED
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[3:]))
    assert client.share.used == 0


def test_a_streamed_call_for_which_no_room_is_left_is_refused() -> None:
    memory = Memory(shared=0, guaranteed=100)
    client = Client(EchoService(manual=True), memory=memory)
    client.service.streaming_paths = frozenset({CHECK.encode()})
    client.send(client.headers(1), data(1, framed(b"one") + framed(b"two" * 30)[:5], 0))
    assert (client.service.served, client.share.used) == ([b"one"], 5)
    client.send(data(1, b"x" * 96, 0))
    assert client.responses[1].status == "12"
    assert client.share.used == 0


def test_messages_of_a_streamed_call_without_end_end_the_connection() -> None:
    """One octet of a question may ask for a thousand of an answer, and a read brings thousands of questions."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 30})
    client.service.manual = True
    client.service.streaming_paths = frozenset({CHECK.encode()})
    client.send(client.headers(1), *[data(1, framed(b"") * 3000, 0)] * 2)
    assert client.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.service.served) <= limits.MAX_FRAMES + limits.FRAMES_PER_REQUEST
