"""A real Prometheus and its promtool.

Law: they are those of this machine or, where it has none, those of Debian's package, unpacked beside the tests: nothing
is installed, and nobody needs to be root.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

from authz_service.demo import child_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_UNPACKED = Path(__file__).parent.parent / "observability" / ".prometheus"
_INSTALL = 300.0  # seconds until it is given up
_START, _STOP, _LOOK = 30.0, 10.0, 0.1
_LISTEN = "0A"  # a socket's state, as proc(5) has it
SCRAPES = "1s"  # apart


def programs() -> Path | None:
    """The folder of ``prometheus`` and ``promtool``; None where this machine neither has them nor Debian's packages."""
    if (found := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(found).parent
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    _UNPACKED.mkdir(exist_ok=True)
    with (_UNPACKED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it
        folder = _UNPACKED / "usr" / "bin"
        if not (folder / "promtool").exists():
            _unpack()
    return folder


def _unpack() -> None:
    """Download the package and lay its files out here, in apt's words with a state of our own."""
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
    done = subprocess.run(command, cwd=_UNPACKED, check=False, capture_output=True, text=True, timeout=_INSTALL)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A running Prometheus, and what it answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Every series of an expression, as it is now."""
        result: list[dict[str, Any]] = (await self._get("query", query=expr))["result"]
        return result

    async def query_range(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """Every series of an expression between two times, a value a second."""
        found = await self._get("query_range", query=expr, start=str(start), end=str(end), step="1")
        result: list[dict[str, Any]] = found["result"]
        return result

    async def number(self, expr: str) -> float:
        """The only value of an expression; 0 where it has none."""
        found = await self.query(expr)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0

    async def label_values(self, label: str, selector: str) -> list[str]:
        """What a variable of Grafana's ``label_values`` offers."""
        values: list[str] = await self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    async def evaluated(self) -> list[dict[str, Any]]:
        """Every rule with its health, once each has been evaluated."""
        async with asyncio.timeout(_START):
            while True:
                rules = [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]
                if "unknown" not in {rule["health"] for rule in rules}:
                    return rules
                await asyncio.sleep(_LOOK)

    async def until(self, expr: str, wanted: float) -> None:
        """Wait until an expression is at least this."""
        async with asyncio.timeout(_START):
            while await self.number(expr) < wanted:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(_LOOK)

    async def _get(self, what: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{what}", params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{what} {parameters}: {body}"
        return body["data"]


@asynccontextmanager
async def running_prometheus(
    folder: Path, programs: Path, jobs: Mapping[str, list[str]], rules: Path
) -> AsyncIterator[Prometheus]:
    """Prometheus, from entering to leaving; ``jobs`` are the URLs that it reads, all as of namespace ``shop``."""
    config, log = folder / "prometheus.yaml", folder / "prometheus.log"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": SCRAPES, "evaluation_interval": SCRAPES},
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
    process = await child_process.start("Prometheus", [*command, "--web.listen-address=127.0.0.1:0"], log)
    try:
        async with (
            child_process.stop_unless_ready("Prometheus", process, log, _START),
            aiohttp.ClientSession() as session,
        ):
            while not (ports := _listening(process.pid)):
                child_process.require_running("Prometheus", process, log)
                await asyncio.sleep(_LOOK)
            url = f"http://127.0.0.1:{ports[0]}"
            while not await _ready(session, url):  # noqa: ASYNC110 - readiness is asked for
                await asyncio.sleep(_LOOK)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, url)
    finally:
        await child_process.stop(process, _STOP)


def _scrape(name: str, job: str, url: str) -> dict[str, Any]:
    target, _, path = url.removeprefix("http://").partition("/")
    labels = {"job": job, "namespace": "shop"}
    return {"job_name": name, "metrics_path": f"/{path}", "static_configs": [{"targets": [target], "labels": labels}]}


def _listening(pid: int) -> list[int]:
    """The ports on which a process listens (proc_pid_net of Linux): its log has them in words of its own."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    lines = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return [int(at[1].rpartition(":")[2], 16) for at in lines if at[3] == _LISTEN and f"socket:[{at[9]}]" in sockets]


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/-/ready") as answer:
        return answer.ok
