"""Every request is answered with one message and the gRPC status OK, whatever its fields and its body are."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.transport.http2 import frames
from transport.http2.client import CHECK, DENIED, GRPC, HEAD, Client, EchoService, data, framed

Fields = list[tuple[bytes, bytes]]

WELL_FORMED = [(name.encode(), value.encode()) for name, value in (*HEAD, *GRPC)]
NAMES = st.one_of(
    st.sampled_from([b"tracestate", b"baggage", b"traceparent", b"grpc-timeout", b"grpc-encoding", b"content-type"]),
    st.sampled_from([b"content-length", b"te", b"connection", b"transfer-encoding", b"upgrade", b"", b"X-A", b"x a"]),
    st.sampled_from([b":method", b":path", b":scheme", b":authority", b":status", b":protocol", b":", b"host"]),
    st.binary(max_size=20),
    st.just(b"n" * 5000),
)
VALUES = st.one_of(
    st.sampled_from([b"", b" ", b"\t", b" a=b", b"a=b ", b"a\0b", b"a\r\nb: c", b"\x7f\x80\xff", CHECK.encode()]),
    st.sampled_from([b"0", b"5", b"6", b"18446744073709551616", b"0m", b"1S", b"-1S", b"gzip", b"trailers", b"POST"]),
    st.binary(max_size=40),
    st.sampled_from([b"x" * 3000, b"\xff" * 4000, b"y" * 20_000, bytes(range(256)) * 20]),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
BODIES = st.one_of(
    st.binary(max_size=30).map(framed),
    st.binary(max_size=30),
    st.builds(framed, st.binary(max_size=10), st.integers(0, 255)),
    st.just(framed(b"x") * 2),
    st.just(framed(b"x" * 40_000)),
)


def response_to(headers: Fields, body: bytes, trailers: Fields | None, *, huffman: bool, step: int) -> bytes:
    """The message that answers a request. It fails unless that is the only effect of the request."""
    client = Client(EchoService(denied=(CHECK, ""), max_message_bytes=30_000))
    block = client.encoder.encode(headers, huffman=huffman)
    parts = [block[at : at + frames.MAX_FRAME_SIZE] for at in range(0, len(block), frames.MAX_FRAME_SIZE)]
    octets = [frames.frame(frames.CONTINUATION if n else frames.HEADERS, 0, 1, part) for n, part in enumerate(parts)]
    octets.append(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1))
    octets.append(data(1, body, frames.END_STREAM if trailers is None else 0))
    if trailers is not None:
        octets.append(frames.frame(frames.HEADERS, 5, 1, client.encoder.encode(trailers)))
    stream = b"".join(octets)
    for at in range(0, len(stream), step):
        client.send(stream[at : at + step])
    message = client.responses[1]
    assert (message.status, message.ended, len(message.messages)) == ("0", True, 1)
    client.next_stream = 3
    assert client.call(b"next").messages == [b"next"]  # the connection stays open and its dynamic table is right
    assert client.share.used == 0
    return message.messages[0]


@given(FIELDS, st.integers(0, 20), BODIES, st.one_of(st.none(), st.just([(b"x-end", b" ")])), st.booleans())
@example([(b"tracestate", b" ")], 0, framed(b"m"), None, True)  # noqa: FBT003 - whether strings are Huffman code
@example([(b"tracestate", b"z" * 60_000)] * 3, 20, framed(b"m"), None, True)  # noqa: FBT003
@example([(b":path", b"z" * 60_000)], 0, framed(b"m"), None, False)  # noqa: FBT003
def test_a_request_is_answered_whatever_fields_are_added(
    more: Fields,
    place: int,
    body: bytes,
    trailers: Fields | None,
    huffman: bool,  # noqa: FBT001 - hypothesis passes it
) -> None:
    headers = [*WELL_FORMED[:place], *more, *WELL_FORMED[place:]]
    message = response_to(headers, body, trailers, huffman=huffman, step=50_000)
    served = body[5:] if body[:1] == b"\0" and len(body) >= 5 else None
    assert message in {DENIED, served}


@given(st.lists(st.sampled_from(WELL_FORMED), max_size=8), BODIES, st.sampled_from([1, 7, 1000]))
def test_a_request_is_answered_whatever_fields_are_missing_repeated_or_out_of_order(
    headers: Fields, body: bytes, step: int
) -> None:
    if not headers:
        headers = WELL_FORMED
    message = response_to(headers, body, None, huffman=True, step=step)
    pseudo = [name for name, _ in headers if name.startswith(b":")]
    if len(set(pseudo)) < len(pseudo) or not {b":method", b":path", b":scheme"} <= set(pseudo):
        assert message == DENIED


@given(FIELDS.filter(lambda fields: not any(name.startswith(b":") or name == b"content-length" for name, _ in fields)))
def test_unused_fields_change_nothing(more: Fields) -> None:
    short = [(name, value) for name, value in more if len(value) <= 5000]
    assert response_to([*WELL_FORMED, *short], framed(b"m"), None, huffman=True, step=50_000) == b"m"
