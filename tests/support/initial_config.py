"""What ``authz-service init`` writes for a real provider."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long


async def _program(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "authz_service", *arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), _HANG_TIMEOUT)
    return process.returncode or 0, out.decode()


async def assert_init_writes_a_configuration_for(
    issuer: str, audience: str, folder: Path, *, good: str, bad: str
) -> None:
    """The file is valid; with it, the access token ``good`` is accepted and the ID token ``bad`` is not."""
    config, token = folder / "config.yaml", folder / "token"
    assert (await _program("init", "--issuer", issuer, "--audience", audience, "--output", str(config)))[0] == 0
    assert await _program("check-config", str(config)) == (0, f"{config}: valid\n")
    request = ["--config", str(config), "--url", "https://api.example/x", "--token-file", str(token)]
    for content, status, reason in ((good, 0, "allow, ok"), (bad, 1, "id_token")):
        token.write_text(content)
        exited, shown = await _program("explain", *request)
        assert exited == status, shown
        assert reason in shown
