"""Returns to the system what connections with TLS have freed.

The event loop reserves 256 KiB for each, of which little is used. glibc places the next ones elsewhere, and keeps every
page that was ever used: a few thousand handshakes that never ended left 370 MB.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def trim_function() -> Callable[[int], Any] | None:
    """The C library's ``malloc_trim``, which only glibc has. It takes about 0.1 ms for each MB that it returns."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - only TLS needs it

    trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
