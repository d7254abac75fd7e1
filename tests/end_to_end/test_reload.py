"""The running program takes over what its operators write, without losing a request."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from keys.fakes import jwks
from transport.wire import Answer, check_request, read, signed

from authz_service.cli import main
from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.sidecar import Sidecar
from authz_service.demo.upstream import Upstream
from authz_service.transport.grpcio_server import SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANG_GUARD = 30.0  # seconds: no test waits for it
ISSUER = "https://issuer.example"
# Two versions that differ in two things at once: what is asked for, and who decides it.
OLD = {"name": "old", "require": {"scopes": ["old"]}}
NEW = {"name": "new", "require": {"scopes": ["new"]}}


class Mounted:
    """A configuration as Kubernetes mounts one: the file is a link into a folder that is swapped as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mounted"
        self.folder.mkdir()
        self.file = self.folder / "config.yaml"
        self.address = f"unix:{folder / 's'}"
        (folder / "jwks.json").write_bytes(jwks("a"))
        self._versions = 0

    def text(self, *rules: dict[str, Any], **server: Any) -> str:
        issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": {"jwks_file": "../../jwks.json"}}
        own = {"grpc_address": self.address, "admin_address": "127.0.0.1:0"}
        return json.dumps({"server": own | server, "issuers": [issuer], "rules": rules})

    def swap(self, text: str) -> None:
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir()
        (version / "config.yaml").write_text(text.replace("../../jwks.json", str(self.folder.parent / "jwks.json")))
        (self.folder / "..new").symlink_to(version.name)
        (self.folder / "..new").rename(self.folder / "..data")
        if not self.file.is_symlink():
            self.file.symlink_to("..data/config.yaml")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    mounted = Mounted(tmp_path)
    mounted.swap(mounted.text(OLD))
    return mounted


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not is_so():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


def told(sidecar: Sidecar, event: str) -> list[dict[str, Any]]:
    return [record for record in sidecar.log() if record["event"] == event]


def sent(scope: str = "old") -> bytes:
    return check_request(token=signed("a", now=time.time(), iss=ISSUER, aud="api", scope=scope))


async def decided(channel: grpc.aio.Channel, data: bytes) -> Answer:
    calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
    return read(await calling(data, timeout=HANG_GUARD))


TAKEN, REFUSED = "configuration taken over", "configuration refused; the old one keeps serving"


async def test_a_swapped_link_and_a_hangup_change_the_rules_and_a_mistake_does_not(
    mounted: Mounted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        Sidecar(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        assert (await decided(channel, sent())).metadata["rule"] == "old"
        mounted.swap(mounted.text(NEW))
        await until(lambda: len(told(sidecar, TAKEN)) == 1)
        assert (await decided(channel, sent())).reason == "insufficient_scope"

        mounted.swap(mounted.text({"nmae": "mistake"}))
        await until(lambda: len(told(sidecar, REFUSED)) == 1)
        problems = told(sidecar, REFUSED)[0]["problems"]
        assert any("rules[0].nmae: is not a key here: did you mean name?" in problem for problem in problems)
        assert (await decided(channel, sent("new"))).metadata["rule"] == "new"
        assert await asyncio.to_thread(main, ["healthcheck", "--config", str(mounted.file)]) == 0
        assert "SERVING" in capsys.readouterr().out
        async with aiohttp.ClientSession() as session, session.get(f"{sidecar.admin_url}/metrics") as answer:
            metrics = await answer.text()
        assert "authz_config_last_reload_successful 0.0" in metrics
        assert 'authz_config_reloads_total{result="failure"} 1.0' in metrics

        mounted.swap(mounted.text(OLD, grpc_address="127.0.0.1:1"))
        await until(lambda: len(told(sidecar, TAKEN)) == 2)
        assert told(sidecar, "changed, but needs a restart to take effect")[0]["keys"] == ["server.grpc_address"]
        assert (await decided(channel, sent())).metadata["rule"] == "old"

        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGHUP)
        await until(lambda: len(told(sidecar, TAKEN)) == 3)
        assert await sidecar.stop() == 0


async def test_a_file_that_goes_away_changes_nothing(mounted: Mounted, tmp_path: Path) -> None:
    async with (
        Sidecar(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        mounted.file.unlink()
        await until(lambda: len(told(sidecar, REFUSED)) == 1)
        assert (await decided(channel, sent())).metadata["rule"] == "old"
        mounted.file.symlink_to("..data/config.yaml")
        await until(lambda: len(told(sidecar, TAKEN)) == 1)


async def flipped(mounted: Mounted, sidecar: Sidecar, times: int) -> None:
    """Swap the two versions so many times, each once the one before is taken over."""
    assert sidecar.process is not None
    for flip in range(1, times + 1):
        mounted.swap(mounted.text(NEW if flip % 2 else OLD))
        sidecar.process.send_signal(signal.SIGHUP)
        await until(lambda flip=flip: len(told(sidecar, TAKEN)) >= flip)  # type: ignore[misc]


async def test_under_load_every_request_is_decided_wholly_by_one_configuration(
    mounted: Mounted, tmp_path: Path
) -> None:
    """A token with one scope passes one version and fails the other: a mixture would show as a third outcome."""
    outcomes: dict[tuple[str, str], int] = {}
    async with (
        Sidecar(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        data, flipping = sent("old"), asyncio.create_task(flipped(mounted, sidecar, 12))

        async def caller() -> None:
            while not flipping.done():
                answer = await decided(channel, data)
                outcome = (answer.metadata["rule"], answer.reason)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

        await asyncio.gather(*(caller() for _ in range(16)))
        await flipping
    assert outcomes.keys() == {("old", "ok"), ("new", "insufficient_scope")}


async def test_through_the_real_envoy_no_request_is_lost_while_the_configuration_flips(
    mounted: Mounted, tmp_path: Path
) -> None:
    statuses: set[tuple[int, str]] = set()
    async with (
        Sidecar(mounted.file, tmp_path / "log") as sidecar,
        Upstream() as upstream,
        Envoy(Bootstrap(mounted.address, upstream.port), tmp_path) as envoy,
        aiohttp.ClientSession() as session,
    ):
        headers = {"authorization": f"Bearer {signed('a', now=time.time(), iss=ISSUER, aud='api', scope='old')}"}
        flipping = asyncio.create_task(flipped(mounted, sidecar, 8))

        async def caller() -> None:
            while not flipping.done():
                async with session.get(f"http://127.0.0.1:{envoy.port}/v1/a", headers=headers) as answer:
                    statuses.add((answer.status, answer.headers["x-authz-reason"]))

        await asyncio.gather(*(caller() for _ in range(8)))
        await flipping
    assert statuses == {(200, "ok"), (403, "insufficient_scope")}
