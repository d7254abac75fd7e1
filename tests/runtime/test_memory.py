"""What the processes take of memory when they are ready, and after scrapes, decisions and restarts.

The bounds are generous: on the machines that are known, a sidecar takes 45 MiB, of which 25 are its own, and the
supervisor takes 17. A library that is imported by mistake takes more than the difference.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from transport.wire import AUDIENCE, ISSUER, check_request, read, signed

from authz_service.transport.services import SERVICE
from support.key_source import jwks
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess, wait_until, workers
from support.uncovered import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SIDECAR = 60  # MiB resident
MAX_SIDECAR_ANONYMOUS = 38  # MiB
MAX_SUPERVISOR = 22  # MiB resident


def mebibytes(pid: int, kind: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (size,) = [line.split()[1] for line in lines if line.startswith(f"{kind}:")]
    return int(size) / 1024


def sidecar(folder: Path, count: int) -> SidecarProcess:
    (folder / "jwks.json").write_bytes(jwks("a"))
    server = {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0", "workers": count}
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks_file": "jwks.json"}}
    file = folder / "config.yaml"
    file.write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [{"name": "all"}]}))
    return SidecarProcess(file, folder / "log", program=(*PYTHON, "-m", "authz_service"))


async def decide(folder: Path, times: int) -> None:
    async with grpc.aio.insecure_channel(f"unix:{folder / 's'}") as channel:
        call: Callable[..., Any] = channel.unary_unary(f"/{SERVICE}/Check")
        for _ in range(times):
            data = check_request(token=signed("a", now=time.time()))
            assert read(await call(data, timeout=HANG_TIMEOUT)).reason == "ok"


async def test_a_sidecar_is_small_when_it_is_ready_and_after_scrapes_and_decisions(tmp_path: Path) -> None:
    async with sidecar(tmp_path, 1) as running:
        assert running.process is not None
        for use in (None, "/metrics", "decisions"):
            if use == "decisions":
                await decide(tmp_path, 200)
            elif use is not None:
                await running.get(use)
            assert mebibytes(running.process.pid, "Rss") < MAX_SIDECAR
            assert mebibytes(running.process.pid, "Anonymous") < MAX_SIDECAR_ANONYMOUS


async def test_the_supervisor_is_small_after_scrapes_and_restarts_and_a_worker_is_as_small_as_a_sidecar(
    tmp_path: Path,
) -> None:
    async with sidecar(tmp_path, 2) as running:
        assert running.process is not None
        supervisor = running.process.pid
        await decide(tmp_path, 20)
        for restarts in range(3):
            for _ in range(10):
                await running.get("/metrics")
            assert mebibytes(supervisor, "Rss") < MAX_SUPERVISOR
            for pid in workers(supervisor):
                assert mebibytes(pid, "Rss") < MAX_SIDECAR
            os.kill(workers(supervisor)[0], signal.SIGKILL)
            await wait_until(lambda ended=restarts + 1: len(running.records("worker ended unexpectedly")) == ended)  # type: ignore[misc]
            await running.ready()
