"""What `helm test` runs, as the test pod runs it: a script that is given to Python, and nothing else."""

from __future__ import annotations

import asyncio
import sys

from generate import CHART


async def request(*arguments: str) -> tuple[int, str]:
    """Its exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHART / "files" / "request.py"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
