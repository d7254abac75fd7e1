"""A real Prometheus and its promtool.

They are the installed ones or, if there are none, those of Debian's package, extracted next to the tests. Nothing is
installed, and root is not required.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

from authz_service.demo import child_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_UNPACKED = Path(__file__).parent.parent / "observability" / ".prometheus"
_INSTALL_TIMEOUT = 300.0
_START_TIMEOUT, _STOP_TIMEOUT, _POLL_INTERVAL = 30.0, 10.0, 0.1
_LISTEN = "0A"  # the state of a socket in proc(5)
SCRAPE_INTERVAL = "1s"


def programs() -> Path | None:
    """The folder of ``prometheus`` and ``promtool``; None if this machine has neither them nor Debian's packages."""
    if (found := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(found).parent
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    _UNPACKED.mkdir(exist_ok=True)
    with (_UNPACKED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be downloading
        folder = _UNPACKED / "usr" / "bin"
        if not (folder / "promtool").exists():
            _unpack()
    return folder


def _unpack() -> None:
    """Download and extract the package, with a separate state folder for apt."""
    for each in ("state/lists/partial", "cache/archives/partial"):
        (_UNPACKED / each).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State={_UNPACKED}/state", f"Dir::Cache={_UNPACKED}/cache", "Debug::NoLocking=1"]
    apt = ["apt-get", "-qq", *(word for each in options for word in ("-o", each))]
    status = ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    for command in ([*apt, *status, "update"], [*apt, *status, "download", "prometheus"]):
        _run(command)
    (package,) = _UNPACKED.glob("prometheus_*.deb")
    _run(["dpkg-deb", "--extract", package.name, "."])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=_UNPACKED, check=False, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """All current series of an expression."""
        result: list[dict[str, Any]] = (await self._get("query", query=expr))["result"]
        return result

    async def query_range(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """All series of an expression between two times, with one value per second, the last one at ``end``."""
        start = end - math.ceil(end - start)
        found = await self._get("query_range", query=expr, start=str(start), end=str(end), step="1")
        result: list[dict[str, Any]] = found["result"]
        return result

    async def exemplars(self, expr: str, start: float) -> list[dict[str, str]]:
        """The labels of all exemplars of an expression since a time."""
        found = await self._get("query_exemplars", query=expr, start=str(start), end=str(time.time()))
        return [each["labels"] for series in found for each in series["exemplars"]]

    async def value(self, expr: str) -> float:
        """The single value of an expression; 0 without one."""
        found = await self.query(expr)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0

    async def label_values(self, label: str, selector: str) -> list[str]:
        """The values of Grafana's ``label_values``."""
        values: list[str] = await self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    async def evaluated_rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, once each has been evaluated."""
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                rules = [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]
                if "unknown" not in {rule["health"] for rule in rules}:
                    return rules
                await asyncio.sleep(_POLL_INTERVAL)

    async def alerts(self, name: str) -> list[dict[str, Any]]:
        """The pending and firing alerts of this name."""
        found = (await self._get("alerts"))["alerts"]
        return [each for each in found if each["labels"]["alertname"] == name]

    async def wait_for(self, expr: str, minimum: float, within: float = _START_TIMEOUT) -> None:
        """Wait until an expression reaches this value."""
        async with asyncio.timeout(within):
            while await self.value(expr) < minimum:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(_POLL_INTERVAL)

    async def _get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            body = await response.json()
        assert body["status"] == "success", f"{path} {parameters}: {body}"
        return body["data"]


@asynccontextmanager
async def running_prometheus(
    folder: Path, programs: Path, jobs: Mapping[str, list[str]], rules: Path
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes the URLs of these jobs, all with the namespace ``shop`` and a pod of their own."""
    config, log = folder / "prometheus.yaml", folder / "prometheus.log"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
                "rule_files": [str(rules)],
                "scrape_configs": [
                    _scrape(f"{name}-{number}", name, url)
                    for name, urls in jobs.items()
                    for number, url in enumerate(urls)
                ],
            }
        )
    )
    command = [str(programs / "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder}/prometheus"]
    options = ["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"]
    process = await child_process.start("Prometheus", [*command, *options], log)
    try:
        async with (
            child_process.stop_unless_ready("Prometheus", process, log, _START_TIMEOUT),
            aiohttp.ClientSession() as session,
        ):
            while not (ports := _listening(process.pid)):
                child_process.require_running("Prometheus", process, log)
                await asyncio.sleep(_POLL_INTERVAL)
            url = f"http://127.0.0.1:{ports[0]}"
            while not await _ready(session, url):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(_POLL_INTERVAL)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, url)
    finally:
        await child_process.stop(process, _STOP_TIMEOUT)


def _scrape(name: str, job: str, url: str) -> dict[str, Any]:
    target, _, path = url.removeprefix("http://").partition("/")
    labels = {"job": job, "namespace": "shop", "pod": name}
    return {"job_name": name, "metrics_path": f"/{path}", "static_configs": [{"targets": [target], "labels": labels}]}


def _listening(pid: int) -> list[int]:
    """The ports on which a process listens (Linux proc_pid_net); the format of its log is not an interface."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            sockets.add(str(descriptor.readlink()))
    lines = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return [int(at[1].rpartition(":")[2], 16) for at in lines if at[3] == _LISTEN and f"socket:[{at[9]}]" in sockets]


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/-/ready") as response:
        return response.ok
