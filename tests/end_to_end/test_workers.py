"""Several workers behave as one sidecar, for clients, for Prometheus and for operators."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from transport.wire import AUDIENCE, ISSUER, check_request, read, signed

from authz_service.cli import main
from authz_service.transport.services import SERVICE
from support.http_provider import Provider
from support.key_source import jwks
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess, wait_until, workers
from support.transmitter import Transmitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

RELOADED, REJECTED = "configuration applied", "configuration rejected; the previous one stays active"
REFUSED = "revocations rejected; the previous ones stay active"
NEEDS_RESTART = "changed keys take effect only after a restart"
NOT_SHARED = "transport grpcio cannot share a unix socket between processes: write transport: asyncio, or workers: 1"
WAYS = [("asyncio", "tcp"), ("asyncio", "unix"), ("grpcio", "tcp")]


class Service:
    """A configuration for two workers, and the running program."""

    def __init__(self, folder: Path, transport: str = "asyncio", way: str = "tcp") -> None:
        self.folder = folder
        self.file = folder / "config.yaml"
        self.socket = folder / "s"
        self.server = {
            "grpc_address": f"unix:{self.socket}" if way == "unix" else "127.0.0.1:0",
            "admin_address": "127.0.0.1:0",
            "transport": transport,
            "workers": 2,
        }
        self.keys = {"jwks_file": "jwks.json"}
        self.address = ""  # once it runs
        (folder / "jwks.json").write_bytes(jwks("a"))
        self.write("one")

    def write(self, rule: str, *, parts: Mapping[str, Any] | None = None, **server: Any) -> None:
        settings: dict[str, Any] = {
            "server": self.server | server,
            "issuers": [{"issuer": ISSUER, "name": "main", "audiences": [AUDIENCE], "keys": self.keys}],
            "rules": [{"name": rule}],
        }
        new = self.folder / "new"
        new.write_text(json.dumps(settings | dict(parts or {})))
        new.replace(self.file)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SidecarProcess]:
        async with SidecarProcess(self.file, self.folder / "log") as sidecar:
            self.address = str(self.server["grpc_address"])
            if self.address.endswith(":0"):
                self.address = f"127.0.0.1:{sidecar.records('listening')[0]['grpc_port']}"
            yield sidecar

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[Any]:
        """A client with its own connection, without retries."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        async with grpc.aio.insecure_channel(self.address, options) as channel:
            calling: Any = channel.unary_unary(f"/{SERVICE}/Check")

            async def call(data: bytes) -> str:
                answer = read(await calling(data, timeout=HANG_TIMEOUT))
                return f"{answer.metadata['rule']} {answer.reason}"

            yield call

    async def once(self, data: bytes) -> str:
        async with self.caller() as call:
            return str(await call(data))


@pytest.fixture(params=WAYS, ids=[" ".join(way) for way in WAYS])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Service:
    return Service(tmp_path, *request.param)


@pytest.fixture
def by_socket(tmp_path: Path) -> Service:
    return Service(tmp_path, "asyncio", "unix")


def good() -> bytes:
    return check_request(token=signed("a", now=time.time()))


def pid_of(sidecar: SidecarProcess) -> int:
    assert sidecar.process is not None
    return sidecar.process.pid


def sockets(process: int) -> set[str]:
    """The open file descriptors of a process by number."""
    found = set()
    for each in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(each.readlink().name)
    return {each for each in found if each.startswith("socket:")}


async def total(sidecar: SidecarProcess, name: str, **labels: str) -> float:
    return sum(await sidecar.metric(name, **labels))


async def test_connections_are_distributed_and_the_metrics_count_every_call(service: Service) -> None:
    async with service.running() as sidecar, contextlib.AsyncExitStack() as stack:
        pids = workers(pid_of(sidecar))
        assert len(pids) == 2
        idle = {pid: sockets(pid) for pid in pids}
        calls = 0
        async with asyncio.timeout(HANG_TIMEOUT):
            while calls < 16 or not all(sockets(pid) - idle[pid] for pid in pids):
                call = await stack.enter_async_context(service.caller())
                assert await call(good()) == "one ok"
                calls += 1
        assert await total(sidecar, "authz_checks_total") == calls
        assert await total(sidecar, "authz_check_duration_seconds_count") == calls
        assert await total(sidecar, "authz_build_info", transport=str(service.server["transport"])) == 1
        assert await total(sidecar, "authz_ready") == 1
        assert await total(sidecar, "authz_jwks_fetches_total", result="success") == 2  # one per worker
        assert await total(sidecar, "authz_worker_restarts_total") == 0
        assert await total(sidecar, "process_resident_memory_bytes") > max(resident(pid) for pid in pids)
        assert await sidecar.get("/healthz") == (200, '{"status": "ok"}')
        assert json.loads((await sidecar.get("/readyz"))[1]) == {"ready": True, "missing": []}
        assert await asyncio.to_thread(main, ["healthcheck", "--config", str(served_by(service))]) == 0
        assert await sidecar.stop() == 0
    assert not service.socket.exists()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def served_by(service: Service) -> Path:
    """The configuration with the chosen port."""
    service.write("one", grpc_address=service.address)
    return service.file


@pytest.mark.parametrize("hang_up", [False, True])
async def test_every_worker_loads_a_changed_file_and_an_invalid_one_is_reported(
    by_socket: Service,
    hang_up: bool,  # noqa: FBT001
) -> None:
    async with by_socket.running() as sidecar:
        by_socket.write("two")
        if hang_up:
            os.kill(pid_of(sidecar), signal.SIGHUP)
        await wait_until(lambda: {each["worker"] for each in sidecar.records(RELOADED)} == {1, 2})
        assert {await by_socket.once(good()) for _ in range(16)} == {"two ok"}
        assert await total(sidecar, "authz_config_last_reload_successful") == 1
        by_socket.file.write_text("rules: 7")
        await wait_until(lambda: {each["worker"] for each in sidecar.records(REJECTED)} == {1, 2})
        assert await total(sidecar, "authz_config_last_reload_successful") == 0
        assert {await by_socket.once(good()) for _ in range(16)} == {"two ok"}


async def test_every_worker_applies_a_mounted_list_of_revocations_and_keeps_it_when_it_breaks(service: Service) -> None:
    folder, data = service.folder / "mounted", good()

    def mount(version: str, content: str) -> None:
        """Swap a link, as Kubernetes does for a ConfigMap."""
        (folder / version).mkdir(parents=True)
        (folder / version / "revocations.yaml").write_text(content)
        (folder / "new").symlink_to(version)
        (folder / "new").replace(folder / "..data")

    mount("1", "revocations: []")
    (folder / "revocations.yaml").symlink_to("..data/revocations.yaml")
    service.write("one", parts={"revocations_file": str(folder / "revocations.yaml")})
    async with service.running() as sidecar:
        assert {await service.once(data) for _ in range(16)} == {"one ok"}
        mount("2", "revocations: [{issuer: main, subject: alice}, {jti: other}]")
        await wait_until(lambda: {each["worker"] for each in sidecar.records("revocations applied")} == {1, 2})
        assert {await service.once(data) for _ in range(16)} == {"one revoked"}
        assert await sidecar.metric("authz_revocations", source="file") == [2]
        mount("3", "revocations: [{subject: }]")
        await wait_until(lambda: {each["worker"] for each in sidecar.records(REFUSED)} == {1, 2})
        assert await sidecar.metric("authz_revocations_file_rejected") == [1]
        assert {await service.once(data) for _ in range(16)} == {"one revoked"}
        os.kill(pid_of(sidecar), signal.SIGHUP)  # no configuration is applied without the list
        await wait_until(lambda: {each["worker"] for each in sidecar.records(REJECTED)} == {1, 2})
        assert {await service.once(data) for _ in range(16)} == {"one revoked"}
        mount("4", "revocations: [{issuer: main, subject: bob}]")
        await wait_until(lambda: len(sidecar.records("revocations applied")) == 4)
        assert {await service.once(data) for _ in range(16)} == {"one ok"}
        assert await sidecar.metric("authz_revocations_file_rejected") == [0]
        assert not sidecar.records("background task failed")


async def test_one_worker_polls_security_events_for_all_and_another_one_goes_on_when_it_is_killed(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path)
    async with Transmitter() as transmitter:
        transmitter.waits = False
        events = transmitter.security_events(tmp_path, interval="50ms", snapshot_file="events.json")
        issuer = {"issuer": transmitter.issuer, "name": "main", "audiences": ["api"], "security_events": events}
        service.write("one", parts={"issuers": [issuer]})
        before = int(time.time()) - 100
        tokens = {sid: transmitter.access_token(sid=sid, iat=before) for sid in ("s1", "s2", "s3")}

        async def answers(sid: str) -> set[str]:
            return {await service.once(check_request(token=tokens[sid])) for _ in range(16)}

        async def require_revoked(sid: str) -> None:
            async with asyncio.timeout(HANG_TIMEOUT):
                while await answers(sid) != {"one revoked"}:  # noqa: ASYNC110 - another process changes it
                    await asyncio.sleep(0.05)

        async with service.running() as sidecar:
            supervisor = pid_of(sidecar)
            assert await answers("s1") == {"one ok"}
            await transmitter.revoke_session("u1", "s1")
            await require_revoked("s1")
            (poller,) = [pid for pid in workers(supervisor) if has_open(pid, tmp_path / "events.json.lock")]
            os.kill(poller, signal.SIGKILL)
            await transmitter.revoke_session("u1", "s2")
            await wait_until(lambda: len(workers(supervisor)) == 2 and poller not in workers(supervisor))
            await sidecar.ready()
            assert await answers("s1") == {"one revoked"}  # of the new worker as well
            await require_revoked("s2")
            assert await answers("s3") == {"one ok"}
            assert await sidecar.metric("authz_revocations", source="events") == [2]
            assert len(transmitter.acknowledged) == 2
            assert not sidecar.records("background task failed")


def has_open(process: int, file: Path) -> bool:
    found = False
    for each in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= each.readlink() == file
    return found


async def test_under_load_a_killed_worker_affects_only_its_own_connections(service: Service) -> None:
    async with service.running() as sidecar:
        supervisor = pid_of(sidecar)
        victim, survivor = workers(supervisor)
        idle = {pid: sockets(pid) for pid in (victim, survivor)}
        answers: Counter[str] = Counter()
        done = asyncio.Event()

        async def keep_calling() -> None:
            """Call on one connection until it ends, then on another, as a proxy does."""
            while not done.is_set():
                async with service.caller() as call:
                    try:
                        while not done.is_set():
                            answers[await call(good())] += 1
                    except grpc.aio.AioRpcError as error:
                        assert error.code() == grpc.StatusCode.UNAVAILABLE, error

        calling = [asyncio.create_task(keep_calling()) for _ in range(24)]
        await wait_until(
            lambda: answers.total() > 200 and sum(len(sockets(pid) - idle[pid]) for pid in idle) == len(calling)
        )
        kept = sockets(survivor)
        counted = await total(sidecar, "authz_checks_total")
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: len(workers(supervisor)) == 2 and victim not in workers(supervisor))
        assert await total(sidecar, "authz_checks_total") >= counted
        await sidecar.ready()
        after = answers.total()
        await wait_until(lambda: answers.total() > after + 200)
        assert kept <= sockets(survivor), "a connection was lost that was not the killed worker's"
        done.set()
        await asyncio.gather(*calling)
        assert answers.keys() == {"one ok"}
        assert survivor in workers(supervisor)
        assert [(each["cause"], each["number"] in {1, 2}) for each in sidecar.records("worker ended unexpectedly")] == [
            ("status -9", True)
        ]
        assert await total(sidecar, "authz_worker_restarts_total") == 1
        assert await total(sidecar, "authz_checks_total") >= counted
        assert await sidecar.stop() == 0


async def test_the_counts_of_dead_workers_are_kept(by_socket: Service) -> None:
    async with by_socket.running() as sidecar:
        for _ in range(16):
            await by_socket.once(good())
        assert await total(sidecar, "authz_checks_total") == 16
        for times, victim in enumerate(workers(pid_of(sidecar)), 1):
            os.kill(victim, signal.SIGKILL)
            await wait_until(lambda times=times: len(sidecar.records("worker ended unexpectedly")) == times)  # type: ignore[misc]
            await sidecar.ready()
            assert await total(sidecar, "authz_checks_total") == 16
            assert await total(sidecar, "authz_worker_restarts_total") == times


async def test_a_replacement_listens_and_uses_the_current_file(tmp_path: Path) -> None:
    service = Service(tmp_path)
    async with service.running() as sidecar:
        service.write("two", grpc_address="127.0.0.1:1", transport="grpcio", workers=3)
        await wait_until(lambda: {each["worker"] for each in sidecar.records(NEEDS_RESTART)} == {1, 2})
        os.kill(workers(pid_of(sidecar))[0], signal.SIGKILL)
        await wait_until(lambda: len(sidecar.records("worker ended unexpectedly")) == 1)
        await sidecar.ready()
        assert len(workers(pid_of(sidecar))) == 2
        assert {await service.once(good()) for _ in range(16)} == {"two ok"}
        assert await total(sidecar, "authz_build_info", transport="asyncio") == 1
        assert await total(sidecar, "authz_build_info") == 1


@pytest.mark.parametrize("written_down", [True, False])
async def test_a_replacement_denies_without_a_provider_unless_it_has_a_snapshot(
    by_socket: Service,
    written_down: bool,  # noqa: FBT001
) -> None:
    async with Provider() as provider:
        provider.serve("/jwks", jwks("a"))
        by_socket.keys = {"jwks_uri": f"{provider.origin}/jwks", "refresh_interval": "1h"}
        if written_down:
            by_socket.keys["snapshot_file"] = "keys.json"
        by_socket.write("one")
        async with by_socket.running() as sidecar:
            await wait_until(lambda: not written_down or (by_socket.folder / "keys.json").exists())
            provider.serve("/jwks", b"", status=503)
            for times in (1, 2):  # until no worker that fetched them is left
                os.kill(workers(pid_of(sidecar))[0], signal.SIGKILL)
                await wait_until(lambda times=times: len(sidecar.records("worker ended unexpectedly")) == times)  # type: ignore[misc]
                await wait_until(lambda: len(workers(pid_of(sidecar))) == 2)
                if written_down:
                    await sidecar.ready()
            expected = "one ok" if written_down else "one keys_unavailable"
            async with asyncio.timeout(HANG_TIMEOUT):
                while {await by_socket.once(good()) for _ in range(16)} != {expected}:
                    pass


async def test_workers_import_nothing_from_the_working_directory(by_socket: Service, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('of the working directory')")
    isolated = [sys.executable, "-P", *command(by_socket)[1:]]
    process = await asyncio.create_subprocess_exec(*isolated, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(HANG_TIMEOUT):
        while "listening" not in (line := (await process.stderr.readline()).decode()):
            assert line, "it ended"
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def test_it_exits_cleanly_on_a_signal_while_its_workers_start(by_socket: Service) -> None:
    process = await asyncio.create_subprocess_exec(*command(by_socket))
    await wait_until(lambda: len(workers(process.pid)) == 2)
    process.terminate()
    async with asyncio.timeout(HANG_TIMEOUT):
        assert await process.wait() == 0
    assert not by_socket.socket.exists()


async def test_sigint_to_all_processes_is_a_clean_shutdown(by_socket: Service) -> None:
    async with by_socket.running() as sidecar:
        assert sidecar.process is not None
        for pid in (*workers(sidecar.process.pid), sidecar.process.pid):  # as a terminal does, supervisor last
            os.kill(pid, signal.SIGINT)
        async with asyncio.timeout(HANG_TIMEOUT):
            assert await sidecar.process.wait() == 0


async def test_readiness_names_the_issuers_that_it_does_not_require_for_each_worker(by_socket: Service) -> None:
    document = json.loads(by_socket.file.read_text())
    unreachable = {"jwks_uri": "http://127.0.0.1:9/keys"}
    partner = {"issuer": "https://partner.example/", "name": "partner", "keys": unreachable}
    document["issuers"].append(document["issuers"][0] | partner | {"required_for_readiness": False})
    by_socket.file.write_text(json.dumps(document))
    async with by_socket.running() as sidecar:
        status, text = await sidecar.get("/readyz")
        assert (status, json.loads(text)["ready"]) == (200, True)
        named = [f"worker {number}: keys of issuer partner" for number in (1, 2)]
        assert sorted(json.loads(text)["missing"]) == named


async def test_readiness_names_the_missing_worker(by_socket: Service) -> None:
    async with by_socket.running() as sidecar:
        supervisor = pid_of(sidecar)
        by_socket.file.write_text("rules: 7")  # so that a replacement fails
        os.kill(workers(supervisor)[0], signal.SIGKILL)
        await wait_until(lambda: len(sidecar.records("worker ended unexpectedly")) >= 2)
        status, text = await sidecar.get("/readyz")
        assert (status, json.loads(text)["ready"]) == (503, False)
        assert json.loads(text)["missing"] in (["worker 1"], ["worker 2"])
        assert await by_socket.once(good()) == "one ok"  # the other worker serves
        by_socket.write("two")
        await sidecar.ready()
        assert await sidecar.stop() == 0


async def test_an_unresponsive_worker_is_named_and_its_metrics_are_kept(by_socket: Service) -> None:
    async with by_socket.running() as sidecar:
        assert await by_socket.once(good()) == "one ok"
        counted = await total(sidecar, "authz_checks_total")
        first, second = workers(pid_of(sidecar))
        for stopped in (first, second):
            os.kill(stopped, signal.SIGSTOP)
        try:
            status, text = await sidecar.get("/readyz")
            assert status == 503
            assert sorted(json.loads(text)["missing"]) == ["worker 1 does not answer", "worker 2 does not answer"]
            assert await total(sidecar, "authz_checks_total") == counted == 1
        finally:
            for stopped in (first, second):
                os.kill(stopped, signal.SIGCONT)
        await sidecar.ready()


async def test_workers_exit_when_their_supervisor_dies(by_socket: Service) -> None:
    async with by_socket.running() as sidecar:
        supervisor = pid_of(sidecar)
        orphans = workers(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        await wait_until(lambda: not any(Path(f"/proc/{each}/exe").exists() for each in orphans))
    async with by_socket.running() as sidecar:  # and the address is free again
        assert await by_socket.once(good()) == "one ok"


async def test_shutdown_finishes_requests_in_flight_and_frees_the_address(service: Service) -> None:
    async with service.running() as sidecar:
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(service.caller()) for _ in range(8)]
            answers: Counter[str] = Counter()

            async def keep_calling(call: Any) -> None:
                with contextlib.suppress(
                    grpc.aio.AioRpcError
                ):  # of a call that started after the workers stopped accepting
                    while True:
                        answers[await call(good())] += 1

            calling = [asyncio.create_task(keep_calling(call)) for call in callers]
            await wait_until(lambda: answers.total() > 100)
            assert await sidecar.stop() == 0
            await asyncio.gather(*calling)
        assert answers.keys() == {"one ok"}
        assert sidecar.records("stopped")[-1].keys() == {"time", "level", "logger", "event"}  # of the supervisor
        assert [each.get("worker") for each in sidecar.records("stopped")].count(None) == 1
    async with service.running():
        assert await service.once(good()) == "one ok"


def command(service: Service) -> list[str]:
    return [sys.executable, "-m", "authz_service", "serve", "--config", str(service.file)]


async def run(service: Service, **environment: str) -> tuple[int | None, str]:
    """Run it until it exits; returns the exit status and the output."""
    process = await asyncio.create_subprocess_exec(
        *command(service), stderr=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    async with asyncio.timeout(HANG_TIMEOUT):
        _, output = await process.communicate()
    return process.returncode, output.decode()


async def test_an_invalid_configuration_is_reported_once_and_fails_the_start(by_socket: Service) -> None:
    by_socket.file.write_text("rules: 7")
    status, output = await run(by_socket)
    assert status == 1
    assert output.count("issuers") == 1


async def test_an_address_in_use_fails_the_start_before_any_worker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = Service(tmp_path)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service.write("one", grpc_address=address)
        assert await run(service) == (1, f"authz-service: cannot listen on {address}: in use\n")


async def test_two_supervisors_cannot_share_an_address(service: Service) -> None:
    async with service.running():
        served_by(service)
        status, output = await run(service)
        assert status == 1
        assert "cannot listen on" in output
        assert await service.once(good()) == "one ok"


def test_an_address_that_workers_cannot_share_is_rejected_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(tmp_path, "grpcio", "unix")
    assert main(["check-config", str(service.file)]) == 1
    assert f"server.workers: {NOT_SHARED}" in capsys.readouterr().out


async def test_workers_that_die_at_start_fail_it_with_their_own_error(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--worker' in sys.orig_argv: print('my own words', file=sys.stderr); os._exit(1)\n"
    )
    there = os.environ.get("PYTHONPATH", "")
    status, output = await run(Service(tmp_path), PYTHONPATH=f"{tmp_path}:{there}")
    assert status == 1
    assert "my own words\n" in output
    assert output.splitlines()[-1].startswith("authz-service: worker ")
    assert output.endswith(" ended before it served: status 1\n")
