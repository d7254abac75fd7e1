"""Tens of thousands of sessions are revoked by events while requests arrive through a real Envoy: none decided wrongly.

The sidecar is killed twice meanwhile, and continues with its snapshot file. A session counts as revoked once its event
was acknowledged; in between, either decision is right.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from authz_service.demo.envoy import binary
from bench.behind_envoy import FIRST_PORT, bootstrap, ext_authz, listens
from bench.load import memory, started
from bench.servers import PYTHON, is_ready, running
from bench.subject import ADMIN_PORTS, ASYNCIO, GRPC_PORTS
from support.signing import Signer
from support.transmitter import Transmitter

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterable

REVOKED = int(os.environ.get("SOAK_REVOKED", "50000"))  # sessions; as many stay
_PENDING = 2_000  # events that the transmitter has at most
_CLIENTS = 8
_REPORT_INTERVAL = 10  # seconds
_AFTER_KILL = 0.2  # seconds
_OK, _UNAUTHORIZED = 200, 401


class Sessions:
    """Twice ``REVOKED`` sessions, of which each second one ends."""

    def __init__(self, transmitter: Transmitter) -> None:
        self._transmitter = transmitter
        self._events: dict[int, str] = {}  # jti by session
        self._acknowledged: set[str] = set()
        self._seen = 0  # of the transmitter's list
        self._issued_at = int(time.time())  # before any event: a later token would be of another login
        self.outcomes: Counter[str] = Counter()

    async def end(self) -> None:
        """Let sessions end, as fast as their events are acknowledged."""
        for number in range(0, 2 * REVOKED, 2):
            if number % 100 == 0:
                await self._transmitter.until(lambda: len(self._transmitter.sets) < _PENDING)
            self._events[number] = await self._transmitter.revoke_session(f"user-{number}", f"session-{number}")
        await self._transmitter.until(lambda: not self._transmitter.sets)

    def count_revoked(self) -> int:
        """How many are revoked for certain."""
        new = self._transmitter.acknowledged[self._seen :]
        self._acknowledged.update(new)
        self._seen += len(new)
        return self._seen

    async def request(self, client: aiohttp.ClientSession, number: int) -> None:
        """Send a request with the token of a session and compare its status.

        Raises:
            AssertionError: for a wrong decision.
        """
        self.count_revoked()
        revoked = self._events.get(number) in self._acknowledged
        times = {"iat": self._issued_at, "exp": time.time() + 3600}
        token = self._transmitter.access_token(sub=f"user-{number}", sid=f"session-{number}", **times)
        async with client.get("/v1/things", headers={"Authorization": f"Bearer {token}"}) as response:
            status = response.status
        right = {_UNAUTHORIZED} if revoked else {_OK, _UNAUTHORIZED} if number in self._events else {_OK}
        if status in {_OK, _UNAUTHORIZED} and status not in right:
            raise AssertionError(f"session {number} got {status}, expected {right}")
        self.outcomes[{_OK: "allowed", _UNAUTHORIZED: "revoked"}.get(status, "without the sidecar")] += 1


def configure(folder: Path, transmitter: Transmitter) -> Path:
    """Write the sidecar's configuration."""
    events = transmitter.security_events(folder, interval="1s", snapshot_file="events.json")
    config = folder / "config.yaml"
    content = {
        "server": {
            "grpc_address": f"127.0.0.1:{GRPC_PORTS[ASYNCIO]}",
            "admin_address": f"127.0.0.1:{ADMIN_PORTS[ASYNCIO]}",
        },
        "issuers": [
            {
                "issuer": transmitter.issuer,
                "audiences": ["api"],
                "keys": {"jwks_uri": f"{transmitter.origin}/jwks.json"},
                "security_events": events | {"token_endpoint": f"{transmitter.origin}/token"},
            }
        ],
        "rules": [{"name": "everything"}],
        "logging": {"decisions": "none"},
    }
    config.write_text(json.dumps(content))
    return config


async def request_until(stop: asyncio.Event, sessions: Sessions, client: aiohttp.ClientSession) -> None:
    """Send requests with the tokens of random sessions."""
    while not stop.is_set():
        await sessions.request(client, random.randrange(2 * REVOKED))  # noqa: S311 - not a secret


async def request_each(numbers: Iterable[int], sessions: Sessions, client: aiohttp.ClientSession) -> None:
    """Send a request for each of these sessions."""
    for number in numbers:
        await sessions.request(client, number)


async def request_while(
    sessions: Sessions,
    client: aiohttp.ClientSession,
    transmitter: Transmitter,
    until: int,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Send requests until so many sessions are revoked, and for a moment after ``then``."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(request_until(stop, sessions, client))
        await transmitter.until(lambda: sessions.count_revoked() >= until)
        then()
        await asyncio.sleep(_AFTER_KILL)
        stop.set()


@asynccontextmanager
async def serving(command: list[str], sessions: Sessions) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A running sidecar, whose progress is printed."""
    sidecar, _ = await asyncio.to_thread(started, command, partial(is_ready, ASYNCIO))
    watching = asyncio.create_task(watch(sidecar.pid, sessions))
    try:
        yield sidecar
    finally:
        watching.cancel()
        sidecar.terminate()
        await asyncio.to_thread(sidecar.wait)


async def watch(pid: int, sessions: Sessions) -> None:
    """Print the progress until canceled."""
    while True:
        await asyncio.sleep(_REPORT_INTERVAL)
        counts = f"{sessions.count_revoked():,} revoked, requests {dict(sessions.outcomes)}"
        print(f"  {counts}, memory {memory(pid):.0f} MB", flush=True)


async def in_force(client: aiohttp.ClientSession) -> int:
    """How many revocations of events the sidecar reports."""
    async with client.get(f"http://127.0.0.1:{ADMIN_PORTS[ASYNCIO]}/metrics") as response:
        values = re.findall(r'^authz_revocations\{source="events"\} (\S+)$', await response.text(), re.MULTILINE)
    return int(float(values[0]))


async def soak(folder: Path, transmitter: Transmitter, client: aiohttp.ClientSession) -> None:
    """Run.

    Raises:
        AssertionError: for a wrong decision.
    """
    command = [*PYTHON, "-m", "authz_service", "serve", "--config", str(configure(folder, transmitter))]
    sessions = Sessions(transmitter)
    ending = asyncio.create_task(sessions.end())
    for until in (REVOKED // 3, REVOKED * 2 // 3):
        async with serving(command, sessions) as sidecar:
            await request_while(sessions, client, transmitter, until, then=sidecar.kill)
    async with serving(command, sessions) as sidecar:
        await request_while(sessions, client, transmitter, REVOKED)
        await ending
        async with asyncio.TaskGroup() as tasks:
            for first in range(_CLIENTS):
                tasks.create_task(request_each(range(first, 2 * REVOKED, _CLIENTS), sessions, client))
        count = await in_force(client)
        if count != REVOKED:
            raise AssertionError(f"{count} revocations are in force, expected {REVOKED}")
        print(f"  {count:,} in force, requests {dict(sessions.outcomes)}, memory {memory(sidecar.pid):.0f} MB")


async def main() -> int:
    """Run with a transmitter and a real Envoy; returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, admin = folder / "envoy.json", folder / "envoy-admin"
        config.write_text(json.dumps(bootstrap({"soak": [ext_authz(ASYNCIO)]})))
        envoy = [binary(), "--config-path", str(config), "--admin-address-path", str(admin), "--disable-hot-restart"]
        with running([*envoy, "--log-level", "off"], partial(listens, admin)):
            url = f"http://127.0.0.1:{FIRST_PORT}"
            async with Transmitter(signer=Signer("ES256", "es")) as transmitter, aiohttp.ClientSession(url) as client:
                await soak(folder, transmitter, client)
    print("no revoked token was accepted, and no other was refused")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
