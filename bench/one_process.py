"""Measures decisions in a process of its own: ``one_process.py CONFIG REQUEST...`` prints JSON.

For each file with a CheckRequest, it prints the microseconds for a decision with its token in the cache, and with an
empty cache. It uses only what earlier versions have too, since ``before`` runs it with them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from authz_service.config.load import load
from authz_service.runtime.application import App

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLS = 2000
_MICRO = 1e6


def _timed(call: Callable[[], object]) -> float:
    """Microseconds of CPU for one call: the best of five runs."""

    def once() -> float:
        started = time.process_time()
        for _ in range(_CALLS):
            call()
        return (time.process_time() - started) / _CALLS * _MICRO

    return min(once() for _ in range(5))


async def _measure(config: Path, requests: list[bytes]) -> list[tuple[float, float]]:
    app = App(load(config))
    await app.active.issuers[0].keys.refresh()

    def first_seen(request: bytes) -> None:
        app.active.token_cache.clear()
        app.servicer.answer(request, 0.2)

    def both(request: bytes) -> tuple[float, float]:
        return _timed(partial(app.servicer.answer, request, 0.2)), _timed(partial(first_seen, request))

    return [both(request) for request in requests]


print(json.dumps(asyncio.run(_measure(Path(sys.argv[1]), [Path(name).read_bytes() for name in sys.argv[2:]]))))
