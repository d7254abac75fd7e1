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
from bench.load import SERVER_CORE, Load, alternating, h2load, memory, on_core, started
from bench.report import Footprint, Row
from bench.subject import ADMIN_PORTS, ASYNCIO, EMPTY_PORTS, GRPC_PORTS, GRPCIO, Subject, check_request

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
PYTHON = (sys.executable, "-X", "frozen_modules=on")
CHECK = "/envoy.service.auth.v3.Authorization/Check"
IN_FLIGHT = (1, 16, 64)
_OK = 200


def is_ready(transport: str) -> bool:
    """Whether /readyz is 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORTS[transport]}/readyz", timeout=1) as response:
            return bool(response.status == _OK)
    except OSError:  # includes the errors of urllib
        return False


@contextmanager
def running(command: list[str], ready: Callable[[], bool]) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A running process, with the seconds until it was ready."""
    process, after = started(command, ready)
    try:
        yield process, after
    finally:
        process.terminate()
        process.wait()


def sidecar(subject: Subject, transport: str) -> list[str]:
    """The command that starts it."""
    config = str(subject.config(transport))
    return on_core(SERVER_CORE, *PYTHON, "-m", "authz_service", "serve", "--config", config)


def transports(subject: Subject) -> tuple[list[Row], list[Footprint]]:
    """Print and return the results, and the footprint of a sidecar."""
    print(f"Direct calls with h2load, one core each (median of {ROUNDS} alternating runs of {CALLS} calls)")
    request = check_request(subject.token())
    body = subject.folder / "body"
    body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    rows: list[Row] = []
    with ExitStack() as stack:
        processes: dict[str, tuple[int, int]] = {}
        at_ready: dict[str, tuple[int, float, float]] = {}  # pid, seconds until ready, megabytes then
        for transport in (GRPCIO, ASYNCIO):
            up = subject.folder / f"{transport}-is-listening"
            empty = [*PYTHON, str(HERE / "empty_handler.py"), transport, str(EMPTY_PORTS[transport]), str(up)]
            process, _ = stack.enter_context(running(on_core(SERVER_CORE, *empty), up.exists))
            processes[f"{transport}, empty handler"] = (process.pid, EMPTY_PORTS[transport])
            process, after = stack.enter_context(running(sidecar(subject, transport), partial(is_ready, transport)))
            processes[f"{transport}, full Check"] = (process.pid, GRPC_PORTS[transport])
            at_ready[transport] = (process.pid, after, memory(process.pid))

        def measure(pid: int, port: int, in_flight: int) -> Load:
            headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
            calls = CALLS if in_flight > 1 else CALLS // 4
            url = f"http://127.0.0.1:{port}{CHECK}"
            return h2load([pid], url, calls, in_flight, subject.folder, "-d", str(body), *headers)

        for in_flight in IN_FLIGHT:
            measures = {name: partial(measure, *at, in_flight) for name, at in processes.items()}
            for name, loads in alternating(measures, ROUNDS).items():
                rows.append(Row(name, in_flight, loads))
                print(rows[-1])
        footprints = [
            Footprint(name, after, at_start, memory(pid)) for name, (pid, after, at_start) in at_ready.items()
        ]
    print(*footprints, sep="\n")
    return rows, footprints
