"""Divides long work on the event loop into slices, between which requests are answered.

A thread would not help: Python computes in one thread at a time, so after each system call the event loop would wait
until the other thread gives way.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SLICE: Final = 0.0002  # seconds


async def in_slices(pieces: Iterable[str]) -> bytes:
    """All pieces together. Each must take less time to make than a slice."""
    made = []
    slice_end = time.perf_counter() + _MAX_SLICE
    for piece in pieces:
        made.append(piece.encode())
        if time.perf_counter() >= slice_end:
            await asyncio.sleep(0)
            slice_end = time.perf_counter() + _MAX_SLICE
    return b"".join(made)
