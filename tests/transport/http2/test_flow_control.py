"""Both sides respect the windows of streams and of the connection."""

from __future__ import annotations

from authz_service.transport.http2 import flow_control, frames
from authz_service.transport.http2.frames import ErrorCode
from transport.http2.client import Client, EchoService, data, framed


def test_a_response_respects_the_window_of_its_stream() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 10})
    client.send(client.request(b"x" * 100))
    response = client.responses[1]
    assert (len(response.data), response.ended) == (10, False)
    client.send(frames.window_update(1, 1))
    assert len(response.data) == 11
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 20}))
    assert len(response.data) == 21
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}), frames.window_update(1, 20))
    assert len(response.data) == 21
    client.send(frames.window_update(1, 1000))
    assert (response.messages, response.ended) == ([b"x" * 100], True)


def test_the_window_of_the_connection_limits_all_streams_together() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 20})
    client.send(client.request(b"a" * 65_000), client.request(b"b" * 1000), client.request(b""))
    assert [len(client.responses[stream_id].data) for stream_id in (1, 3)] == [65_005, 530]
    client.send(frames.window_update(0, 1000))
    assert [client.responses[stream_id].ended for stream_id in (1, 3, 5)] == [True, True, True]


def test_a_long_response_is_split_into_frames_of_the_maximum_size() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 20})
    client.send(frames.window_update(0, 1 << 20), client.request(b"x" * 100_000))
    sizes = [len(payload) for kind, _, stream_id, payload in client.frames if (kind, stream_id) == (frames.DATA, 1)]
    assert max(sizes) == frames.MAX_FRAME_SIZE
    assert client.responses[1].messages == [b"x" * 100_000]


def test_the_window_of_a_long_request_is_replenished() -> None:
    client = Client(EchoService(max_message_bytes=5 << 20), settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 8 << 20})
    client.send(frames.window_update(0, 8 << 20), client.headers(1))
    payload, window, at = framed(b"x" * (4 << 20)), flow_control.STREAM_WINDOW, 0
    while at < len(payload):
        chunk = payload[at : at + min(frames.MAX_FRAME_SIZE, window)]
        at += len(chunk)
        window -= len(chunk)
        before = len(client.frames)
        client.send(data(1, chunk, 0))
        window += sum(
            int.from_bytes(each, "big")
            for kind, _, stream_id, each in client.frames[before:]
            if (kind, stream_id) == (frames.WINDOW_UPDATE, 1)
        )
    client.send(data(1, b""))
    assert len(client.responses[1].messages[0]) == 4 << 20


def test_exceeding_a_window_is_a_flow_control_error() -> None:
    client = Client()
    client.send(client.headers(1))
    for _ in range(flow_control.STREAM_WINDOW // frames.MAX_FRAME_SIZE // 2 - 1):
        client.send(data(1, b"x" * frames.MAX_FRAME_SIZE, 0))
    client.connection._streams.open[1].receive_window = 5
    client.send(data(1, b"123456", 0))
    assert client.responses[1].reset == ErrorCode.FLOW_CONTROL_ERROR
    client.connection._flow_control.receive_window = 5
    client.send(client.headers(3), data(3, b"123456", 0))
    assert client.error_code == ErrorCode.FLOW_CONTROL_ERROR
