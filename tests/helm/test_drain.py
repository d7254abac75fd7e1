"""Shape gateway: how a pod stops. The hook of authz-service makes a real Envoy announce it, and no request is cut."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import yaml
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from h2.connection import H2Connection
from hyperframe.frame import Frame, GoAwayFrame

from generate import CHART, render
from support.chart import NAME, container, containers, manifests, merged, notes, one, shape
from support.echo import serving
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.h2_client import HANG_GUARD
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from types import ModuleType

PUBLIC = {"name": "all", "match": {"methods": ["GET", "POST"], "paths": ["/**"]}, "access": "public"}
NO_STREAM_IS_LAST = (1 << 31) - 1  # of the first GOAWAY, after which streams are still accepted
SOCKET = "/run/authz/envoy-admin.sock"
Step = tuple[str, int]


class Slow:
    """An application whose requests for /slow end when the test says so."""

    def __init__(self) -> None:
        self.arrived, self.released = asyncio.Event(), asyncio.Event()

    async def serve(self, request: web.Request) -> web.Response:
        if request.path == "/slow":
            self.arrived.set()
            await self.released.wait()
        return web.Response(text="done")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.serve)
        async with serving(application) as port:
            yield port


@contextlib.asynccontextmanager
async def gateway(folder: Path, port: int, protocol: str = "http1") -> AsyncIterator[RunningEnvoy]:
    """The chart's gateway in front of the application at this port; everybody may call it."""
    server = {"grpc_address": f"unix:{folder}/authz.sock", "admin_address": "0.0.0.0:0"}
    issuer = {"issuer": "http://127.0.0.1:9", "audiences": ["https://shop/"], "required_for_readiness": False}
    values = {
        "config": {"server": server, "issuers": [issuer], "rules": [PUBLIC]},
        "gateway": {"application": {"protocol": protocol}},
    }
    found = manifests("gateway", values)
    config = folder / "config.yaml"
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    places = {"application": loopback(port), "admin": pipe(folder / "admin.sock")}
    async with (
        SidecarProcess(config, folder / "sidecar.log"),
        running_envoy(relocated(bootstrap, places), folder) as envoy,
    ):
        yield envoy


async def run_hook(name: str, folder: Path) -> int:
    """Run a hook of authz-service as Kubernetes does, with the socket of the test; returns the exit status."""
    found = manifests("gateway")
    pod = one(found, "Deployment")["spec"]["template"]
    program, script, *arguments = container(pod)["lifecycle"][name]["exec"]["command"]
    assert (program, script) == ("python", "/etc/envoy/drain.py")
    assert SOCKET in arguments
    (folder / "drain.py").write_text(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["drain.py"])
    own = [str(folder / "admin.sock") if each == SOCKET else each for each in arguments]
    process = await asyncio.create_subprocess_exec(sys.executable, str(folder / "drain.py"), *own)
    return await process.wait()


async def start_drain(folder: Path) -> None:
    assert await run_hook("preStop", folder) == 0


def test_a_rollback_that_removes_the_script_leaves_it_to_the_pods_that_stop() -> None:
    pod = one(manifests("gateway"), "Deployment")["spec"]["template"]
    (mount,) = [each for each in container(pod)["volumeMounts"] if each["name"] == "envoy-config"]
    assert (mount["mountPath"], mount["subPath"]) == ("/etc/envoy/drain.py", "drain.py")  # Kubernetes never updates it


class Kept:
    """A kept HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n".encode())

    async def receive(self) -> tuple[bytes, bool]:
        """The status line of the response, and whether it ends the connection."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert await self._reader.readexactly(4) == b"done"
        return head.partition(b"\r\n")[0], b"\r\nconnection: close\r\n" in head

    async def get(self) -> tuple[bytes, bool]:
        self.send("/")
        return await self.receive()

    async def closed(self) -> bool:
        """Wait until Envoy closes it."""
        return await self._reader.read() == b""


@contextlib.asynccontextmanager
async def kept(port: int) -> AsyncIterator[Kept]:
    connection = Kept(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield connection
    finally:
        connection.writer.close()


OK = b"HTTP/1.1 200 OK"


async def test_http1_connections_end_with_their_next_response_and_no_request_is_cut(tmp_path: Path) -> None:
    application = Slow()
    async with asyncio.timeout(HANG_GUARD), application.running() as port, gateway(tmp_path, port) as envoy:
        http = envoy.ports["http"]
        async with kept(http) as used, kept(http) as idle, kept(http) as busy:
            assert [await each.get() for each in (used, idle)] == [(OK, False)] * 2
            busy.send("/slow")
            await application.arrived.wait()
            await start_drain(tmp_path)
            assert await used.get() == (OK, True)
            async with kept(http) as new:  # from a client that does not know yet that the pod stops
                assert await new.get() == (OK, True)
            assert await used.closed()
            assert await idle.get() == (OK, True)  # it was left open until its next request
            application.released.set()
            assert await busy.receive() == (OK, True)


class Frames:
    """An HTTP/2 connection, read frame by frame: the h2 library treats a GOAWAY as the end of all streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._h2 = H2Connection()
        self._h2.initiate_connection()

    def get(self, path: str) -> int:
        """Send a request and return its stream."""
        stream: int = self._h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", path)]
        self._h2.send_headers(stream, head, end_stream=True)
        self.writer.write(self._h2.data_to_send())
        return stream

    async def receive(self) -> Step | None:
        """The next GOAWAY or the next end of a response, with its stream; None at the end of the connection."""
        while head := await self._reader.read(9):
            frame, length = Frame.parse_frame_header(memoryview(head + await self._reader.readexactly(9 - len(head))))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
            if isinstance(frame, GoAwayFrame):
                assert frame.error_code == 0
                return "goaway", frame.last_stream_id
            if "END_STREAM" in frame.flags:
                return "response", frame.stream_id
        return None


async def test_http2_connections_get_goaway_with_their_next_response_and_no_stream_is_cut(tmp_path: Path) -> None:
    application = Slow()
    async with asyncio.timeout(HANG_GUARD), application.running() as port, gateway(tmp_path, port) as envoy:
        client = Frames(*await asyncio.open_connection("127.0.0.1", envoy.ports["http"]))
        first = client.get("/")
        assert await client.receive() == ("response", first)
        slow = client.get("/slow")
        await application.arrived.wait()
        await start_drain(tmp_path)
        fast = client.get("/")
        assert await client.receive() == ("goaway", NO_STREAM_IS_LAST)
        assert await client.receive() == ("response", fast)
        late = client.get("/")  # from a client that has not received the GOAWAY yet
        assert await client.receive() == ("response", late)
        assert await client.receive() == ("goaway", late)
        application.released.set()
        assert await client.receive() == ("response", slow)
        assert await client.receive() is None
        client.writer.close()


async def test_a_grpc_client_loses_no_call(tmp_path: Path) -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        gateway(tmp_path, port, "http2") as envoy,
        grpc.aio.insecure_channel(f"127.0.0.1:{envoy.ports['http']}") as channel,
    ):
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

        async def call(count: int) -> None:
            for _ in range(count):
                await check(health_pb2.HealthCheckRequest())  # raises unless the status is OK

        callers = [asyncio.create_task(call(200)) for _ in range(5)]
        await call(20)
        await start_drain(tmp_path)
        await asyncio.gather(*callers, call(20))
    await server.stop(0)


async def test_envoy_remains_ready_while_it_drains(tmp_path: Path) -> None:
    application = Slow()
    async with application.running() as port, gateway(tmp_path, port) as envoy, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{envoy.ports['stats']}/ready"
        for _ in range(2):
            async with session.get(url) as answer:
                assert answer.status == 200
            await start_drain(tmp_path)


async def test_a_restart_of_authz_service_alone_leaves_no_drain_behind(tmp_path: Path) -> None:
    """Kubernetes runs the preStop hook as well if a probe fails, and then only this container stops."""
    application = Slow()
    async with asyncio.timeout(HANG_GUARD), application.running() as port, gateway(tmp_path, port) as envoy:
        await start_drain(tmp_path)
        async with kept(envoy.ports["http"]) as connection:
            assert await connection.get() == (OK, True)
        assert await run_hook("postStart", tmp_path) == 0
        async with kept(envoy.ports["http"]) as connection:
            assert [await connection.get() for _ in range(2)] == [(OK, False)] * 2


async def test_the_first_start_does_not_fail_before_envoy_runs(tmp_path: Path) -> None:
    assert await run_hook("postStart", tmp_path) == 0
    stale = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), tmp_path / "admin.sock")
    async with stale:
        assert await run_hook("postStart", tmp_path) == 0


# The hook.


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def hook(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("drain", CHART / "files" / "drain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("time.sleep", slept.append)
    return module


def test_a_hook_that_does_not_reach_envoy_reports_it_after_its_time(
    hook: ModuleType, slept: list[float], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        hook.main("start", str(tmp_path / "envoy-admin.sock"), "36")
    assert slept == [36]


async def test_a_hook_that_envoy_rejects_reports_it_after_its_time(
    hook: ModuleType, slept: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    path = str(tmp_path / "envoy-admin.sock")
    async with await asyncio.start_unix_server(reject, path):
        assert await asyncio.to_thread(hook.main, "start", path, "36") == 1
    assert slept == [36]
    assert "404" in capfd.readouterr().err


# The pod.


def lifecycles(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The preStop hooks of the pod's containers, of authz-service only the arguments of the script."""
    spec = one(manifests("gateway", changes), "Deployment")["spec"]["template"]["spec"]
    both = [*spec.get("initContainers", []), *spec["containers"]]
    hooks = {each["name"]: each.get("lifecycle", {}).get("preStop") for each in both}
    if "exec" in (hooks["authz-service"] or {}):
        hooks["authz-service"] = hooks["authz-service"]["exec"]["command"][3:]
    return hooks | {"grace": spec["terminationGracePeriodSeconds"]}


def stopping(drain: int | None = None, **others: Any) -> dict[str, Any]:
    return merged({"gateway": {"envoy": {"drainSeconds": drain}}}, others)


def envoy_values(**settings: Any) -> dict[str, Any]:
    return {"gateway": {"envoy": settings}}


@pytest.mark.parametrize(
    ("changes", "drain", "grace"),
    [
        ({}, 35, 50),
        (envoy_values(routeTimeout="150.5s"), 156, 171),
        (envoy_values(routeTimeout="0.5s"), 6, 30),
        (envoy_values(routeTimeout="0s"), 35, 50),
        (envoy_values(drainSeconds=10), 10, 30),
        (envoy_values(drainSeconds=120) | {"config": {"server": {"shutdown_grace": "20s"}}}, 120, 145),
        ({"terminationGracePeriodSeconds": 45}, 35, 45),
    ],
)
def test_no_request_within_the_timeout_of_the_route_is_cut_by_default(
    changes: dict[str, Any], drain: int, grace: int
) -> None:
    sleep = {"sleep": {"seconds": drain}}
    assert lifecycles(changes) == {
        "authz-service": [SOCKET, "0"], "envoy": sleep, "application": sleep, "grace": grace,
    }  # fmt: skip


def test_a_plain_container_serves_until_envoy_has_exited() -> None:
    sleep = {"sleep": {"seconds": 35}}
    assert lifecycles({"sidecar": {"native": False}}) == {
        "authz-service": [SOCKET, "36"], "envoy": sleep, "application": sleep, "grace": 50,
    }  # fmt: skip


def test_without_drain_there_are_no_hooks() -> None:
    assert lifecycles(envoy_values(drainSeconds=0)) == {
        "authz-service": None, "envoy": None, "application": None, "grace": 30,
    }  # fmt: skip


@pytest.mark.parametrize("native", [True, False])
def test_a_hook_in_the_values_replaces_only_its_own_kind_of_hook_of_authz_service(native: bool) -> None:  # noqa: FBT001
    (sleep, other) = ({"sleep": {"seconds": 35}}, {"exec": {"command": ["true"]}})
    plain = {"sidecar": {"native": native}}
    own = plain | {"lifecycle": {"postStart": other}}
    pod = one(manifests("gateway", own), "Deployment")["spec"]["template"]
    assert container(pod)["lifecycle"]["postStart"] == other
    started = lifecycles(own)
    assert (started["authz-service"], started["envoy"]) == ([SOCKET, "0" if native else "36"], sleep)
    replaced = lifecycles(plain | {"lifecycle": {"preStop": {"sleep": {"seconds": 9}}}})
    assert (replaced["authz-service"], replaced["envoy"]) == ({"sleep": {"seconds": 9}}, sleep)


PROBES = ("livenessProbe", "startupProbe")


def grace_of_probes(changes: dict[str, Any]) -> dict[tuple[str, str], int | None]:
    """How long each container may take to stop if this probe fails; None is the time of the pod."""
    pod = one(manifests("gateway", changes), "Deployment")["spec"]["template"]
    return {
        (each["name"], probe): each[probe].get("terminationGracePeriodSeconds")
        for each in containers(pod) for probe in PROBES if probe in each
    }  # fmt: skip


@pytest.mark.parametrize("native", [True, False])
def test_a_container_that_a_probe_restarts_does_not_wait_for_the_drain(native: bool) -> None:  # noqa: FBT001
    probes = {each: {"httpGet": {"path": "/healthz", "port": 8080}} for each in PROBES}
    changes = merged({"sidecar": {"native": native}}, {"gateway": {"application": probes}})
    assert grace_of_probes(changes) == {
        ("authz-service", "livenessProbe"): 5,
        ("authz-service", "startupProbe"): 5,
        ("envoy", "livenessProbe"): 5,
        ("application", "livenessProbe"): 5,
        ("application", "startupProbe"): 5,
    }
    own = {"gateway": {"application": {"livenessProbe": {"terminationGracePeriodSeconds": 20}}}}
    assert grace_of_probes(merged(changes, own))["application", "livenessProbe"] == 20
    without = grace_of_probes(merged(changes, envoy_values(drainSeconds=0)))
    assert without["application", "livenessProbe"] is None


def test_before_kubernetes_1_30_there_are_no_hooks_and_the_notes_say_what_is_cut(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "authz-service")
    for template in ("_envoy.tpl", "NOTES.txt"):  # Helm's engine renders for its own version of Kubernetes only
        file = copy / "templates" / template
        file.write_text(file.read_text().replace(".Capabilities.KubeVersion.Version", '"v1.29.9"'))
    for native in (True, False):
        rendered = render(copy, merged(shape("gateway"), {"sidecar": {"native": native}}))
        assert "lifecycle" not in rendered["authz-service/templates/deployment.yaml"]
        assert "when a pod stops, all its requests are cut" in rendered["authz-service/templates/NOTES.txt"]
    assert "requests are cut" not in notes("gateway")


def test_the_script_and_the_socket_are_mounted() -> None:
    found = manifests("gateway")
    mounts = container(one(found, "Deployment")["spec"]["template"])["volumeMounts"]
    assert {"/etc/envoy/drain.py", "/run/authz"} <= {each["mountPath"] for each in mounts}
    admin = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])["admin"]
    assert admin["address"]["pipe"] == {"path": SOCKET, "mode": 0o600}
