"""What a worker tells its supervisor: the admin server's private sibling.

Law: the supervisor asks by lines and hears lines, in order: ``metrics`` and ``missing`` are answered by a JSON object
with that one member, ``reload`` by nothing. Answering must not delay a decision. Nobody else can ask, since the socket
is one of a pair that only these two processes hold; so its end is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING

from authz_service.telemetry.merging import taken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.telemetry.metrics import Metrics


_logger = logging.getLogger("authz.admin")


async def answer(
    descriptor: int, *, metrics: Metrics, missing: Callable[[], Sequence[str]], reload: Callable[[], None]
) -> None:
    """Answer on this socket until the supervisor is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        async for line in reader:
            what = line.decode().strip()
            if what == "reload":
                reload()
                continue
            told = await _told(metrics) if what == "metrics" else json.dumps(list(missing()))
            writer.write(f'{{"{what}": {told}}}\n'.encode())
            await writer.drain()


async def _told(metrics: Metrics) -> str:
    try:
        return await asyncio.to_thread(taken, metrics.registry)
    except Exception:
        # Numbers that cannot be read are no reason to stop deciding; the supervisor goes on with those it has.
        _logger.exception("the metrics cannot be told")
        return "null"
