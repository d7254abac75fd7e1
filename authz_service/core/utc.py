"""Writes times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(seconds: float, otherwise: str) -> str:
    """A time since the epoch in ISO 8601, in whole seconds; ``otherwise`` for one that no calendar has."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return otherwise
