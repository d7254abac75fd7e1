"""Responses: their frames, and when they are dropped."""

from __future__ import annotations

import pytest

from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.grpc_framing import Status
from transport.http2.client import GRPC, HEAD, Client, EchoService, data

OK = "0"


def test_a_response_is_headers_message_and_trailers() -> None:
    response = Client().call(b"hello")
    assert response.headers == [
        {":status": "200", "content-type": "application/grpc"},
        {"grpc-status": OK},
    ]
    assert response.messages == [b"hello"]
    assert response.ended
    assert response.reset is None


def test_requests_received_together_are_answered_with_one_write() -> None:
    client = Client()
    before = client.writes
    client.send(*(client.request(str(number).encode()) for number in range(50)))
    assert client.writes == before + 1
    assert [client.responses[stream_id].messages for stream_id in range(1, 100, 2)] == [
        [str(n).encode()] for n in range(50)
    ]


def test_a_response_may_have_several_messages() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    (stream,) = client.service.streams
    stream.send(b"one")
    stream.send(b"two")
    assert (client.responses[1].messages, client.responses[1].ended) == ([b"one", b"two"], False)
    stream.refuse(Status.UNAVAILABLE, "over")
    assert (client.responses[1].status, client.responses[1].ended) == ("14", True)


def test_a_response_after_the_end_or_after_a_cancellation_is_dropped() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), client.request())
    first, second = client.service.streams
    first.answer(b"once")
    cancelled: list[int] = []
    second.on_cancel = lambda: cancelled.append(1)
    client.send(frames.rst_stream(3, ErrorCode.CANCEL))
    assert cancelled == [1]
    for stream in (first, second):
        assert not stream.open
        stream.answer(b"again")
        stream.send(b"again")
        stream.refuse(Status.INTERNAL, "again")
    assert client.responses[1].messages == [b"once"]
    assert 3 not in client.responses
    assert not client.connection._streams.open


def test_grpc_message_is_percent_encoded() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.service.streams[0].refuse(Status.UNAVAILABLE, "50 % café\n")
    assert client.responses[1].headers[0]["grpc-message"] == "50 %25 caf%C3%A9%0A"


@pytest.mark.parametrize(
    ("head", "plain", "status"),
    [
        (HEAD, (("content-type", "text/plain"),), "415"),
        (HEAD, (), "415"),
        (HEAD, (("content-type", "application/grpcx"),), "415"),
        (((":method", "GET"), *HEAD[1:]), GRPC, "405"),
    ],
)
def test_a_request_that_is_not_grpc_gets_an_http_status(
    head: tuple[tuple[str, str], ...], plain: tuple[tuple[str, str], ...], status: str
) -> None:
    client = Client()
    client.send(client.headers(1, client.block(head=head, plain=plain)), data(1, b"hello"))
    assert client.responses[1].headers == [{":status": status}]
    assert client.responses[1].ended
    assert client.call().status == OK
