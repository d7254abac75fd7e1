"""An empty Check on the same servers, to measure the cost of the transport.

``empty_handler.py TRANSPORT PORT FILE`` serves until it is killed, and creates FILE once it listens.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.telemetry.metrics import Metrics
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.codec import encode_response
from authz_service.transport.grpcio_server import GrpcioServer

if TYPE_CHECKING:
    from authz_service.core.decision import Deny

_EMPTY = CheckResponse().SerializeToString()


def _empty(_data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
    return _EMPTY


async def _empty_async(_data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
    return _EMPTY


def _encode_denial(denial: Deny) -> bytes:
    return encode_response(denial, "-")


async def _serve(transport: str, address: str, up: Path) -> None:
    server: AsyncioServer | GrpcioServer
    if transport == "asyncio":
        server = AsyncioServer(
            address, None, _empty, lambda: 1 << 20, refuse=_encode_denial, metrics=Metrics(transport=transport)
        )
    else:
        server = GrpcioServer(address, None, _empty_async, refuse=_encode_denial)
    await server.start()
    up.touch()  # noqa: ASYNC240 - once, before any request
    await asyncio.Event().wait()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(_serve(sys.argv[1], f"127.0.0.1:{sys.argv[2]}", Path(sys.argv[3])))
