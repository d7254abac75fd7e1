"""Records what a client sends on one connection, as a relay: ``record.py PORT TARGET_PORT FILE``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def main(port: int, target: int, file: Path) -> None:
    """Relay one connection, and write down what comes from the client."""
    ended = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        sent = bytearray()

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, recorded: bytearray | None) -> None:
            while octets := await source.read(65_536):
                if recorded is not None:
                    recorded += octets
                sink.write(octets)
            sink.close()

        await asyncio.gather(copy(reader, back, sent), copy(there, writer, None), return_exceptions=True)
        file.write_bytes(sent)  # noqa: ASYNC240 - once, at the end
        ended.set()

    async with await asyncio.start_server(relay, "127.0.0.1", port):
        await ended.wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
