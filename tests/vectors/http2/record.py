"""Records what a client says on a connection: ``record.py PORT TARGET_PORT FILE`` stands between the two."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def main(port: int, target: int, file: Path) -> None:
    """Relay one connection, and write down what comes from the client."""
    ended = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        said = bytearray()

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray | None) -> None:
            while octets := await source.read(65_536):
                if kept is not None:
                    kept += octets
                sink.write(octets)
            sink.close()

        await asyncio.gather(copy(reader, back, said), copy(there, writer, None), return_exceptions=True)
        file.write_bytes(said)  # noqa: ASYNC240 - once, at the end
        ended.set()

    async with await asyncio.start_server(relay, "127.0.0.1", port):
        await ended.wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
