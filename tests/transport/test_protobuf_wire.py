"""The wire format, compared with protobuf's own reader and writer."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.transport import health
from authz_service.transport.health import ServingStatus
from authz_service.transport.protobuf_wire import (
    InvalidMessageError,
    encode_double,
    encode_number,
    encode_string,
    fields,
    number_field,
)

# Of proto3: without groups, which protobuf skips.
FIELDS = st.one_of(
    st.builds(encode_number, st.integers(1, 20), st.integers(0, (1 << 64) - 1)),
    st.builds(encode_string, st.integers(1, 20), st.binary(max_size=300)),
    st.builds(encode_double, st.integers(1, 20), st.floats()),
    st.builds(
        lambda number, value: bytes((number << 3 | 5,)) + value, st.integers(1, 15), st.binary(min_size=4, max_size=4)
    ),
    st.builds(
        lambda number, value: bytes((number << 3 | 1,)) + value, st.integers(1, 15), st.binary(min_size=8, max_size=8)
    ),
)


def outcome(message: bytes) -> str | None:
    """The service that protobuf reads; None if it reads none."""
    try:
        return HealthCheckRequest.FromString(message).service
    except DecodeError:
        return None


@given(st.lists(FIELDS, max_size=5), st.integers(0, 20))
@example([encode_string(1, b"\xff"), encode_string(1, b"a")], 0)
def test_a_message_means_what_it_means_to_protobuf(parts: list[bytes], cut: int) -> None:
    message = b"".join(parts)
    message = message[: len(message) - cut]
    expected = outcome(message)
    if expected is None:
        with pytest.raises(InvalidMessageError):
            health.service_in(message)
    else:
        assert health.service_in(message) == expected


@given(st.binary(max_size=40))
def test_octets_that_mean_something_here_mean_the_same_to_protobuf_or_nothing(octets: bytes) -> None:
    try:
        service = health.service_in(octets)
    except InvalidMessageError:
        return
    assert outcome(octets) in {service, None}


@pytest.mark.parametrize("status", ServingStatus)
def test_a_status_is_read_and_written_as_protobuf_does(status: ServingStatus) -> None:
    assert HealthCheckResponse.FromString(health.response(status)).status == status
    assert health.status_in(HealthCheckResponse(status=int(status)).SerializeToString()) is status


def test_the_statuses_are_the_official_ones() -> None:
    assert dict(HealthCheckResponse.ServingStatus.items()) == {each.name: each.value for each in ServingStatus}


@pytest.mark.parametrize(
    "message", [encode_number(1, 4), encode_number(1, (1 << 64) - 1), b"\x08", b"\x08" + b"\xff" * 10]
)
def test_an_unknown_status_is_invalid(message: bytes) -> None:
    with pytest.raises(InvalidMessageError):
        health.status_in(message)


@pytest.mark.parametrize(
    "message",
    [
        *(b"\x00", b"\x00\x01", b"\x0b", b"\x0c", b"\x0e", b"\x0f"),  # field 0, groups, and types that do not exist
        *(b"\x0a", b"\x0a\x05abcd", b"\x09" + b"a" * 7, b"\x0d" + b"a" * 3),  # cut
        *(b"\xff" * 9 + b"\x01\x00", b"\x80" * 11 + b"\x01", b"\x0a" + b"\xff" * 9 + b"\x01"),  # too large
    ],
)
def test_an_invalid_message_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidMessageError):
        list(fields(message))


def test_a_message_from_a_peer_that_is_longer_than_any_name_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="too long"):
        health.service_in(encode_string(1, b"a" * 4096))


@given(st.integers(1, (1 << 29) - 1), st.integers(0, (1 << 64) - 1), st.binary(max_size=300))
def test_what_is_encoded_is_decoded(number: int, value: int, octets: bytes) -> None:
    message = encode_number(number, value) + encode_string(number, octets)
    assert list(fields(message)) == [(number, value), (number, octets)]
    assert number_field(message, number) == value
