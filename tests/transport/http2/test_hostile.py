"""A peer that asks for work without end ends its own connection, with the right code, after a bounded amount of it."""

from __future__ import annotations

import pytest

from authz_service.transport.http2 import connection, frames, headers
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.headers import MOST_LIST
from transport.http2.client import CHECK, HEAD, Client, Service, data, framed

PING = frames.frame(frames.PING, 0, 0, b"12345678")


def test_rapid_reset_ends_the_connection() -> None:
    """CVE-2023-44487: calls are begun and taken back at once, so that no limit on streams in flight holds."""
    client = Client(Service(keep=True))
    for _ in range(connection.MOST_RESETS + 1):
        stream = client.next_stream
        client.send(client.request(), frames.reset(stream, ErrorCode.CANCEL))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM
    assert not client.connection._calls


def test_resets_that_the_peer_provokes_count_like_its_own() -> None:
    """CVE-2025-8671: what is malformed makes us reset the stream."""
    client = Client(Service(keep=True))
    for _ in range(connection.MOST_RESETS + 1):
        client.send(client.request(), frames.window_update(client.next_stream - 2, 0))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM


def test_a_proxy_whose_clients_go_away_now_and_then_is_no_attacker() -> None:
    client = Client(Service(keep=True))
    for _ in range(5 * connection.MOST_RESETS):
        stream = client.next_stream
        client.send(client.request(), client.request())
        client.service.calls.pop().answer(b"a")
        client.send(frames.reset(stream, ErrorCode.CANCEL))
    assert not client.connection.over


def test_a_header_block_without_end_ends_the_connection() -> None:
    """CVE-2024-27316: CONTINUATION after CONTINUATION."""
    client = Client()
    client.send(client.headers(1, b"", 0))
    sent = 0
    while not client.connection.over:
        client.send(frames.frame(frames.CONTINUATION, 0, 1, b"x" * frames.FRAME_BYTES))
        sent += frames.FRAME_BYTES
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM
    assert sent <= MOST_LIST + frames.FRAME_BYTES


def test_a_header_block_in_empty_parts_without_end_ends_the_connection() -> None:
    client = Client()
    client.send(client.headers(1, b"", 0))
    client.send(*[frames.frame(frames.CONTINUATION, 0, 1)] * (connection.MOST_CONTINUATIONS + 1))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_block_that_stands_for_a_large_list_ends_the_connection() -> None:
    """The HPACK bomb: one long entry in the table, and thousands of references to it."""
    client = Client()
    value = "x" * 3900
    client.send(client.request(b"m", ("bomb", value)))
    assert client.answers[1].status == "0"
    reference = client.encoder.encode([("bomb", value)])
    assert len(reference) == 1
    block = reference * (MOST_LIST // len(value) + 1)
    assert len(block) < frames.FRAME_BYTES
    client.send(client.headers(3, block))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("field", [b"\x82", headers.block((b"a", b""))], ids=["of the table", "literal"])
def test_a_header_list_of_many_fields_ends_the_connection(field: bytes) -> None:
    """``hpack``'s decoder takes minutes for 4 MB of literals."""
    client = Client()
    block = client.block() + field * 100_000
    parts = [block[at : at + frames.FRAME_BYTES] for at in range(0, len(block), frames.FRAME_BYTES)]
    client.send(
        client.headers(1, parts[0], 0),
        *[frames.frame(frames.CONTINUATION, 0, 1, part) for part in parts[1:-1]],
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, parts[-1]),
    )
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM


def test_a_number_in_a_header_block_that_goes_on_and_on_ends_the_connection() -> None:
    """CVE-2026-59980 of hpack before 4.2: such a number was read in a time that grows with its length squared."""
    client = Client()
    length = b"\x7f" + b"\x80" * 20 + b"\0"  # 127, in the longest of words
    client.send(client.headers(1, client.block() + b"\0" + length + b"a" * 127 + b"\x01b"))
    assert client.fault == ErrorCode.COMPRESSION_ERROR


FLOODS = {
    "PING": PING,
    "SETTINGS": frames.settings({}),
    "SETTINGS that change something": frames.settings({4: 65_535}),
    "acknowledgements": frames.frame(frames.SETTINGS, 1, 0),
    "PRIORITY": frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x01\x10"),
    "WINDOW_UPDATE": frames.window_update(0, 1),
    "GOAWAY": frames.goaway(0, ErrorCode.NO_ERROR),
    "unknown frames": frames.frame(0x77, 0, 0, b""),
    "RST_STREAM of streams that have ended": frames.reset(1, ErrorCode.CANCEL),
    "empty DATA": frames.frame(frames.DATA, 0, 3),
    "DATA of nothing but padding": frames.frame(frames.DATA, frames.PADDED, 3, b"\x05\0\0\0\0\0"),
    "trailers": frames.frame(frames.HEADERS, 4, 1, b""),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_frames_without_end_that_are_no_calls_end_the_connection(flood: str) -> None:
    client = Client(settings={})
    client.send(client.request(), client.headers(3))
    many = connection.MOST_FRAMES + 3 * connection.FRAMES_A_CALL
    for _ in range(many):
        client.send(FLOODS[flood])
    assert client.fault in {ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("frame", [PING, frames.window_update(0, 1), frames.settings({})])
def test_the_same_frames_spread_over_time_or_among_calls_are_taken(frame: bytes) -> None:
    client = Client()
    for _ in range(3):
        client.send(*[frame] * (connection.MOST_FRAMES - 10))
        client.connection.tick()
    for _ in range(connection.MOST_FRAMES):
        client.send(client.request(), *[frame] * 5, frames.window_update(0, 6))
    assert not client.connection.over


def test_a_message_in_crumbs_ends_the_connection() -> None:
    client = Client()
    client.send(client.headers(1))
    for _ in range(connection.MOST_FRAMES + connection.FRAMES_A_CALL + 1):
        client.send(data(1, b"x", 0))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM


def test_a_window_of_nothing_holds_back_no_more_than_the_streams_that_are_allowed() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    for _ in range(connection.MOST_STREAMS + 5):
        client.send(client.request(b"x" * 100))
    held = sum(len(call.to_send) for call in client.connection._calls.values())
    assert held == connection.MOST_STREAMS * 105
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}), frames.window_update(0, 1 << 20))
    assert not client.connection._calls


def test_windows_that_open_one_octet_at_a_time_end_the_connection() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(client.request(b"x" * 60_000))
    while not client.connection.over:
        client.send(frames.window_update(1, 1))
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.answers[1].data) <= connection.MOST_FRAMES + 2 * connection.FRAMES_A_CALL


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
    while not client.connection.over:
        client.send(LOOKS[looks][sent % len(LOOKS[looks])])
        sent += 1
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM
    assert sent < connection.MOST_FRAMES // 3


def test_of_many_windows_in_one_frame_of_settings_the_last_one_is_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame holds 2,730 of them, and each would change every call."""
    client = Client()
    applied: list[int] = []
    monkeypatch.setattr(client.connection, "_resize", applied.append)
    client.send(frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\0\0\0\4\0\0\0\5" * 1000))
    assert applied == [5]


def test_windows_that_settings_make_too_large_end_the_connection() -> None:
    client = Client(Service(keep=True))
    client.send(client.request(), frames.window_update(1, (1 << 31) - 1 - 65_535))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 65_536}))
    assert client.fault == ErrorCode.FLOW_CONTROL_ERROR


def test_windows_below_nothing_are_waited_out() -> None:
    client = Client(Service(keep=True))
    client.send(client.request(), frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1000}))
    client.service.calls[0].answer(b"a")
    assert client.answers[1].messages == [b"a"]


def test_a_table_that_is_resized_and_evicted_never_gives_another_requests_head() -> None:
    """What is remembered of header blocks holds as long as the table does, and no longer."""
    client = Client()
    paths = [f"/{number}/{'x' * 200}" for number in range(60)]
    for turn in range(3):
        client.encoder.header_table_size = (4096, 300, 4096)[turn]
        for path in paths:
            client.send(client.headers(client.next_stream, client.block(head=(*HEAD[:2], (":path", path), HEAD[3]))))
            client.send(data(client.next_stream - 2, framed(b"a")))
            assert client.service.calls[-1].head.path == path.encode()


def test_who_asks_again_and_again_without_reading_is_answered_no_more() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.service.keep, client.service.max_message_bytes = True, 1000
    client.service.streamed = frozenset({CHECK.encode()})
    client.send(client.headers(1), data(1, framed(b"first"), 0))
    client.service.calls[0].send(b"x" * 10_000)
    client.send(data(1, framed(b"second") * 10, 0))
    assert client.service.served == [b"first"]
    client.send(frames.window_update(1, 20_000))
    assert client.service.served == [b"first", *[b"second"] * 10]
    client.service.calls[0].send(b"x" * 50_000)
    client.send(data(1, framed(b"y" * 900) * 2, 0))
    assert client.answers[1].status == ""
    assert client.connection._calls[1].ending


def half_sent(octets: int) -> Client:
    """Requests of so much that are not ended."""
    client = Client(Service(keep=True))
    part = framed(b"x" * 1_000_000)
    for _ in range(octets // len(part)):
        client.send(client.headers(client.next_stream), data(client.next_stream - 2, part, 0))
    return client


def test_of_requests_that_do_not_end_a_bounded_part_is_kept_and_what_is_left_out_is_too_long() -> None:
    client = half_sent(2 * connection.MOST_KEPT)
    served, most = client.service.served, client.service.max_message_bytes
    calls = list(client.connection._calls.values())
    kept = client.connection._kept
    assert kept == sum(len(part) for call in calls for part in call.parts)
    assert connection.MOST_KEPT < kept <= connection.MOST_KEPT + len(calls) * frames.FRAME_BYTES
    client.send(client.request(b"y" * 1000), client.request(b"y" * 100_000))
    assert served[0] == b"y" * 1000  # what fits into one frame is decided as ever
    assert len(served[1]) > most
    whole = framed(b"y" * 10_000)
    parts = [whole[:0], whole[:3], whole[3:]], [whole[:3], whole[3:5], whole[5:]]
    client.send(
        *[client.headers(901 + 2 * n) + b"".join(data(901 + 2 * n, each, 0) for each in parts[n]) for n in (0, 1)]
    )
    client.send(data(901, b""), data(903, b""))
    assert served[2] == b"y" * 10_000
    assert len(served[3]) > most
    client.send(*[data(call.stream, b"") for call in calls])
    assert {len(each) > most for each in served[4:] if each != b"x" * 1_000_000} == {True}
    assert served.count(b"x" * 1_000_000) == connection.MOST_KEPT // 1_000_005
    assert client.connection._kept == 0
    client.send(client.request(b"y" * 100_000))
    assert served[-1] == b"y" * 100_000


def test_what_is_kept_of_requests_is_let_go_with_them() -> None:
    client = half_sent(10_000_000)
    assert client.connection._kept == 9 * 1_000_005
    client.send(frames.reset(1, ErrorCode.CANCEL), data(3, b""), frames.window_update(5, 0))
    assert client.connection._kept == 6 * 1_000_005
    client.connection.lost()
    assert client.connection._kept == 0


def test_a_streamed_call_for_which_no_room_is_left_is_refused() -> None:
    client = half_sent(2 * connection.MOST_KEPT)
    client.service.streamed = frozenset({CHECK.encode()})
    stream, kept = client.next_stream, client.connection._kept
    client.send(client.headers(stream), data(stream, framed(b"one") + framed(b"two")[:5], 0))
    assert client.connection._kept == kept + 5
    client.send(data(stream, b"two", 0))
    assert client.service.served == [b"one"]
    assert client.answers[stream].status == "12"
    assert client.connection._kept == kept


def test_messages_of_a_streamed_call_without_end_end_the_connection() -> None:
    """One octet of a question may ask for a thousand of an answer, and a read brings thousands of questions."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 30})
    client.service.keep = True
    client.service.streamed = frozenset({CHECK.encode()})
    client.send(client.headers(1), *[data(1, framed(b"") * 3000, 0)] * 2)
    assert client.fault == ErrorCode.ENHANCE_YOUR_CALM
    assert len(client.service.served) <= connection.MOST_FRAMES + connection.FRAMES_A_CALL
