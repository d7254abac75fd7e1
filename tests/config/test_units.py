"""Durations and sizes: their notation and their values."""

from __future__ import annotations

import pytest

from authz_service.config.units import DURATION, POSITIVE_DURATION, SIZE


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("250ms", 0.25), ("30s", 30.0), ("1.5s", 1.5), ("5m", 300.0), ("24h", 86400.0), ("0.5h", 1800.0)],
)
def test_a_duration_is_a_number_with_a_unit_and_becomes_seconds(text: str, seconds: float) -> None:
    assert DURATION.read(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "30", 30, 0.5, True, None, "s", "-1s", "+1s", "1 s", " 1s", "1s ", "1S", "1d", "1m30s", ".5s", "1.s", "1e3s",
     "\u0661s", "infs", "9999999999s", ["1s"]],
)  # fmt: skip
def test_anything_but_a_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a duration: write a number with a unit"):
        DURATION.read(value)


@pytest.mark.parametrize("text", ["0s", "0ms", "0.0h"])
def test_a_positive_duration_is_not_zero(text: str) -> None:
    with pytest.raises(ValueError, match="must be longer than 0s"):
        POSITIVE_DURATION.read(text)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("16KiB", 16384), ("1MiB", 1048576), ("1GiB", 1073741824)])
def test_a_size_is_a_whole_number_with_a_unit_and_becomes_bytes(text: str, size: int) -> None:
    assert SIZE.read(text) == size


@pytest.mark.parametrize("value", ["", "16", 16, None, "16KB", "16K", "1kib", "1.5MiB", "-1B", "1 B", "9999999999B"])
def test_anything_but_a_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a size: write a whole number with a unit"):
        SIZE.read(value)


@pytest.mark.parametrize("text", ["0B", "0MiB", "2GiB", "1025MiB"])
def test_a_size_is_positive_and_within_the_limit_of_grpc_messages(text: str) -> None:
    with pytest.raises(ValueError, match="must be larger than 0B and at most 1GiB"):
        SIZE.read(text)
