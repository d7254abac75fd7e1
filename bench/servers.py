"""Part two: an empty handler and the full Check on both transports, called by h2load, each on its own core."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.decision import CALLS, ROUNDS
from bench.load import SERVER_CORE, Load, alternating, h2load, on_core, started
from bench.report import Row
from bench.subject import ADMIN_PORTS, ASYNCIO, EMPTY_PORTS, GRPC_PORTS, GRPCIO, Subject, check_request

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
PYTHON = (sys.executable, "-X", "frozen_modules=on")
CHECK = "/envoy.service.auth.v3.Authorization/Check"
GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
IN_FLIGHT = (1, 16, 64)
_OK = 200


def is_ready(transport: str) -> bool:
    """Whether the sidecar with this transport is ready."""
    return responds(ADMIN_PORTS[transport])


def responds(admin_port: int) -> bool:
    """Whether /readyz is 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=1) as response:
            return bool(response.status == _OK)
    except OSError:  # includes the errors of urllib
        return False


@contextmanager
def running(
    command: list[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A running process, with the seconds until it was ready."""
    process, after = started(command, ready, environment)
    try:
        yield process, after
    finally:
        process.terminate()
        process.wait()


def framed(file: Path, message: bytes) -> Path:
    """Write a gRPC message to a file, as h2load sends it."""
    file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return file


def sidecar(subject: Subject, transport: str) -> list[str]:
    """The command that starts it."""
    config = str(subject.config(transport))
    return on_core(SERVER_CORE, *PYTHON, "-m", "authz_service", "serve", "--config", config)


def transports(subject: Subject) -> list[Row]:
    """Print and return the results."""
    print(f"Direct calls with h2load, one core each (median of {ROUNDS} alternating runs of {CALLS} calls)")
    body = framed(subject.folder / "body", check_request(subject.token()))
    rows: list[Row] = []
    with ExitStack() as stack:
        processes: dict[str, tuple[int, int]] = {}
        for transport in (GRPCIO, ASYNCIO):
            up = subject.folder / f"{transport}-is-listening"
            empty = [*PYTHON, str(HERE / "empty_handler.py"), transport, str(EMPTY_PORTS[transport]), str(up)]
            process, _ = stack.enter_context(running(on_core(SERVER_CORE, *empty), up.exists))
            processes[f"{transport}, empty handler"] = (process.pid, EMPTY_PORTS[transport])
            process, _ = stack.enter_context(running(sidecar(subject, transport), partial(is_ready, transport)))
            processes[f"{transport}, full Check"] = (process.pid, GRPC_PORTS[transport])

        def measure(pid: int, port: int, in_flight: int) -> Load:
            calls = CALLS if in_flight > 1 else CALLS // 4
            url = f"http://127.0.0.1:{port}{CHECK}"
            return h2load([pid], url, calls, in_flight, subject.folder, "-d", str(body), *GRPC_HEADERS)

        for in_flight in IN_FLIGHT:
            measures = {name: partial(measure, *at, in_flight) for name, at in processes.items()}
            for name, loads in alternating(measures, ROUNDS).items():
                rows.append(Row(name, in_flight, loads))
                print(rows[-1])
    return rows
