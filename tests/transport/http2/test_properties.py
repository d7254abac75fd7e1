"""Whatever a peer sends, in whatever pieces: what comes of it is what was meant, or the end of its connection."""

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


# Header blocks.


def steps() -> st.SearchStrategy[list[Any]]:
    """Requests to encode, the octets of earlier ones to send again, and sizes to give to the table."""
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
def test_a_block_that_is_recognised_says_what_decoding_it_would_say(steps: list[Any]) -> None:
    encoder, reference, blocks = hpack.Encoder(), hpack.Decoder(), HeadersReader()
    sent: list[bytes] = []
    for what, argument in steps:
        if what == "resize":
            encoder.header_table_size = argument
            continue
        if what == "send":
            sent.append(encoder.encode([*HEAD, *GRPC, *argument]))
        elif not sent:
            continue
        block = sent[argument % len(sent)] if what == "again" else sent[-1]
        wanted, ours = decoded(reference, block), recognised(blocks, block)
        assert ours == wanted
        if wanted == "connection":
            return


def decoded(decoder: hpack.Decoder, block: bytes) -> RequestHeaders | str:
    try:
        fields: Any = list(decoder.decode(block, raw=True))
    except hpack.HPACKError:
        return "connection"
    read = FieldBlock(Decoder())
    read.fields = [Field(*field) for field in fields]
    return _headers_from(_used_fields(read))


def recognised(blocks: HeadersReader, block: bytes) -> RequestHeaders | str:
    try:
        return blocks.read(block)
    except Http2ConnectionError:
        return "connection"


# A client that keeps to the rules, in any order and any pieces.


class Correct(RuleBasedStateMachine):
    """Each call that is made is answered once, with its own message; windows are kept; nothing is left behind."""

    @initialize(window=st.sampled_from([0, 1, 50, 65_535, 1 << 20]), manual=st.booleans())
    def begin(self, window: int, *, manual: bool) -> None:
        self.service = EchoService(manual=manual)
        self.client = Client(self.service, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: window})
        self.begun: dict[int, bytes] = {}  # whose request has not ended
        self.asked: dict[int, bytes] = {}
        self.taken_back: set[int] = set()
        self.window, self.opened = 65_535, {}  # type: ignore[var-annotated]
        self.initial, self.ticks = window, 0
        self.pending = b""

    def send(self, octets: bytes, cut: int) -> None:
        """Some of it now, the rest with what comes next."""
        octets = self.pending + octets
        self.pending = octets[len(octets) - cut :] if cut < len(octets) else octets
        self.client.send(octets[: len(octets) - len(self.pending)])

    def send_all(self) -> None:
        pending, self.pending = self.pending, b""
        self.client.send(pending)

    cuts = st.sampled_from([0, 0, 0, 1, 5, 12, 40])

    @rule(size=st.sampled_from([0, 1, 30, 70_000]), cut=cuts, more=st.sampled_from([(), (("x-a", "b"),)]))
    def call(self, size: int, cut: int, more: tuple[tuple[str, str], ...]) -> None:
        stream = self.client.next_stream
        message = bytes((stream & 0xFF,)) * size
        self.asked[stream] = message
        self.send(self.client.request(message, *more), cut)

    @rule(cut=cuts)
    def begin_a_call(self, cut: int) -> None:
        stream = self.client.next_stream
        self.begun[stream] = b"begun %d" % stream
        self.send(self.client.headers(stream), cut)

    @precondition(lambda self: self.begun)
    @rule(cut=cuts, trailers=st.booleans())
    def end_a_call(self, cut: int, *, trailers: bool) -> None:
        stream, message = self.begun.popitem()
        self.asked[stream] = message
        ending = (
            data(stream, framed(message), 0)
            + frames.frame(frames.HEADERS, 5, stream, self.client.encoder.encode([("x-end", "1")]))
            if trailers
            else data(stream, framed(message))
        )
        self.send(ending, cut)

    @precondition(lambda self: self.service.streams)
    @rule(place=st.integers(0, 100))
    def answer(self, place: int) -> None:
        call = self.service.streams.pop(place % len(self.service.streams))
        call.answer(self.asked[call.stream_id])

    @precondition(lambda self: self.asked)
    @rule(place=st.integers(0, 100), cut=cuts)
    def take_back(self, place: int, cut: int) -> None:
        stream = list(self.asked)[place % len(self.asked)]
        if len(self.taken_back) < 50:
            self.taken_back.add(stream)
            self.send(frames.rst_stream(stream, ErrorCode.CANCEL), cut)

    @rule(by=st.sampled_from([1, 100, 70_000]), cut=cuts)
    def open_the_connection(self, by: int, cut: int) -> None:
        self.window += by
        self.send(frames.window_update(0, by), cut)

    @precondition(lambda self: self.asked)
    @rule(by=st.sampled_from([1, 100, 70_000]), place=st.integers(0, 100), cut=cuts)
    def open_a_stream(self, by: int, place: int, cut: int) -> None:
        stream = list(self.asked)[place % len(self.asked)]
        self.opened[stream] = self.opened.get(stream, 0) + by
        self.send(frames.window_update(stream, by), cut)

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
    def what_was_answered_is_right(self) -> None:
        if not hasattr(self, "client"):
            return
        assert not self.client.connection.closed
        total = 0
        for stream, answer in self.client.responses.items():
            total += len(answer.data)
            if not stream:
                continue
            assert len(answer.data) <= self.initial + self.opened.get(stream, 0)
            assert answer.reset is None
            if answer.ended:
                assert (answer.status, answer.messages) == ("0", [self.asked[stream]])
        assert total <= self.window
        calls = self.client.connection._streams.open.values()
        counted = sum(len(call.body) + len(call.send_buffer) for call in calls)
        streams = max(len(calls) - limits.UNCOUNTED_STREAMS, 0)
        assert self.client.share.used == counted + streams * limits.STREAM_OCTETS

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        self.send_all()
        for stream in list(self.begun):
            self.asked[stream] = self.begun.pop(stream)
            self.client.send(data(stream, framed(self.asked[stream])))
        for call in self.service.streams:
            call.answer(self.asked[call.stream_id])
        self.client.send(
            frames.window_update(0, 1 << 29), frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 29})
        )
        for stream, message in self.asked.items():
            answer = self.client.responses.get(stream)
            assert stream in self.taken_back or (answer and answer.ended and answer.messages == [message])
        assert not self.client.connection._streams.open
        assert not self.client.connection._streams.blocked
        assert self.client.share.used == 0


TestCorrect = Correct.TestCase


# A client that does not.


def fed(octets: bytes, cuts: list[int]) -> tuple[Http2Connection, EchoService, bytes]:
    """A connection that was sent this in these pieces, and what it said."""
    service, said = EchoService(), bytearray()
    each = Http2Connection(service, Share(Memory()), lambda *_: None, lambda: None)
    each.start(said.extend)
    at = 0
    for cut in cuts:
        each.receive(octets[at : at + cut])
        at += cut
    each.receive(octets[at:])
    while each.paused and not each.closed:
        each.resume()
    return each, service, bytes(said)


def test_what_was_recorded_is_served() -> None:
    assert [path.name for path in RECORDED] == [
        "envoy.bin",
        "envoy_odd.bin",
        "envoy_traced.bin",
        "grpcio.bin",
        "h2load.bin",
    ]
    for path in RECORDED:
        each, service, _ = fed(path.read_bytes(), [])
        assert service.served
        assert not each.closed


@given(st.sampled_from(RECORDED), st.data())
def test_recorded_conversations_with_changes_end_in_answers_or_in_a_goaway(path: Path, draw: st.DataObject) -> None:
    octets = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(octets) - 1))
        match draw.draw(st.sampled_from(["flip", "cut", "double", "insert"])):
            case "flip":
                octets[place] ^= 1 << draw.draw(st.integers(0, 7))
            case "cut":
                del octets[place : place + draw.draw(st.integers(1, 40))]
            case "double":
                octets[place:place] = octets[place : place + draw.draw(st.integers(1, 200))]
            case "insert":
                octets[place:place] = draw.draw(st.binary(max_size=30))
        if not octets:
            return
    each, service, said = fed(bytes(octets), draw.draw(st.lists(st.integers(0, 100), max_size=5)))
    assert all(message in octets for message in service.served if len(message) < frames.MAX_FRAME_SIZE)
    if each.closed:
        assert not each._streams.open
        assert frames.GOAWAY in kinds(said)
    assert len(each._streams.open) <= limits.MAX_CONCURRENT_STREAMS


@given(st.binary(max_size=300), st.lists(st.integers(0, 50), max_size=5))
def test_any_octets_after_the_preface_end_in_answers_or_in_a_goaway(octets: bytes, cuts: list[int]) -> None:
    each, _, said = fed(frames.PREFACE + frames.settings({}) + octets, cuts)
    assert not each.closed or kinds(said)[-1] == frames.GOAWAY


def kinds(octets: bytes) -> list[int]:
    """The types of the frames."""
    found, at = [], 0
    while at < len(octets):
        high, low, kind, *_ = frames.HEADER.unpack_from(octets, at)
        at += frames.HEADER_BYTES + (high << 16 | low)
        found.append(kind)
    assert at == len(octets)
    return found
