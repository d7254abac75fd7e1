"""Properties of a connection: a well-behaved client gets the right responses, and no octets break the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hpack
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz_service.transport.http2 import frames, limits, timeouts
from authz_service.transport.http2.compression import Decoder, FieldBlock
from authz_service.transport.http2.connection import Http2Connection
from authz_service.transport.http2.fields import Field
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError
from authz_service.transport.http2.headers import HeadersReader, RequestHeaders, _headers_from, _used_fields
from authz_service.transport.http2.memory import Memory, Share
from transport.http2.client import GRPC, HEAD, Client, EchoService, data, framed

RECORDED = sorted((Path(__file__).parents[2] / "vectors" / "http2").glob("*.bin"))


# Field blocks.


def steps() -> st.SearchStrategy[list[Any]]:
    """Requests to encode, earlier field blocks to repeat, and sizes of the dynamic table."""
    values = st.sampled_from(["a", "b", "x" * 100, "y" * 1500, "1S", "2S"])
    names = st.sampled_from(["grpc-timeout", "x-a", "x-b", "traceparent"])
    return st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.lists(st.tuples(names, values), max_size=4)),
            st.tuples(st.just("again"), st.integers(0, 20)),
            st.tuples(st.just("resize"), st.sampled_from([0, 100, 1000, 4096])),
        ),
        max_size=40,
    )


@given(steps())
def test_cached_results_are_what_decoding_gives(steps: list[Any]) -> None:
    encoder, reference, reader = hpack.Encoder(), hpack.Decoder(), HeadersReader()
    sent: list[bytes] = []
    for step, argument in steps:
        if step == "resize":
            encoder.header_table_size = argument
            continue
        if step == "send":
            sent.append(encoder.encode([*HEAD, *GRPC, *argument]))
        elif not sent:
            continue
        block = sent[argument % len(sent)] if step == "again" else sent[-1]
        expected, actual = decode_with_hpack(reference, block), read_block(reader, block)
        assert actual == expected
        if expected == "connection":
            return


def decode_with_hpack(decoder: hpack.Decoder, block: bytes) -> RequestHeaders | str:
    try:
        fields: Any = list(decoder.decode(block, raw=True))
    except hpack.HPACKError:
        return "connection"
    decoded = FieldBlock(Decoder())
    decoded.fields = [Field(*field) for field in fields]
    used, traceparents = _used_fields(decoded)
    sent = traceparents[0].value if len(traceparents) == 1 else b""
    return _headers_from(used).with_traceparent((sent or b"").decode("latin-1"))


def read_block(reader: HeadersReader, block: bytes) -> RequestHeaders | str:
    try:
        return reader.read(block)
    except Http2ConnectionError:
        return "connection"


# A well-behaved client.


class WellBehavedClient(RuleBasedStateMachine):
    """Each request is answered once, with its own message; windows are respected; nothing is left behind."""

    @initialize(window=st.sampled_from([0, 1, 50, 65_535, 1 << 20]), manual=st.booleans())
    def begin(self, window: int, *, manual: bool) -> None:
        self.service = EchoService(manual=manual)
        self.client = Client(self.service, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: window})
        self.unfinished: dict[int, bytes] = {}  # requests that have not ended
        self.messages: dict[int, bytes] = {}
        self.cancelled: set[int] = set()
        self.window, self.widened = 65_535, {}  # type: ignore[var-annotated]
        self.initial, self.ticks = window, 0
        self.pending = b""

    def send(self, octets: bytes, cut: int) -> None:
        """Send all but the last ``cut`` octets, which go out with the next ones."""
        octets = self.pending + octets
        self.pending = octets[len(octets) - cut :] if cut < len(octets) else octets
        self.client.send(octets[: len(octets) - len(self.pending)])

    def send_all(self) -> None:
        pending, self.pending = self.pending, b""
        self.client.send(pending)

    cuts = st.sampled_from([0, 0, 0, 1, 5, 12, 40])

    @rule(size=st.sampled_from([0, 1, 30, 70_000]), cut=cuts, more=st.sampled_from([(), (("x-a", "b"),)]))
    def request(self, size: int, cut: int, more: tuple[tuple[str, str], ...]) -> None:
        stream_id = self.client.next_stream
        message = bytes((stream_id & 0xFF,)) * size
        self.messages[stream_id] = message
        self.send(self.client.request(message, *more), cut)

    @rule(cut=cuts)
    def open_stream(self, cut: int) -> None:
        stream_id = self.client.next_stream
        self.unfinished[stream_id] = b"opened %d" % stream_id
        self.send(self.client.headers(stream_id), cut)

    @precondition(lambda self: self.unfinished)
    @rule(cut=cuts, trailers=st.booleans())
    def end_request(self, cut: int, *, trailers: bool) -> None:
        stream_id, message = self.unfinished.popitem()
        self.messages[stream_id] = message
        ending = (
            data(stream_id, framed(message), 0)
            + frames.frame(frames.HEADERS, 5, stream_id, self.client.encoder.encode([("x-end", "1")]))
            if trailers
            else data(stream_id, framed(message))
        )
        self.send(ending, cut)

    @precondition(lambda self: self.service.streams)
    @rule(index=st.integers(0, 100))
    def answer(self, index: int) -> None:
        stream = self.service.streams.pop(index % len(self.service.streams))
        stream.answer(self.messages[stream.stream_id])

    @precondition(lambda self: self.messages)
    @rule(index=st.integers(0, 100), cut=cuts)
    def cancel(self, index: int, cut: int) -> None:
        stream_id = list(self.messages)[index % len(self.messages)]
        if len(self.cancelled) < 50:
            self.cancelled.add(stream_id)
            self.send(frames.rst_stream(stream_id, ErrorCode.CANCEL), cut)

    @rule(by=st.sampled_from([1, 100, 70_000]), cut=cuts)
    def widen_connection(self, by: int, cut: int) -> None:
        self.window += by
        self.send(frames.window_update(0, by), cut)

    @precondition(lambda self: self.messages)
    @rule(by=st.sampled_from([1, 100, 70_000]), index=st.integers(0, 100), cut=cuts)
    def widen_stream(self, by: int, index: int, cut: int) -> None:
        stream_id = list(self.messages)[index % len(self.messages)]
        self.widened[stream_id] = self.widened.get(stream_id, 0) + by
        self.send(frames.window_update(stream_id, by), cut)

    @rule(cut=cuts)
    def ping(self, cut: int) -> None:
        self.send(frames.frame(frames.PING, 0, 0, b"12345678"), cut)

    @precondition(lambda self: self.ticks < timeouts.REQUEST_TIMEOUT)
    @rule()
    def tick(self) -> None:
        self.ticks += 1
        self.send_all()
        self.client.send(frames.frame(frames.PING, frames.ACK, 0, b"alive?\0\0"))
        self.client.connection.tick()

    @invariant()
    def responses_are_right(self) -> None:
        if not hasattr(self, "client"):
            return
        assert not self.client.connection.closed
        total = 0
        for stream_id, response in self.client.responses.items():
            total += len(response.data)
            if not stream_id:
                continue
            assert len(response.data) <= self.initial + self.widened.get(stream_id, 0)
            assert response.reset is None
            if response.ended:
                assert (response.status, response.messages) == ("0", [self.messages[stream_id]])
        assert total <= self.window
        open_streams = self.client.connection._streams.open.values()
        counted = sum(len(stream.body) + len(stream.send_buffer) for stream in open_streams)
        counted_streams = max(len(open_streams) - limits.UNCOUNTED_STREAMS, 0)
        assert self.client.share.used == counted + counted_streams * limits.STREAM_OCTETS

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        self.send_all()
        for stream_id in list(self.unfinished):
            self.messages[stream_id] = self.unfinished.pop(stream_id)
            self.client.send(data(stream_id, framed(self.messages[stream_id])))
        for stream in self.service.streams:
            stream.answer(self.messages[stream.stream_id])
        self.client.send(
            frames.window_update(0, 1 << 29), frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 29})
        )
        for stream_id, message in self.messages.items():
            response = self.client.responses.get(stream_id)
            assert stream_id in self.cancelled or (response and response.ended and response.messages == [message])
        assert not self.client.connection._streams.open
        assert not self.client.connection._streams.blocked
        assert self.client.share.used == 0


TestWellBehavedClient = WellBehavedClient.TestCase


# Any other peer.


def connection_after(octets: bytes, cuts: list[int]) -> tuple[Http2Connection, EchoService, bytes]:
    """A connection that received these octets in these pieces, its service, and what it sent."""
    service, sent = EchoService(), bytearray()
    connection = Http2Connection(service, Share(Memory()), lambda: None, lambda *_: None, lambda: None)
    connection.start(sent.extend)
    at = 0
    for cut in cuts:
        connection.receive(octets[at : at + cut])
        at += cut
    connection.receive(octets[at:])
    while connection.paused and not connection.closed:
        connection.resume()
    return connection, service, bytes(sent)


def test_recorded_connections_are_served() -> None:
    assert [path.name for path in RECORDED] == [
        "envoy.bin",
        "envoy_odd.bin",
        "envoy_traced.bin",
        "grpcio.bin",
        "h2load.bin",
    ]
    for path in RECORDED:
        connection, service, _ = connection_after(path.read_bytes(), [])
        assert service.served
        assert not connection.closed


@given(st.sampled_from(RECORDED), st.data())
def test_modified_recordings_end_in_responses_or_in_a_goaway(path: Path, draw: st.DataObject) -> None:
    octets = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        index = draw.draw(st.integers(0, len(octets) - 1))
        match draw.draw(st.sampled_from(["flip", "cut", "repeat", "insert"])):
            case "flip":
                octets[index] ^= 1 << draw.draw(st.integers(0, 7))
            case "cut":
                del octets[index : index + draw.draw(st.integers(1, 40))]
            case "repeat":
                octets[index:index] = octets[index : index + draw.draw(st.integers(1, 200))]
            case "insert":
                octets[index:index] = draw.draw(st.binary(max_size=30))
        if not octets:
            return
    connection, service, sent = connection_after(bytes(octets), draw.draw(st.lists(st.integers(0, 100), max_size=5)))
    assert all(message in octets for message in service.served if len(message) < frames.MAX_FRAME_SIZE)
    if connection.closed:
        assert not connection._streams.open
        assert frames.GOAWAY in frame_types(sent)
    assert len(connection._streams.open) <= limits.MAX_CONCURRENT_STREAMS


@given(st.binary(max_size=300), st.lists(st.integers(0, 50), max_size=5))
def test_any_octets_after_the_preface_end_in_responses_or_in_a_goaway(octets: bytes, cuts: list[int]) -> None:
    connection, _, sent = connection_after(frames.PREFACE + frames.settings({}) + octets, cuts)
    assert not connection.closed or frame_types(sent)[-1] == frames.GOAWAY


def frame_types(octets: bytes) -> list[int]:
    """The types of the frames."""
    found, at = [], 0
    while at < len(octets):
        high, low, kind, *_ = frames.HEADER.unpack_from(octets, at)
        at += frames.HEADER_BYTES + (high << 16 | low)
        found.append(kind)
    assert at == len(octets)
    return found
