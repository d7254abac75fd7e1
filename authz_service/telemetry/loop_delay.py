"""How late the event loop is.

Law: it measures by doing what every request does: wait for its turn. Four looks a second cost nothing, and see within a
minute whatever holds the loop for a noticeable part of the time; what holds it between two looks alone is not seen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL = 0.25  # seconds


async def watch_delay(tell: Callable[[float], None], timer: Callable[[], float]) -> None:
    """Tell for ever how many seconds late the event loop was. ``timer`` gives seconds of a clock that is never set.

    It must not be the loop's own, which stands still while the loop is held.
    """
    while True:
        due = timer() + _INTERVAL
        await asyncio.sleep(_INTERVAL)
        tell(max(0.0, timer() - due))
