"""The running program reloads changed files without losing a request."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from transport.wire import Answer, check_request, read, signed

from authz_service.cli import main
from authz_service.demo.envoy import Envoy
from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from authz_service.demo.run import send
from authz_service.demo.samples import Sample
from authz_service.demo.upstream import Upstream
from authz_service.transport.services import SERVICE
from support.envoy_bootstrap import VariedBootstrap
from support.key_source import jwks
from support.mesh import TRANSPORTS, Mesh, running
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess, wait_until

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://issuer.example"
RELOADED, REJECTED = "configuration applied", "configuration rejected; the previous one stays active"
DESTROYED = "cluster.authz-service.upstream_cx_destroy"
NEEDS_RESTART = "changed keys take effect only after a restart"


def version(name: str, **parts: Any) -> dict[str, Any]:
    """A configuration whose rules, issuers and upstream headers show its name."""
    own = {
        "issuers": [{"issuer": ISSUER, "name": name, "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}],
        "rules": [{"name": name, "require": {"scopes": [name]}}],
        "upstream": {"headers": {f"x-{name}-subject": "sub"}},
    }
    return own | parts


OLD, NEW = version("old"), version("new")
SHADOW = version("new", rules=[{"name": "new", "require": {"scopes": ["new"]}, "mode": "shadow"}])
MISTAKE = version("old", rules=[{"nmae": "mistake"}])


class Mounted:
    """A configuration and a key set as Kubernetes mounts them: links into a folder that is swapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mounted"
        self.folder.mkdir()
        self.file = self.folder / "config.yaml"
        self.address = f"unix:{folder / 's'}"
        self.server: dict[str, Any] = {}
        self._swaps = 0

    def swap(self, parts: dict[str, Any], kid: str = "a", **server: Any) -> None:
        own = {"grpc_address": self.address, "admin_address": "127.0.0.1:0"} | self.server
        before, self._swaps = self.folder / f"..version-{self._swaps}", self._swaps + 1
        after = self.folder / f"..version-{self._swaps}"
        after.mkdir()
        (after / "config.yaml").write_text(json.dumps(parts | {"server": own | server}))
        (after / "jwks.json").write_bytes(jwks(kid))
        (self.folder / "..new").symlink_to(after.name)
        (self.folder / "..new").rename(self.folder / "..data")
        shutil.rmtree(before, ignore_errors=True)
        for name in ("config.yaml", "jwks.json"):
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    mounted = Mounted(tmp_path)
    mounted.swap(OLD)
    return mounted


def hang_up(sidecar: SidecarProcess) -> None:
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGHUP)


async def gauge(sidecar: SidecarProcess, name: str, **labels: str) -> float | None:
    """The value of a series; None if it does not exist."""
    return next(iter(await sidecar.metric(name, **labels)), None)


def token(scope: str, kid: str = "a", subject: str = "alice") -> str:
    return signed(kid, now=time.time(), iss=ISSUER, aud="api", scope=scope, sub=subject)


async def decided(channel: grpc.aio.Channel, bearer: str) -> Answer:
    calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
    return read(await calling(check_request(token=bearer), timeout=HANG_TIMEOUT))


# Changes by an operator, one after the other.


async def test_a_swapped_link_changes_the_rules_and_an_invalid_file_is_reported(
    mounted: Mounted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        assert (await decided(channel, token("old"))).metadata["rule"] == "old"
        mounted.swap(NEW)
        await wait_until(lambda: len(sidecar.records(RELOADED)) == 1)
        assert (await decided(channel, token("old"))).reason == "insufficient_scope"
        reloaded_at = await gauge(sidecar, "authz_config_last_reload_success_timestamp_seconds")

        mounted.swap(MISTAKE)
        await wait_until(lambda: len(sidecar.records(REJECTED)) == 1)
        problems = sidecar.records(REJECTED)[0]["problems"]
        assert f"{mounted.file}:1: rules[0].nmae: is not a key here: did you mean name?" in problems
        assert (await decided(channel, token("new"))).metadata["rule"] == "new"
        assert await asyncio.to_thread(main, ["healthcheck", "--config", str(mounted.file)]) == 0
        assert "SERVING" in capsys.readouterr().out
        await sidecar.ready()
        assert await gauge(sidecar, "authz_config_last_reload_successful") == 0
        assert await gauge(sidecar, "authz_config_last_reload_success_timestamp_seconds") == reloaded_at
        assert await gauge(sidecar, "authz_config_reloads_total", result="failure") == 1

        mounted.swap(OLD)
        await wait_until(lambda: len(sidecar.records(RELOADED)) == 2)
        assert (await decided(channel, token("old"))).metadata["rule"] == "old"
        assert await gauge(sidecar, "authz_config_last_reload_successful") == 1
        assert await gauge(sidecar, "authz_config_reloads_total", result="success") == 2
        assert await sidecar.stop() == 0


async def test_sighup_always_reloads_and_logs_the_result(mounted: Mounted, tmp_path: Path) -> None:
    async with SidecarProcess(mounted.file, tmp_path / "log") as sidecar:
        for times in (1, 2):
            hang_up(sidecar)
            await wait_until(lambda times=times: len(sidecar.records(RELOADED)) == times)  # type: ignore[misc]
        mounted.swap(MISTAKE)
        for times in (1, 2):
            hang_up(sidecar)
            await wait_until(lambda times=times: len(sidecar.records(REJECTED)) >= times)  # type: ignore[misc]
        assert await sidecar.stop() == 0


async def test_rules_and_keys_swapped_in_together_become_active_together(mounted: Mounted, tmp_path: Path) -> None:
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        leaving = token("old new", kid="a")
        assert (await decided(channel, leaving)).reason == "ok"
        mounted.swap(NEW, kid="b")
        await wait_until(lambda: len(sidecar.records(RELOADED)) == 1)
        assert (await decided(channel, token("new", kid="b"))).metadata["rule"] == "new"
        assert (await decided(channel, leaving)).reason == "unknown_key"  # although it was cached


async def test_a_changed_listener_is_reported_and_other_changes_take_effect(mounted: Mounted, tmp_path: Path) -> None:
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        mounted.swap(NEW, grpc_address="127.0.0.1:1", admin_address="127.0.0.1:2")
        await wait_until(lambda: len(sidecar.records(NEEDS_RESTART)) == 1)
        assert sidecar.records(NEEDS_RESTART)[0]["keys"] == ["server.grpc_address", "server.admin_address"]
        assert (await decided(channel, token("new"))).metadata["rule"] == "new"
        await sidecar.ready()
        assert await gauge(sidecar, "authz_config_last_reload_successful") == 1


async def test_a_deleted_file_changes_nothing(mounted: Mounted, tmp_path: Path) -> None:
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        mounted.file.unlink()
        await wait_until(lambda: len(sidecar.records(REJECTED)) == 1)
        assert (await decided(channel, token("old"))).metadata["rule"] == "old"
        mounted.file.symlink_to("..data/config.yaml")
        await wait_until(lambda: len(sidecar.records(RELOADED)) == 1)


async def test_an_issuer_is_added_changed_and_removed_without_affecting_another(
    tmp_path: Path,
) -> None:
    async with IdentityProvider() as second, running(tmp_path) as mesh, mesh.envoy() as envoy:
        alone = mesh.config.read_text()
        bearer = second.access_token()

        async def edited(audience: str | None, taken: int) -> dict[str, Any]:
            """Write the file in place, and wait for the reload; returns its log record and the reason for a token."""
            added = f"  - {{issuer: '{second.issuer}', name: second, audiences: ['{audience}']}}\nrules:\n"
            mesh.config.write_text(alone if audience is None else alone.replace("rules:\n", added))
            await wait_until(lambda: len(mesh.sidecar.records(RELOADED)) == taken)
            async with aiohttp.ClientSession() as session:
                outcome = await send(session, envoy.port, Sample("", "/v1/appointments/7", 0, "", bearer))
            return mesh.sidecar.records(RELOADED)[-1] | {"reason": outcome.reason}

        come = await edited(AUDIENCE, 1)
        assert (come["reason"], come["issuers_added"], come["issuers_removed"]) == ("ok", ["second"], [])
        assert await gauge(mesh.sidecar, "authz_jwks_keys", issuer="second") == 2

        changed = await edited("https://other.demo/", 2)
        assert (changed["reason"], changed["issuers_changed"]) == ("wrong_audience", ["second"])  # although cached
        assert await fetches(mesh, "second") == 1  # the source of its keys did not change

        gone = await edited(None, 3)
        assert (gone["reason"], gone["issuers_removed"]) == ("unknown_issuer", ["second"])
        async with asyncio.timeout(HANG_TIMEOUT):
            while await gauge(mesh.sidecar, "authz_jwks_stale", issuer="second") is not None:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)
        assert await gauge(mesh.sidecar, "authz_jwks_keys", issuer="second") is None
        assert await fetches(mesh, "second") == 1  # counters are kept
        assert await gauge(mesh.sidecar, "authz_jwks_stale", issuer="demo") == 0
        assert await fetches(mesh, "demo") == 1


async def fetches(mesh: Mesh, issuer: str) -> float | None:
    return await gauge(mesh.sidecar, "authz_jwks_fetches_total", issuer=issuer, result="success")


# Under load.


async def flipped(
    mounted: Mounted, sidecar: SidecarProcess, other: dict[str, Any], times: int, seen: Counter[Any]
) -> None:
    """Alternate between two versions, each time after the previous one is active and has decided requests."""
    for flip in range(1, times + 1):
        mounted.swap(other if flip % 2 else OLD)
        hang_up(sidecar)
        await wait_until(lambda flip=flip: len(sidecar.records(RELOADED)) >= flip)  # type: ignore[misc]
        before = seen.total()
        await wait_until(lambda before=before: seen.total() > before + 64)  # type: ignore[misc]


def shown(answer: Answer) -> tuple[str, ...]:
    """The versions of rules, issuers and upstream headers that a decision shows."""
    identity = sorted(name for name in answer.headers if name.startswith("x-"))
    return answer.metadata["rule"], answer.reason, answer.metadata["issuer"], *identity


@pytest.mark.parametrize("server", TRANSPORTS, ids=str)
async def test_under_load_no_call_fails_and_every_decision_uses_one_configuration(
    mounted: Mounted, tmp_path: Path, server: dict[str, Any]
) -> None:
    mounted.server = server
    mounted.swap(OLD)
    seen: Counter[Any] = Counter()
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        grpc.aio.insecure_channel(mounted.address) as channel,
    ):
        flipping = asyncio.create_task(flipped(mounted, sidecar, NEW, 12, seen))

        async def caller(number: int) -> None:
            # One cached token, and a new token each time, which also needs its key.
            cached, calls = token("old new"), 0
            while not flipping.done():
                calls += 1
                seen[shown(await decided(channel, cached))] += 1
                seen[shown(await decided(channel, token("old", subject=f"{number}-{calls}")))] += 1

        await asyncio.gather(*(caller(number) for number in range(24)))
        await flipping
    assert seen.keys() == {
        ("old", "ok", "old", "x-old-subject"),
        ("new", "ok", "new", "x-new-subject"),
        ("new", "insufficient_scope", "new"),
    }


@pytest.mark.parametrize("server", TRANSPORTS, ids=str)
async def test_through_envoy_no_request_is_lost_or_mixed_while_the_configuration_alternates(
    mounted: Mounted, tmp_path: Path, server: dict[str, Any]
) -> None:
    mounted.server = server
    mounted.swap(OLD)
    # Both versions allow the request, for different reasons. Each sets or removes its own header, and forwards that of
    # the other version unchanged.
    seen: Counter[Any] = Counter()
    async with (
        SidecarProcess(mounted.file, tmp_path / "log") as sidecar,
        Upstream() as upstream,
        Envoy(VariedBootstrap(mounted.address, upstream.port, timeout="20s"), tmp_path) as envoy,
        aiohttp.ClientSession() as session,
    ):
        flipping = asyncio.create_task(flipped(mounted, sidecar, SHADOW, 8, seen))
        spoofed = {"x-old-subject": "client", "x-new-subject": "client"}
        sample = Sample("", "/v1/a", 0, "", token("old"), headers=spoofed)

        async def caller() -> None:
            while not flipping.done():
                outcome = await send(session, envoy.port, sample)
                seen[outcome.status, outcome.reason, *(outcome.upstream.get(name) for name in spoofed)] += 1

        await asyncio.gather(*(caller() for _ in range(8)))
        await flipping
        async with session.get(f"http://127.0.0.1:{envoy.admin_port}/stats?format=json&filter={DESTROYED}") as answer:
            statistics = (await answer.json(content_type=None))["stats"]
    assert seen.keys() == {(200, "ok", "alice", "client"), (200, "insufficient_scope", "client", None)}
    # The connection survived every change.
    assert {"name": DESTROYED, "value": 0} in statistics
