"""Measures how late the event loop runs its timers.

It waits for its turn as every request does. Four measurements a second cost nothing and show within a minute whatever
blocks the event loop for a noticeable share of the time. A single short block between two measurements is not seen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL = 0.25  # seconds


async def observe_delay(observe: Callable[[float], None], timer: Callable[[], float]) -> None:
    """Call ``observe`` with each delay, in seconds, until canceled.

    ``timer`` gives seconds of a monotonic clock. It must not be the event loop's own, which stands still while the
    event loop is blocked.
    """
    while True:
        due = timer() + _INTERVAL
        await asyncio.sleep(_INTERVAL)
        observe(max(0.0, timer() - due))
