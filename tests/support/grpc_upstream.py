"""A gRPC server of a test on a free port of loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc


@asynccontextmanager
async def listening(server: grpc.aio.Server) -> AsyncIterator[int]:
    """The port of this server, which runs until the end of the block."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
