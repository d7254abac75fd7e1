"""Work on the event loop that takes long is done in slices, and requests are answered in between.

A thread would not help: Python computes in one thread at a time, so every system call of the event loop would wait for
the other thread to give way.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SLICE: Final = 0.0002  # seconds


async def in_slices(pieces: Iterable[str]) -> bytes:
    """All pieces together. To make each must take less time than a slice."""
    made = []
    slice_end = time.perf_counter() + _MAX_SLICE
    for piece in pieces:
        made.append(piece.encode())
        if time.perf_counter() >= slice_end:
            await asyncio.sleep(0)
            slice_end = time.perf_counter() + _MAX_SLICE
    return b"".join(made)
