"""The application of the cluster tests as a process, and the programs that call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PODS = Path(__file__).parent.parent / "cluster" / "pods"
TIMEOUT = 30.0


@dataclass(frozen=True)
class RunningShop:
    """The application, and its address."""

    process: subprocess.Popen[str]
    url: str

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def running_shop(address: str = "127.0.0.1:0") -> Iterator[RunningShop]:
    environment = os.environ | {"LISTEN": address, "HOSTNAME": "shop-1"}
    command = [sys.executable, str(PODS / "shop.py")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = process.stderr.readline().split()[-1]
            yield RunningShop(process, f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def start(program: str, orders: Any) -> subprocess.Popen[str]:
    """A program of the pods, with this JSON on its standard input."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(PODS / program)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(orders))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> list[Any]:
    """What it writes, line by line."""
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    return [json.loads(line) for line in output.splitlines()]
