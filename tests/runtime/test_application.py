"""The sidecar starts, becomes ready, serves, drains and ends, whatever happens around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import threading
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
from authz_service.tokens.revocation.event_file import EventFile
from authz_service.transport.services import SERVICE
from support.http_provider import Provider
from support.key_source import jwks
from support.samples import sample_value, text_of
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ISSUER = "https://issuer.example"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SidecarFolder:
    """A folder with everything that a sidecar needs; ``write`` creates its configuration file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
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
        self.config.write_text(json.dumps(configuration))  # JSON is YAML
        return self.config

    def sidecar(self, *, wait_until_ready: bool = True) -> SidecarProcess:
        return SidecarProcess(self.config, self.path / "log", wait_until_ready=wait_until_ready)


@pytest.fixture
def folder(tmp_path: Path) -> SidecarFolder:
    return SidecarFolder(tmp_path)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel


async def decide(channel: grpc.aio.Channel, data: bytes) -> Answer:
    calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
    return read(await calling(data, timeout=HANG_TIMEOUT))


def good(kid: str = "a", **claims: Any) -> bytes:
    return check_request(token=signed(kid, now=time.time(), **claims))


async def health(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_TIMEOUT)
    return int(answer.status)


async def readiness(admin_url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/readyz") as answer:
        return answer.status, await answer.json()


def events(sidecar: SidecarProcess) -> list[str]:
    return [record["event"] for record in sidecar.log()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port: int = occupied.getsockname()[1]
        return port


# The program.


async def test_it_becomes_ready_decides_and_exits_with_0_on_sigterm(folder: SidecarFolder) -> None:
    folder.write()
    async with folder.sidecar() as sidecar, connected(folder.address) as channel:
        assert await health(channel) == SERVING
        allowed = await decide(channel, good())
        assert (allowed.reason, allowed.headers["x-auth-subject"]) == ("ok", "alice")
        assert (await decide(channel, good("unknown"))).reason == "unknown_key"
        assert (await decide(channel, check_request())).reason == "missing_token"
        assert (await decide(channel, b"\xff")).reason == "malformed_request"
        assert await sidecar.stop() == 0
    assert events(sidecar)[-1] == "stopped"
    text = (folder.path / "log").read_text()
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert "eyJ" not in text


async def test_sigint_stops_it_as_well(folder: SidecarFolder) -> None:
    folder.write()
    async with folder.sidecar() as sidecar:
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(sidecar.process.wait(), HANG_TIMEOUT) == 0


async def test_sigterm_before_it_is_ready_exits_with_0(folder: SidecarFolder) -> None:
    folder.write(keys={"jwks_uri": f"http://127.0.0.1:{free_port()}/keys"})
    async with folder.sidecar(wait_until_ready=False) as sidecar:
        assert await sidecar.stop() == 0


async def test_after_sigterm_it_is_not_ready_and_serves_until_the_delay_is_over(folder: SidecarFolder) -> None:
    folder.write(shutdown_delay="2s")
    async with folder.sidecar() as sidecar, connected(folder.address) as channel:
        assert sidecar.process is not None
        sidecar.process.terminate()
        async with asyncio.timeout(HANG_TIMEOUT):
            while await health(channel) == SERVING:
                pass
        assert await readiness(sidecar.admin_url) == (503, {"ready": False, "missing": ["shutting down"]})
        assert (await decide(channel, good())).reason == "ok"
        async with connected(folder.address) as new:
            assert (await decide(new, good())).reason == "ok"
        assert "stopped" not in events(sidecar)
        assert await asyncio.wait_for(sidecar.process.wait(), HANG_TIMEOUT) == 0
    assert [event for event in events(sidecar) if event != "decision"][-2:] == ["stopping", "stopped"]


async def test_after_sigterm_it_finishes_requests_in_flight_and_accepts_no_connection(folder: SidecarFolder) -> None:
    fetching, release = asyncio.Event(), asyncio.Event()
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        keys = {"jwks_uri": f"{provider.origin}/keys", "timeout": "30s", "unknown_kid_cooldown": "1ms"}
        folder.write(keys, check_deadline="30s", shutdown_grace="30s")
        async with folder.sidecar() as sidecar, connected(folder.address) as channel:
            provider.serve("/new", jwks("a", "new"))
            new_keys = provider.handlers["/new"]

            async def slow(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
                fetching.set()
                await release.wait()
                return await new_keys(request)

            provider.handlers["/keys"] = slow
            in_flight = asyncio.create_task(decide(channel, good("new")))
            await fetching.wait()
            assert sidecar.process is not None
            sidecar.process.terminate()
            await wait_until(lambda: not _accepts(folder))
            assert not in_flight.done()
            release.set()
            assert (await in_flight).reason == "ok"
            assert await asyncio.wait_for(sidecar.process.wait(), HANG_TIMEOUT) == 0


def _accepts(folder: SidecarFolder) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(folder.address.removeprefix("unix:")) == 0


async def test_with_an_unreachable_provider_it_starts_is_not_ready_and_recovers(folder: SidecarFolder) -> None:
    port = free_port()
    folder.write(keys={"jwks_uri": f"http://127.0.0.1:{port}/keys"})
    async with folder.sidecar(wait_until_ready=False) as sidecar, connected(folder.address) as channel:
        await wait_until(lambda: "fetching keys failed" in events(sidecar))
        assert await health(channel) == NOT_SERVING
        assert await readiness(sidecar.admin_url) == (503, {"ready": False, "missing": ["keys of issuer main"]})
        answer = await decide(channel, good())
        assert (answer.http_status, answer.reason) == (503, "keys_unavailable")
        assert (await decide(channel, check_request())).reason == "missing_token"
        async with Provider(port=port) as provider:
            provider.serve("/keys", jwks("a"))
            await asyncio.wait_for(sidecar.ready(), HANG_TIMEOUT)
            await wait_until(lambda: events(sidecar)[-1] == "ready")
            assert await health(channel) == SERVING
            assert (await decide(channel, good())).reason == "ok"
        assert (await decide(channel, good(sub="bob"))).reason == "ok"  # the provider is unreachable again


async def test_a_key_set_that_kubernetes_swaps_is_used_and_invalidates_cached_tokens(
    folder: SidecarFolder,
) -> None:
    for generation, kid in (("..1", "a"), ("..2", "b")):
        (folder.path / generation).mkdir()
        (folder.path / generation / "jwks.json").write_bytes(jwks(kid))
    (folder.path / "..data").symlink_to("..1")
    folder.jwks.unlink()
    folder.jwks.symlink_to("..data/jwks.json")
    folder.write()
    async with folder.sidecar() as sidecar, connected(folder.address) as channel:
        cached = good("a")
        assert (await decide(channel, cached)).reason == "ok"
        (folder.path / "..tmp").symlink_to("..2")
        (folder.path / "..tmp").rename(folder.path / "..data")
        await wait_until(lambda: events(sidecar).count("new keys") == 2)
        assert (await decide(channel, cached)).reason == "unknown_key"
        assert (await decide(channel, good("b"))).reason == "ok"


# In this process.


async def test_readiness_waits_for_every_issuer(folder: SidecarFolder) -> None:
    configuration = json.loads(folder.write().read_text())
    second = configuration["issuers"][0] | {"issuer": "https://second.example", "name": "second"}
    async with Provider() as provider:
        second["keys"] = {"jwks_uri": f"{provider.origin}/keys"}
        configuration["issuers"].append(second)
        folder.config.write_text(json.dumps(configuration))
        app = App(load(folder.config))
        assert app.missing() == ["keys of issuer main", "keys of issuer second"]
        await app.start()
        async with connected(folder.address) as channel:
            await wait_until(lambda: app.missing() == ["keys of issuer second"])
            assert await health(channel) == NOT_SERVING
            provider.serve("/keys", jwks("b"))
            await wait_until(lambda: app.missing() == [])
            async with asyncio.timeout(HANG_TIMEOUT):
                while await health(channel) != SERVING:
                    pass
        await app.close()


async def test_an_issuer_that_is_not_required_for_readiness_is_reported_and_not_waited_for(
    folder: SidecarFolder,
) -> None:
    configuration = json.loads(folder.write().read_text())
    partner = configuration["issuers"][0] | {"issuer": "https://partner.example", "name": "partner"}
    async with Provider() as provider:
        partner |= {"keys": {"jwks_uri": f"{provider.origin}/keys"}, "required_for_readiness": False}
        configuration["issuers"].append(partner)
        folder.config.write_text(json.dumps(configuration))
        async with folder.sidecar() as sidecar, connected(folder.address) as channel:
            assert await readiness(sidecar.admin_url) == (200, {"ready": True, "missing": ["keys of issuer partner"]})
            assert await health(channel) == SERVING
            assert (await decide(channel, good())).reason == "ok"
            provider.serve("/keys", jwks("b"))
            async with asyncio.timeout(HANG_TIMEOUT):
                while await readiness(sidecar.admin_url) != (200, {"ready": True, "missing": []}):
                    pass


async def test_keys_that_arrive_while_it_drains_do_not_make_it_ready_again(folder: SidecarFolder) -> None:
    async with Provider() as provider:
        folder.write(keys={"jwks_uri": f"{provider.origin}/keys"}, shutdown_delay="1h")
        app = App(load(folder.config))
        await app.start()
        draining = asyncio.create_task(app.drain())
        await wait_until(lambda: app.missing() == ["shutting down"])
        provider.serve("/keys", jwks("a"))
        await app.active.issuers[0].keys.refresh()
        async with connected(folder.address) as channel:
            assert (await decide(channel, good())).reason == "ok"
            assert await health(channel) == NOT_SERVING
        assert app.missing() == ["shutting down"]
        draining.cancel()
        await app.close()


async def test_an_address_in_use_is_an_error_and_leaves_no_open_port(folder: SidecarFolder) -> None:
    admin_port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        folder.write(grpc_address=f"127.0.0.1:{occupied.getsockname()[1]}", admin_address=f"127.0.0.1:{admin_port}")
        app = App(load(folder.config))
        with pytest.raises(StartFailed, match="cannot listen on"):
            await app.start()
        await app.close()
    with socket.create_server(("127.0.0.1", admin_port)):
        pass


async def test_a_failed_background_task_is_logged_and_ends_nothing_else(
    folder: SidecarFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("authz"), "propagate", True)
    app = App(load(folder.write()))

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.active.issuers[0].keys, "run", fail)
    await app.start()
    async with connected(folder.address) as channel:
        assert (await decide(channel, good())).reason == "ok"  # the request fetches the keys itself
    await app.close()
    (logged,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert logged.message == "background task failed"


async def test_it_can_be_closed_at_any_time_and_twice(folder: SidecarFolder) -> None:
    folder.write()
    never_started = App(load(folder.config))
    await never_started.close()
    app = App(load(folder.config))
    await app.start()
    await app.close()
    await app.close()
    assert len(asyncio.all_tasks()) == 1


# Security events.


async def test_it_listens_once_the_saved_security_events_were_read_and_names_them_until_then(
    folder: SidecarFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = json.loads(folder.write().read_text())
    (folder.path / "token").write_text("t0ken\n")
    configuration["issuers"][0]["security_events"] = {
        "poll_endpoint": f"http://127.0.0.1:{free_port()}/poll",  # nothing listens
        "audience": "https://receiver.example",
        "bearer_token_file": "token",
        "snapshot_file": "events.json",
    }
    folder.config.write_text(json.dumps(configuration))
    may_read, read_events = threading.Event(), EventFile.read
    monkeypatch.setattr(EventFile, "read", lambda file: may_read.wait(HANG_TIMEOUT) and read_events(file))
    app = App(load(folder.config))
    starting = asyncio.create_task(app.start())
    await wait_until(app.active.issuers[0].keys.first_keys.is_set)
    assert app.missing() == ["saved security events of issuer main"]
    assert not starting.done()
    assert not (folder.path / "authz.sock").exists()
    may_read.set()
    await starting
    async with connected(folder.address) as channel:
        assert (await decide(channel, good())).reason == "ok"
    await wait_until(lambda: not app.missing())
    await app.close()


# Introspection.


def introspecting(folder: SidecarFolder, endpoint: str, **introspection: Any) -> Path:
    """A configuration whose only issuer has introspection and no keys."""
    configuration = json.loads(folder.write().read_text())
    (folder.path / "secret").write_text("s3cret\n")
    configuration["issuers"][0] |= {
        "keys": {"discovery": False},
        "introspection": {"endpoint": endpoint, "client_id": "my-api", "client_secret_file": "secret"} | introspection,
    }
    folder.config.write_text(json.dumps(configuration))
    return folder.config


ACTIVE = {"active": True, "sub": "alice", "aud": "https://api.example", "client_id": "app", "scope": "a"}


async def test_an_issuer_with_introspection_needs_no_keys_to_be_ready(folder: SidecarFolder) -> None:
    async with Provider() as provider:
        provider.serve("/introspect", json.dumps(ACTIVE | {"exp": time.time() + 300}), content_type="application/json")
        introspecting(folder, f"{provider.origin}/introspect")
        async with folder.sidecar() as sidecar, connected(folder.address) as channel:
            assert await readiness(sidecar.admin_url) == (200, {"ready": True, "missing": []})
            for _ in range(2):
                allowed = await decide(channel, check_request(token="an-opaque-token"))
                assert (allowed.reason, allowed.headers["x-auth-subject"]) == ("ok", "alice")
            assert (await decide(channel, good())).reason == "unknown_key"
            assert await sidecar.stop() == 0
        assert provider.count("/introspect") == 1
        text = (folder.path / "log").read_text()
        assert "an-opaque-token" not in text
        assert "s3cret" not in text


async def test_a_replaced_client_secret_is_used_at_once_and_a_wrong_one_is_logged_once(
    folder: SidecarFolder,
) -> None:
    async with Provider() as provider:

        async def introspect(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            if request.headers["Authorization"] != "Basic bXktYXBpOnJpZ2h0":  # my-api:right
                return aiohttp.web.Response(status=401)
            return aiohttp.web.json_response(ACTIVE | {"exp": time.time() + 300})

        provider.handlers["/introspect"] = introspect
        introspecting(folder, f"{provider.origin}/introspect")
        async with folder.sidecar() as sidecar, connected(folder.address) as channel:
            for _ in range(3):
                refused = await decide(channel, check_request(token="an-opaque-token"))
                assert (refused.http_status, refused.reason) == (503, "introspection_unavailable")
            (folder.path / "secret").write_text("right")
            async with asyncio.timeout(HANG_TIMEOUT):
                while (await decide(channel, check_request(token="an-opaque-token"))).reason != "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert events(sidecar).count("the introspection server rejects this client") == 1


async def test_closing_ends_all_introspection_calls(folder: SidecarFolder) -> None:
    async with Provider() as provider:

        async def hangs(_request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        provider.handlers["/introspect"] = hangs
        app = App(load(introspecting(folder, f"{provider.origin}/introspect", timeout="1h")))
        await app.start()
        answer = read(await app.servicer.check(check_request(token="an-opaque-token"), 0.2))
        assert answer.reason == "deadline_exceeded"
        await app.close()
        assert app.active.issuers[0].introspector is not None
        assert not app.active.issuers[0].introspector._requests


async def test_the_metrics_have_every_rule_and_issuer_from_the_start(folder: SidecarFolder) -> None:
    app = App(load(folder.write()))
    exposition = text_of(app.metrics)
    for series in (
        'authz_checks_total{decision="allow",mode="enforce",reason="ok",rule="everything"} 0.0',
        'authz_checks_total{decision="deny",mode="enforce",reason="no_rule",rule="-"} 0.0',
        'authz_jwks_fetches_total{issuer="main",result="failure"} 0.0',
        'authz_jwks_keys{issuer="main"} 0.0',
        "authz_token_cache_entries 0.0",
        "authz_dpop_replay_cache_entries 0.0",
    ):
        assert series in exposition


async def test_with_tls_the_metrics_have_the_expiry_of_the_certificate(folder: SidecarFolder) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    tls = TlsFiles(folder.path, trustme.CA().issue_cert("a.example", not_after=expires))
    app = App(load(folder.write(tls=tls.written)))
    reported = sample_value(app.metrics, "authz_tls_certificate_not_after_timestamp_seconds")
    assert reported == expires.timestamp()


async def test_the_delay_of_the_event_loop_is_measured(folder: SidecarFolder) -> None:
    app = App(load(folder.write()))
    await app.start()
    await wait_until(lambda: bool(sample_value(app.metrics, "authz_event_loop_delay_seconds_count")))
    await app.close()
