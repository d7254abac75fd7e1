"""Durations and sizes with a unit: ``250ms``, ``5m``, ``16KiB``.

A number without a unit is an error, so that its unit is never a guess.
"""

from __future__ import annotations

import re
from typing import Any

from authz_service.config.kinds import Text

# Nine digits suffice for any meaningful duration or size, and cannot overflow to infinity.
_DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NO_DURATION = "not a duration: write a number with a unit, such as 250ms, 30s, 5m or 1h"
_SIZE = r"([0-9]{1,9})(B|KiB|MiB|GiB)"
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NO_SIZE = "not a size: write a whole number with a unit, such as 512B, 16KiB or 1MiB"
_MAX_LEEWAY = 3600.0  # seconds; a larger clock difference needs fixing, not tolerance
_MAX_BYTES = 1 << 30  # gRPC stores its limits in signed 32 bits


def seconds_of(value: Any) -> float:
    """The seconds of a duration.

    Raises:
        ValueError: with what would be right.
    """
    match = re.fullmatch(_DURATION, value) if isinstance(value, str) else None
    if not match:
        raise ValueError(_NO_DURATION)
    return float(match[1]) * _SECONDS[match[2]]


def _positive_duration(value: str) -> float:
    seconds = seconds_of(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0s")
    return seconds


def _leeway(value: str) -> float:
    seconds = seconds_of(value)
    if seconds > _MAX_LEEWAY:
        raise ValueError("must be at most 1h, since it extends the lifetime of every token")
    return seconds


def _size(value: str) -> int:
    match = re.fullmatch(_SIZE, value)
    if not match:
        raise ValueError(_NO_SIZE)
    size = int(match[1]) * _BYTES[match[2]]
    if not 0 < size <= _MAX_BYTES:
        raise ValueError("must be larger than 0B and at most 1GiB")
    return size


_DURATION_KEYWORDS = {"pattern": rf"^{_DURATION}$", "examples": ["250ms", "30s", "5m", "1h"]}
_SIZE_KEYWORDS = {"pattern": rf"^{_SIZE}$", "examples": ["16KiB", "1MiB"]}

DURATION = Text(seconds_of, otherwise=_NO_DURATION, keywords=_DURATION_KEYWORDS)
POSITIVE_DURATION = Text(_positive_duration, otherwise=_NO_DURATION, keywords=_DURATION_KEYWORDS)
LEEWAY = Text(_leeway, otherwise=_NO_DURATION, keywords=_DURATION_KEYWORDS)
SIZE = Text(_size, otherwise=_NO_SIZE, keywords=_SIZE_KEYWORDS)
