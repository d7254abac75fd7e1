"""The sidecar as a whole: it starts, becomes ready, serves, drains and ends, whatever its surroundings do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transport.pki import TlsFiles
from transport.wire import Answer, check_request, read, signed

from authz_service.config.load import load
from authz_service.core.errors import StartFailed
from authz_service.runtime.application import App
from authz_service.transport.grpc_methods import SERVICE
from support.http_provider import Provider
from support.key_source import jwks
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

HANG_GUARD = 30.0  # seconds: no test waits for it
ISSUER = "https://issuer.example"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Place:
    """A folder with everything that a sidecar needs; ``write`` makes its configuration file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:{folder / 'authz.sock'}"
        self.config = folder / "config.yaml"
        self.jwks = folder / "jwks.json"
        self.jwks.write_bytes(jwks("a"))

    def write(self, keys: dict[str, Any] | None = None, **server: Any) -> Path:
        server = {"grpc_address": self.address, "admin_address": "127.0.0.1:0"} | server
        issuer = {
            "issuer": ISSUER,
            "name": "main",
            "audiences": ["https://api.example"],
            "keys": keys or {"jwks_file": "jwks.json"},
        }
        configuration = {
            "server": server,
            "issuers": [issuer],
            "rules": [{"name": "everything"}],
            "logging": {"decisions": "all"},
        }
        self.config.write_text(json.dumps(configuration))  # which is YAML
        return self.config

    def sidecar(self, *, wait_until_ready: bool = True) -> SidecarProcess:
        return SidecarProcess(self.config, self.folder / "log", wait_until_ready=wait_until_ready)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel


async def decided(channel: grpc.aio.Channel, data: bytes) -> Answer:
    calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
    return read(await calling(data, timeout=HANG_GUARD))


def good(kid: str = "a", **claims: Any) -> bytes:
    return check_request(token=signed(kid, now=time.time(), **claims))


async def health(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_GUARD)
    return int(answer.status)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not is_so():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


async def readiness(admin_url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/readyz") as answer:
        return answer.status, await answer.json()


def events(sidecar: SidecarProcess) -> list[str]:
    return [record["event"] for record in sidecar.log()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


# The program.


async def test_it_becomes_ready_decides_and_ends_well_when_told_to(place: Place) -> None:
    place.write()
    async with place.sidecar() as sidecar, connected(place.address) as channel:
        assert await health(channel) == SERVING
        allowed = await decided(channel, good())
        assert (allowed.reason, allowed.headers["x-auth-subject"]) == ("ok", "alice")
        assert (await decided(channel, good("unknown"))).reason == "unknown_key"
        assert (await decided(channel, check_request())).reason == "missing_token"
        assert (await decided(channel, b"\xff")).reason == "malformed_request"
        assert await sidecar.stop() == 0
    assert events(sidecar)[-1] == "stopped"
    text = (place.folder / "log").read_text()
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert "eyJ" not in text


async def test_an_interrupt_ends_it_as_well(place: Place) -> None:
    place.write()
    async with place.sidecar() as sidecar:
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(sidecar.process.wait(), HANG_GUARD) == 0


async def test_told_to_end_before_it_is_ready_it_ends_well(place: Place) -> None:
    place.write(keys={"jwks_uri": f"http://127.0.0.1:{free_port()}/keys"})
    async with place.sidecar(wait_until_ready=False) as sidecar:
        assert await sidecar.stop() == 0


async def test_told_to_end_it_is_not_ready_and_serves_on_for_the_delay(place: Place) -> None:
    place.write(shutdown_delay="2s")
    async with place.sidecar() as sidecar, connected(place.address) as channel:
        assert sidecar.process is not None
        sidecar.process.terminate()
        async with asyncio.timeout(HANG_GUARD):
            while await health(channel) == SERVING:
                pass
        assert await readiness(sidecar.admin_url) == (503, {"ready": False, "missing": ["shutting down"]})
        assert (await decided(channel, good())).reason == "ok"
        async with connected(place.address) as new:
            assert (await decided(new, good())).reason == "ok"
        assert "stopped" not in events(sidecar)
        assert await asyncio.wait_for(sidecar.process.wait(), HANG_GUARD) == 0
    assert [event for event in events(sidecar) if event != "decision"][-2:] == ["stopping", "stopped"]


async def test_told_to_end_it_finishes_what_is_in_flight_and_accepts_nothing_new(place: Place) -> None:
    asked, release = asyncio.Event(), asyncio.Event()
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        keys = {"jwks_uri": f"{provider.origin}/keys", "timeout": "30s", "unknown_kid_cooldown": "1ms"}
        place.write(keys, check_deadline="30s", shutdown_grace="30s")
        async with place.sidecar() as sidecar, connected(place.address) as channel:
            provider.serve("/new", jwks("a", "new"))
            new_keys = provider.handlers["/new"]

            async def slow(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
                asked.set()
                await release.wait()
                return await new_keys(request)

            provider.handlers["/keys"] = slow
            in_flight = asyncio.create_task(decided(channel, good("new")))
            await asked.wait()
            assert sidecar.process is not None
            sidecar.process.terminate()
            await until(lambda: not _accepts(place))
            assert not in_flight.done()
            release.set()
            assert (await in_flight).reason == "ok"
            assert await asyncio.wait_for(sidecar.process.wait(), HANG_GUARD) == 0


def _accepts(place: Place) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(place.address.removeprefix("unix:")) == 0


async def test_with_the_provider_down_it_starts_is_not_ready_and_recovers_by_itself(place: Place) -> None:
    port = free_port()
    place.write(keys={"jwks_uri": f"http://127.0.0.1:{port}/keys"})
    async with place.sidecar(wait_until_ready=False) as sidecar, connected(place.address) as channel:
        await until(lambda: "fetching keys failed" in events(sidecar))
        assert await health(channel) == NOT_SERVING
        assert await readiness(sidecar.admin_url) == (503, {"ready": False, "missing": ["keys of issuer main"]})
        answer = await decided(channel, good())
        assert (answer.http_status, answer.reason) == (503, "keys_unavailable")
        assert (await decided(channel, check_request())).reason == "missing_token"
        async with Provider(port=port) as provider:
            provider.serve("/keys", jwks("a"))
            await asyncio.wait_for(sidecar.ready(), HANG_GUARD)
            await until(lambda: events(sidecar)[-1] == "ready")
            assert await health(channel) == SERVING
            assert (await decided(channel, good())).reason == "ok"
        assert (await decided(channel, good(sub="bob"))).reason == "ok"  # the provider is down again


async def test_a_key_set_file_that_kubernetes_swaps_takes_effect_and_drops_remembered_tokens(place: Place) -> None:
    for generation, kid in (("..1", "a"), ("..2", "b")):
        (place.folder / generation).mkdir()
        (place.folder / generation / "jwks.json").write_bytes(jwks(kid))
    (place.folder / "..data").symlink_to("..1")
    place.jwks.unlink()
    place.jwks.symlink_to("..data/jwks.json")
    place.write()
    async with place.sidecar() as sidecar, connected(place.address) as channel:
        remembered = good("a")
        assert (await decided(channel, remembered)).reason == "ok"
        (place.folder / "..tmp").symlink_to("..2")
        (place.folder / "..tmp").rename(place.folder / "..data")
        await until(lambda: events(sidecar).count("new keys") == 2)
        assert (await decided(channel, remembered)).reason == "unknown_key"
        assert (await decided(channel, good("b"))).reason == "ok"


# The parts, in this process.


async def test_readiness_waits_for_every_issuer(place: Place) -> None:
    configuration = json.loads(place.write().read_text())
    second = configuration["issuers"][0] | {"issuer": "https://second.example", "name": "second"}
    async with Provider() as provider:
        second["keys"] = {"jwks_uri": f"{provider.origin}/keys"}
        configuration["issuers"].append(second)
        place.config.write_text(json.dumps(configuration))
        app = App(load(place.config))
        assert app.missing() == ["keys of issuer main", "keys of issuer second"]
        await app.start()
        async with connected(place.address) as channel:
            await until(lambda: app.missing() == ["keys of issuer second"])
            assert await health(channel) == NOT_SERVING
            provider.serve("/keys", jwks("b"))
            await until(lambda: app.missing() == [])
            async with asyncio.timeout(HANG_GUARD):
                while await health(channel) != SERVING:
                    pass
        await app.close()


async def test_keys_that_come_while_it_drains_do_not_make_it_serving_again(place: Place) -> None:
    async with Provider() as provider:
        place.write(keys={"jwks_uri": f"{provider.origin}/keys"}, shutdown_delay="1h")
        app = App(load(place.config))
        await app.start()
        draining = asyncio.create_task(app.drain())
        await until(lambda: app.missing() == ["shutting down"])
        provider.serve("/keys", jwks("a"))
        await app.active.issuers[0].keys.refresh()
        async with connected(place.address) as channel:
            assert (await decided(channel, good())).reason == "ok"
            assert await health(channel) == NOT_SERVING
        assert app.missing() == ["shutting down"]
        draining.cancel()
        await app.close()


async def test_an_address_in_use_is_an_error_and_leaves_nothing_behind(place: Place) -> None:
    admin_port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place.write(grpc_address=f"127.0.0.1:{taken.getsockname()[1]}", admin_address=f"127.0.0.1:{admin_port}")
        app = App(load(place.config))
        with pytest.raises(StartFailed, match="cannot listen on"):
            await app.start()
        await app.close()
    with socket.create_server(("127.0.0.1", admin_port)):
        pass


async def test_a_background_task_that_dies_is_told_of_and_ends_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("authz"), "propagate", True)
    app = App(load(place.write()))

    async def die() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.active.issuers[0].keys, "run", die)
    await app.start()
    async with connected(place.address) as channel:
        assert (await decided(channel, good())).reason == "ok"  # the request fetches the keys itself
    await app.close()
    (told,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert told.message == "background task failed"


async def test_it_can_be_closed_at_any_time_and_twice(place: Place) -> None:
    place.write()
    never_started = App(load(place.config))
    await never_started.close()
    app = App(load(place.config))
    await app.start()
    await app.close()
    await app.close()
    assert len(asyncio.all_tasks()) == 1


# Tokens that are asked about.


def asking(place: Place, endpoint: str, **introspection: Any) -> Path:
    """A configuration whose one issuer has no keys, and is asked about its tokens."""
    configuration = json.loads(place.write().read_text())
    (place.folder / "secret").write_text("s3cret\n")
    configuration["issuers"][0] |= {
        "keys": {"discovery": False},
        "introspection": {"endpoint": endpoint, "client_id": "my-api", "client_secret_file": "secret"} | introspection,
    }
    place.config.write_text(json.dumps(configuration))
    return place.config


ACTIVE = {"active": True, "sub": "alice", "aud": "https://api.example", "client_id": "app", "scope": "a"}


async def test_an_issuer_that_is_asked_about_its_tokens_needs_no_keys_to_be_ready(place: Place) -> None:
    async with Provider() as provider:
        provider.serve("/introspect", json.dumps(ACTIVE | {"exp": time.time() + 300}), content_type="application/json")
        asking(place, f"{provider.origin}/introspect")
        async with place.sidecar() as sidecar, connected(place.address) as channel:
            assert await readiness(sidecar.admin_url) == (200, {"ready": True, "missing": []})
            for _ in range(2):
                allowed = await decided(channel, check_request(token="an-opaque-token"))
                assert (allowed.reason, allowed.headers["x-auth-subject"]) == ("ok", "alice")
            assert (await decided(channel, good())).reason == "unknown_key"
            assert await sidecar.stop() == 0
        assert provider.count("/introspect") == 1
        text = (place.folder / "log").read_text()
        assert "an-opaque-token" not in text
        assert "s3cret" not in text


async def test_a_secret_that_is_exchanged_is_used_within_a_second_and_a_wrong_one_is_told_once(place: Place) -> None:
    async with Provider() as provider:

        async def introspect(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            if request.headers["Authorization"] != "Basic bXktYXBpOnJpZ2h0":  # my-api:right
                return aiohttp.web.Response(status=401)
            return aiohttp.web.json_response(ACTIVE | {"exp": time.time() + 300})

        provider.handlers["/introspect"] = introspect
        asking(place, f"{provider.origin}/introspect")
        async with place.sidecar() as sidecar, connected(place.address) as channel:
            for _ in range(3):
                refused = await decided(channel, check_request(token="an-opaque-token"))
                assert (refused.http_status, refused.reason) == (503, "introspection_unavailable")
            (place.folder / "secret").write_text("right")
            async with asyncio.timeout(HANG_GUARD):
                while (await decided(channel, check_request(token="an-opaque-token"))).reason != "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert events(sidecar).count("the introspection server rejects this client") == 1


async def test_told_to_end_it_leaves_no_call_behind(place: Place) -> None:
    async with Provider() as provider:

        async def hangs(_request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        provider.handlers["/introspect"] = hangs
        app = App(load(asking(place, f"{provider.origin}/introspect", timeout="1h")))
        await app.start()
        answer = read(await app.servicer.check(check_request(token="an-opaque-token"), 0.2))
        assert answer.reason == "deadline_exceeded"
        await app.close()
        assert app.active.issuers[0].introspector is not None
        assert not app.active.issuers[0].introspector._requests


async def test_the_metrics_know_every_rule_and_issuer_from_the_start(place: Place) -> None:
    app = App(load(place.write()))
    exposition, _ = app.metrics.exposition("")
    for series in (
        'authz_checks_total{decision="allow",mode="enforce",reason="ok",rule="everything"} 0.0',
        'authz_checks_total{decision="deny",mode="enforce",reason="no_rule",rule="-"} 0.0',
        'authz_jwks_fetches_total{issuer="main",result="failure"} 0.0',
        'authz_jwks_keys{issuer="main"} 0.0',
        "authz_token_cache_entries 0.0",
    ):
        assert series in exposition.decode()


async def test_with_tls_the_metrics_know_when_the_certificate_expires(place: Place) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    tls = TlsFiles(place.folder, trustme.CA().issue_cert("a.example", not_after=expires)).settings
    app = App(load(place.write(tls=tls.model_dump(mode="json", exclude_none=True))))
    told = app.metrics.registry.get_sample_value("authz_tls_certificate_not_after_timestamp_seconds")
    assert told == expires.timestamp()


async def test_the_delay_of_the_event_loop_is_watched(place: Place) -> None:
    app = App(load(place.write()))
    await app.start()
    await until(lambda: bool(app.metrics.registry.get_sample_value("authz_event_loop_delay_seconds_count")))
    await app.close()
