"""The worker's end of the channel to the supervisor; ``worker_process`` is the other one.

The supervisor sends requests as lines: ``metrics`` and ``missing`` are replied to by a JSON object with that member, in
order, and ``missing`` with ``also_missing`` beside it; ``reload`` has no reply. Replying must not delay a decision. The
socket is one of a pair that only these two processes hold, so it ends with the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING

from authz_service.telemetry import merged_metrics
from authz_service.telemetry.slices import in_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.telemetry.metrics import Metrics

_logger = logging.getLogger("authz.admin")


async def serve_requests(
    descriptor: int,
    *,
    metrics: Metrics,
    missing: Callable[[], Sequence[str]],
    also_missing: Callable[[], Sequence[str]],
    reload: Callable[[], None],
) -> None:
    """Reply to the requests that arrive on this socket, until the supervisor closes it."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        async for line in reader:
            request = line.decode().strip()
            if request == "reload":
                reload()
                continue
            if request == "metrics":
                reply = b'{"metrics": %b}' % await _encoded_metrics(metrics)
            else:
                reply = json.dumps({"missing": list(missing()), "also_missing": list(also_missing())}).encode()
            writer.write(reply + b"\n")
            await writer.drain()


async def _encoded_metrics(metrics: Metrics) -> bytes:
    try:
        return await in_slices(merged_metrics.encode(metrics.registry.collect()))
    except Exception:
        # Unreadable metrics are no reason to stop deciding; the supervisor keeps the previous ones.
        _logger.exception("metrics could not be collected; the supervisor keeps the previous ones")
        return b"null"
