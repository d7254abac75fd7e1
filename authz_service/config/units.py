"""Durations and sizes with a unit: ``250ms``, ``5m``, ``16KiB``.

A number without a unit is an error, so that its unit is never a guess.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

# Nine digits suffice for any meaningful duration or size, and cannot overflow to infinity.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_LEEWAY = 3600.0  # seconds; a larger clock difference needs fixing, not tolerance
_MAX_BYTES = 1 << 30  # gRPC stores its limits in signed 32 bits


def seconds_of(value: Any) -> float:
    """The seconds of a duration.

    Raises:
        ValueError: with what would be right.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("not a duration: write a number with a unit, such as 250ms, 30s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def _positive_duration(value: Any) -> float:
    seconds = seconds_of(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0s")
    return seconds


def _leeway(value: Any) -> float:
    seconds = seconds_of(value)
    if seconds > _MAX_LEEWAY:
        raise ValueError("must be at most 1h, since it extends the lifetime of every token")
    return seconds


def _size(value: Any) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("not a size: write a whole number with a unit, such as 512B, 16KiB or 1MiB")
    size = int(match[1]) * _BYTES[match[2]]
    if not 0 < size <= _MAX_BYTES:
        raise ValueError("must be larger than 0B and at most 1GiB")
    return size


_DURATION_SCHEMA = {"type": "string", "pattern": rf"^{_DURATION.pattern}$", "examples": ["250ms", "30s", "5m", "1h"]}
_SIZE_SCHEMA = {"type": "string", "pattern": rf"^{_SIZE.pattern}$", "examples": ["16KiB", "1MiB"]}

Duration = Annotated[float, BeforeValidator(seconds_of), WithJsonSchema(_DURATION_SCHEMA)]
PositiveDuration = Annotated[float, BeforeValidator(_positive_duration), WithJsonSchema(_DURATION_SCHEMA)]
Leeway = Annotated[float, BeforeValidator(_leeway), WithJsonSchema(_DURATION_SCHEMA)]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]


def as_written(value: object) -> Any:
    """A default in the form that the file uses; it is validated like a value from the file."""
    return value


def list_as_written(*texts: str) -> Any:
    """As ``as_written``, for a list."""
    return texts
