"""Runs the script of `helm test` as the test pod does."""

from __future__ import annotations

import asyncio
import sys

from generate import CHART


async def request(*arguments: str) -> tuple[int, str]:
    """Its exit status and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHART / "files" / "request.py"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()
