"""Both servers over sockets, as a proxy, an operator and a certificate manager use them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import stat
import warnings
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from cryptography import x509
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from authz_service.authorizer import Pending
from authz_service.core.decision import Allow
from authz_service.core.errors import StartFailed
from authz_service.core.reasons import Reason
from authz_service.telemetry.metrics import Metrics
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.codec import encode_response
from authz_service.transport.ext_authz.servicer import Servicer
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.http2.frames import PREFACE, settings
from authz_service.transport.reflection import Reflection
from authz_service.transport.services import SERVICE
from support.active import active_config
from support.missing import not_proved
from support.samples import sample_value
from transport.pki import TlsFiles
from transport.wire import EPOCH, check_request, padding, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from authz_service.config.server import Tls
    from authz_service.core.decision import Deny

    Check = Callable[[bytes, float | None, str], Coroutine[None, None, bytes]]
    Server = GrpcioServer | AsyncioServer

SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HANG_GUARD = 30.0  # seconds: no test waits for it
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def on_grpcio(address: str, tls: Tls | None, check: Check) -> Server:
    return GrpcioServer(address, tls, check, refuse=refuse)


def on_asyncio(address: str, tls: Tls | None, check: Check) -> Server:
    return AsyncioServer(address, tls, check, lambda: 1 << 20, refuse=refuse, metrics=Metrics(transport="asyncio"))


def refuse(denial: Deny) -> bytes:
    """Encodes the denial of a call that does not reach the check."""
    return encode_response(denial, "-")


SERVER: dict[str, Callable[[str, Tls | None, Check], Server]] = {}


@pytest.fixture(params=[on_grpcio, on_asyncio], autouse=True)
def transport(request: pytest.FixtureRequest) -> None:
    """Each test runs with both servers."""
    SERVER["server"] = request.param


def new_server(address: str, tls: Tls | None = None, check: Check | None = None) -> Server:
    return SERVER["server"](address, tls, check or echo)


async def echo(data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
    return b"answer to " + data


@contextlib.asynccontextmanager
async def running(address: str = "127.0.0.1:0", tls: Tls | None = None, check: Check = echo) -> AsyncIterator[Server]:
    server = new_server(address, tls, check)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def call(channel: grpc.aio.Channel, data: bytes, *, method: str = "Check", timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the caller's deadline is the subject
    calling: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    response = await calling(data, timeout=timeout, wait_for_ready=False)
    assert isinstance(response, bytes)
    return response


async def call_once(target: str, data: bytes = b"x", credentials: grpc.ChannelCredentials | None = None) -> bytes:
    """One call on a new connection."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if target.startswith("unix:"):
        options.append(("grpc.ssl_target_name_override", "localhost"))
    channel = (
        grpc.aio.secure_channel(target, credentials, options)
        if credentials
        else grpc.aio.insecure_channel(target, options)
    )
    async with channel:
        return await call(channel, data, timeout=HANG_GUARD)


async def status_of(calling: Awaitable[Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await calling
    return failed.value.code()


# Addresses.


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"])
async def test_octets_pass_over_tcp(address: str) -> None:
    async with running(address) as server:
        assert server.port > 0
        assert await call_once(f"127.0.0.1:{server.port}", b"\xff\x00") == b"answer to \xff\x00"


@pytest.mark.parametrize("address", ["[::1]:0", "[::]:0", "localhost:0"])
async def test_octets_pass_over_ipv6_and_its_wildcard_accepts_ipv4(address: str) -> None:
    require_ipv6()
    async with running(address) as server:
        hosts = {"[::1]": ["[::1]"], "[::]": ["[::1]", "127.0.0.1"]}.get(address.removesuffix(":0"), ["localhost"])
        for host in hosts:
            assert await call_once(f"{host}:{server.port}") == b"answer to x"


def require_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        not_proved("that the servers listen on IPv6", missing="IPv6")


async def test_octets_pass_over_a_unix_socket_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "authz.sock"
    async with running(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert await call_once(f"unix:{path}") == b"answer to x"


async def test_a_second_server_on_the_port_cannot_start_and_the_first_keeps_serving() -> None:
    async with running() as server:
        for address in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", f"0.0.0.0:{server.port}"):
            with pytest.raises(StartFailed, match=f"cannot listen on {address}"):
                await new_server(address).start()
        for _ in range(10):
            assert await call_once(f"127.0.0.1:{server.port}") == b"answer to x"


async def test_a_port_in_use_by_another_program_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(StartFailed):
        await new_server(f"127.0.0.1:{other.getsockname()[1]}").start()


async def test_a_second_server_on_the_unix_socket_cannot_start_and_the_first_keeps_serving(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'authz.sock'}"
    async with running(address):
        with pytest.raises(StartFailed, match="another process serves it"):
            await new_server(address).start()
        assert await call_once(address) == b"answer to x"


async def test_a_socket_left_behind_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "authz.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    async with running(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert await call_once(f"unix:{path}") == b"answer to x"


@pytest.mark.parametrize("address", ["unix:{folder}/absent/s", "unix:{folder}", "192.0.2.1:9191", "name.invalid:9191"])
async def test_an_address_that_cannot_be_bound_is_an_error_that_names_it(address: str, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="cannot listen on"):
        await new_server(address.format(folder=tmp_path)).start()


async def test_a_stopped_server_frees_its_address(tmp_path: Path) -> None:
    for address in (f"unix:{tmp_path / 'authz.sock'}", None):
        async with running(address or "127.0.0.1:0") as first:
            pass
        async with running(address or f"127.0.0.1:{first.port}"):
            pass


async def test_a_server_can_be_stopped_at_any_time_and_twice() -> None:
    server = new_server("127.0.0.1:0")
    await server.stop(0)
    await server.start()
    await server.stop(0)
    await server.stop(0)


# Calls.


async def test_the_check_gets_the_deadline_of_the_caller_if_there_is_one() -> None:
    remaining: list[float | None] = []

    async def check(_data: bytes, time_remaining: float | None, _traceparent: str) -> bytes:
        remaining.append(time_remaining)
        return b""

    async with running(check=check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await call(channel, b"", timeout=HANG_GUARD)
        await call(channel, b"")
    with_deadline, without = remaining
    assert with_deadline is not None
    assert 0 < with_deadline < HANG_GUARD * 1.1  # grpcio rounds up
    assert without is None


async def test_concurrent_calls_each_get_their_own_response() -> None:
    async def check(data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
        await asyncio.sleep(0)
        return data

    async with running(check=check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        sent = [str(number).encode() for number in range(500)]
        assert await asyncio.gather(*(call(channel, data) for data in sent)) == sent


async def test_concurrent_connections_each_get_their_own_response() -> None:
    async with running() as server:
        sent = [str(number).encode() for number in range(100)]
        responses = await asyncio.gather(*(call_once(f"127.0.0.1:{server.port}", data) for data in sent))
    assert responses == [b"answer to " + data for data in sent]


async def test_a_cancelled_call_is_no_longer_decided() -> None:
    """Canceled explicitly, or by closing the connection."""
    waiting = BlockedServicer()
    async with running(check=waiting.servicer.check) as server:
        target = f"127.0.0.1:{server.port}"
        async with grpc.aio.insecure_channel(target) as channel:
            cancelled = asyncio.create_task(call(channel, check_request()))
            await waiting.until_in_flight(1)
            cancelled.cancel()
            await waiting.until_in_flight(0)
            going_away = asyncio.create_task(call(channel, check_request()))
            await waiting.until_in_flight(1)
        await waiting.until_in_flight(0)
        with pytest.raises(asyncio.CancelledError):
            await going_away


class BlockedServicer:
    """A servicer whose decisions never complete."""

    def __init__(self) -> None:
        class Never(Pending):
            def __init__(self) -> None:
                pass

            async def ready(self) -> None:
                await asyncio.Event().wait()

        class Waits:
            def begin(self, *_arguments: object) -> Pending:
                return Never()

        self.metrics = Metrics(transport="any")
        active = active_config(Waits(), check_deadline=HANG_GUARD)
        self.servicer = Servicer(active, metrics=self.metrics, clock=lambda: EPOCH, timer=lambda: 0.0)

    async def until_in_flight(self, count: int) -> None:
        async with asyncio.timeout(HANG_GUARD):
            while sample_value(self.metrics, "authz_checks_in_flight") != count:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)


def allowing_servicer() -> Servicer:
    class Always:
        def begin(self, *_arguments: object) -> Allow:
            return Allow(Reason.PUBLIC, "r")

    return Servicer(
        active_config(Always()), metrics=Metrics(transport="grpcio"), clock=lambda: EPOCH, timer=lambda: 0.0
    )


@pytest.mark.parametrize("paddings", [1, 5, 20])  # of 1 MiB each, which is the limit
async def test_an_oversized_request_is_denied_without_a_grpc_error(paddings: int) -> None:
    async with running(check=allowing_servicer().check) as server:
        oversized = check_request() + padding(1 << 20) * paddings
        response = read(await call_once(f"127.0.0.1:{server.port}", oversized))
        assert (response.http_status, response.reason) == (400, "malformed_request")
        assert read(await call_once(f"127.0.0.1:{server.port}", check_request())).allowed


@pytest.mark.parametrize("octets", [b"\xff", b"\x0a\xff", b"\xff" * 1000])
async def test_a_malformed_request_is_denied_without_a_grpc_error(octets: bytes) -> None:
    async with running(check=allowing_servicer().check) as server:
        response = read(await call_once(f"127.0.0.1:{server.port}", octets))
        assert (response.http_status, response.reason) == (400, "malformed_request")


@pytest.mark.parametrize("octets", [9_000, 20_000, 60_000])
async def test_metadata_of_any_size_that_a_proxy_relays_is_accepted(octets: int) -> None:
    """A tracing Envoy copies the client's tracestate into the call; by default, grpcio refuses more than 8 KiB."""
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await with_metadata(channel, octets) == b"answer to x"


@pytest.mark.parametrize("octets", [100_000, 1_000_000, 8_000_000])
async def test_oversized_metadata_is_denied_without_a_grpc_error(octets: int) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        response = read(await with_metadata(channel, octets))
        assert (response.http_status, response.reason) == (400, "malformed_request")
        assert await with_metadata(channel, 0) == b"answer to x"


async def with_metadata(channel: grpc.aio.Channel, octets: int) -> bytes:
    calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
    response: bytes = await calling(b"x", metadata=(("tracestate", "a" * octets),), timeout=HANG_GUARD)
    return response


@pytest.mark.parametrize("messages", [[], [b"x", b"x"]])
async def test_a_call_that_is_not_one_message_is_denied_without_a_grpc_error(messages: list[bytes]) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        calling: Any = channel.stream_unary(f"/{SERVICE}/Check")
        response = read(await calling(iter(messages), timeout=HANG_GUARD))
        assert (response.http_status, response.reason) == (400, "malformed_request")


async def test_an_unknown_method_is_unimplemented_and_other_calls_continue() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await status_of(call(channel, b"", method="Approve")) is grpc.StatusCode.UNIMPLEMENTED
        assert await call(channel, b"x") == b"answer to x"


async def test_a_peer_that_does_not_speak_grpc_harms_no_other() -> None:
    async with running() as server:
        for octets in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(octets)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), HANG_GUARD)
            writer.close()
        assert await call_once(f"127.0.0.1:{server.port}") == b"answer to x"


# Stopping.


class Slow:
    """A check that waits for an event."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def check(self, data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
        self.started.set()
        await self.release.wait()
        return b"answer to " + data


async def test_stopping_finishes_calls_in_flight_and_accepts_no_new_ones() -> None:
    slow = Slow()
    async with running(check=slow.check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        in_flight = asyncio.create_task(call(channel, b"x"))
        await slow.started.wait()
        stopping = asyncio.create_task(server.stop(HANG_GUARD))
        await closed(server.port)
        assert await status_of(call_once(f"127.0.0.1:{server.port}")) is grpc.StatusCode.UNAVAILABLE
        slow.release.set()
        assert await in_flight == b"answer to x"
        await stopping


async def closed(port: int) -> None:
    """Wait until the port accepts nothing new."""
    with contextlib.suppress(ConnectionError):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()


async def test_calls_that_outlast_the_grace_are_ended() -> None:
    slow = Slow()
    async with running(check=slow.check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        in_flight = asyncio.create_task(call(channel, b"x"))
        await slow.started.wait()
        await server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError):
            await in_flight


# Health and reflection.


async def test_health_follows_set_serving_for_the_server_and_the_service() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for serving, status in ((None, NOT_SERVING), (True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            if serving is not None:
                await server.set_serving(serving=serving)
            for service in ("", SERVICE):
                assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == status


async def test_liveness_is_serving_whatever_set_serving_says() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="liveness"))
        assert (await watch.read()).status == SERVING
        pending = asyncio.ensure_future(watch.read())
        for serving in (False, True, False):
            await server.set_serving(serving=serving)
            assert (await health.Check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING
        assert not pending.done()
        watch.cancel()
        await asyncio.wait({pending})


async def test_a_watch_of_an_unknown_service_learns_that_it_is_unknown_and_stays_open() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="another"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        pending = asyncio.ensure_future(watch.read())
        await server.set_serving(serving=True)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        assert not pending.done()
        watch.cancel()
        await asyncio.wait({pending})


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        pending_call = health.Check(health_pb2.HealthCheckRequest(service="another"))
        assert await status_of(pending_call) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_a_health_watch_receives_each_change(service: str) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await watch.read()).status == NOT_SERVING
        await server.set_serving(serving=True)
        assert (await watch.read()).status == SERVING
        await server.set_serving(serving=False)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


def reflecting(channel: grpc.aio.Channel, service: str, *requests: dict[str, str]) -> Any:
    """A call of reflection; v1 has the messages of v1alpha."""
    calling: Any = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request: Any = reflection_pb2.ServerReflectionRequest
    return calling(iter([request(**each) for each in requests]))


@pytest.mark.parametrize("version", REFLECTION)
async def test_reflection_describes_services_and_messages(version: str) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        asked = (
            {"list_services": ""},
            {"file_containing_symbol": SERVICE},
            {"file_containing_symbol": "another.Service"},
        )
        listed, described, unknown = [response async for response in reflecting(channel, version, *asked)]
        services = [service.name for service in listed.list_services_response.service]
        assert services == [SERVICE, "grpc.health.v1.Health", *REFLECTION]
        files = [
            FileDescriptorProto.FromString(file) for file in described.file_descriptor_response.file_descriptor_proto
        ]
        assert "authz_service/_pb/external_auth.proto" in [file.name for file in files]
        assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert described.original_request.file_containing_symbol == SERVICE


async def test_a_client_without_declarations_finds_all_that_it_needs_to_call_every_service() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for service in (SERVICE, "grpc.health.v1.Health", *REFLECTION):
            pool = DescriptorPool()
            (response,) = [
                each async for each in reflecting(channel, REFLECTION[0], {"file_containing_symbol": service})
            ]
            for file in reversed(response.file_descriptor_response.file_descriptor_proto):
                pool.AddSerializedFile(file)
            assert pool.FindServiceByName(service).methods


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x01\xff", b"\x0a\x05liv", b"\x0a\x80\x40" + b"a" * (1 << 13)])
@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"])
async def test_a_message_that_is_invalid_or_too_long_is_refused_and_other_calls_continue(
    method: str, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        calling: Any = channel.unary_unary(f"/{method}")
        assert await status_of(calling(message, timeout=HANG_GUARD)) is grpc.StatusCode.INTERNAL
        assert await call(channel, b"x") == b"answer to x"
    assert not caplog.records, "a client could fill the log"


@pytest.mark.parametrize("message", [b"\xff", b"\x3a\x01\xff", b"\x3a\x80\x40" + b"a" * (1 << 13)])
async def test_a_request_for_reflection_that_is_invalid_or_too_long_is_refused(message: bytes) -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        calling: Any = channel.stream_unary(f"/{REFLECTION[0]}/ServerReflectionInfo")
        assert await status_of(calling(iter([message]), timeout=HANG_GUARD)) is grpc.StatusCode.INTERNAL
        assert await call(channel, b"x") == b"answer to x"


async def test_stopping_ends_health_watches() -> None:
    async with running() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await server.stop(HANG_GUARD)
        assert await status_of(watch.read()) is grpc.StatusCode.UNAVAILABLE


async def test_an_exception_in_one_call_does_not_affect_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reflection, "answer", lambda *_: 1 / 0)
    slow = Slow()
    async with running(check=slow.check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        in_flight = asyncio.create_task(call(channel, b"x"))
        await slow.started.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            _ = [response async for response in reflecting(channel, REFLECTION[0], {"list_services": ""})]
        slow.release.set()
        assert await in_flight == b"answer to x"


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ([SPAN], SPAN),
        ([], ""),
        (["x" * 200], "x" * 200),  # the reader validates it
    ],
)
async def test_the_span_of_the_call_reaches_the_check(sent: list[str], passed: str) -> None:
    async def check(_data: bytes, _time_remaining: float | None, traceparent: str) -> bytes:
        return f"[{traceparent}]".encode()

    async with running(check=check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        calling: Any = channel.unary_unary(f"/{SERVICE}/Check")
        for _ in range(2):
            metadata = [("traceparent", each) for each in sent]
            assert await calling(b"x", metadata=metadata, timeout=HANG_GUARD) == f"[{passed}]".encode()
        assert await calling(b"x", timeout=HANG_GUARD) == b"[]"


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_check_that_raises_is_an_explicit_denial_of_that_call_only(at_once: bool) -> None:  # noqa: FBT001 - two ways to fail
    async def check(data: bytes, time_remaining: float | None, _traceparent: str) -> bytes:
        if data == b"good":
            return await echo(data, time_remaining, "")
        await asyncio.sleep(0 if at_once else 0.01)
        raise RuntimeError

    async with running(check=check) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        response = read(await call(channel, b"bad", timeout=HANG_GUARD))
        assert (response.http_status, response.reason) == (500, "internal_error")
        assert await call(channel, b"good") == b"answer to good"


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost", "127.0.0.1")


def trusting(authority: trustme.CA, client_certificate: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """A client that trusts the authority, with a client certificate if there is one."""
    if client_certificate is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    chain = b"".join(blob.bytes() for blob in client_certificate.cert_chain_pems)
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), client_certificate.private_key_pem.bytes(), chain)


async def served_serial(port: int) -> int:
    """The serial number of the certificate that a new connection gets."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=HANG_GUARD)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def serial_of(certificate: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number


async def test_tls_serves_clients_that_trust_its_authority(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    async with running(tls=TlsFiles(tmp_path, certificate).settings) as server:
        assert await call_once(f"127.0.0.1:{server.port}", credentials=trusting(authority)) == b"answer to x"
        for credentials in (None, trusting(trustme.CA())):
            pending_call = call_once(f"127.0.0.1:{server.port}", credentials=credentials)
            assert await status_of(pending_call) is grpc.StatusCode.UNAVAILABLE


async def test_tls_is_served_over_a_unix_socket_too(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path / 's'}"
    async with running(address, TlsFiles(tmp_path, certificate).settings):
        assert await call_once(address, credentials=trusting(authority)) == b"answer to x"
        assert await status_of(call_once(address)) is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_serves_only_clients_with_a_certificate_of_the_client_authority(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    client_authority = trustme.CA()
    async with running(tls=TlsFiles(tmp_path, certificate, client_authority).settings) as server:
        target = f"127.0.0.1:{server.port}"
        good = trusting(authority, client_authority.issue_cert("envoy.example"))
        assert await call_once(target, credentials=good) == b"answer to x"
        for client_certificate in (
            None,
            authority.issue_cert("envoy.example"),
            trustme.CA().issue_cert("envoy.example"),
        ):
            pending_call = call_once(target, credentials=trusting(authority, client_certificate))
            assert await status_of(pending_call) is grpc.StatusCode.UNAVAILABLE


async def test_new_certificates_are_served_to_new_connections_and_old_connections_stay_open(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, certificate)
    async with running(tls=files.settings) as server:
        target = f"127.0.0.1:{server.port}"
        async with grpc.aio.secure_channel(target, trusting(authority)) as old_connection:
            assert await call(old_connection, b"x") == b"answer to x"
            assert await served_serial(server.port) == serial_of(certificate)
            for _ in range(3):
                renewed = authority.issue_cert("localhost", "127.0.0.1")
                files.write(renewed)
                assert await served_serial(server.port) == serial_of(renewed)
                assert await call_once(target, credentials=trusting(authority)) == b"answer to x"
            assert await call(old_connection, b"y") == b"answer to y"


async def test_a_broken_pair_is_not_served_and_the_good_one_stays(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, certificate)
    async with running(tls=files.settings) as server:
        renewed = authority.issue_cert("localhost", "127.0.0.1")
        files.write_certificate(renewed)
        for _ in range(2):
            assert await served_serial(server.port) == serial_of(certificate)
        files.key.unlink()
        assert await served_serial(server.port) == serial_of(certificate)
        files.write_key(renewed)
        assert await served_serial(server.port) == serial_of(renewed)


async def test_a_new_client_authority_takes_effect_on_new_connections(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    old, new = trustme.CA(), trustme.CA()
    files = TlsFiles(tmp_path, certificate, old)
    old_client, new_client = (trusting(authority, each.issue_cert("envoy.example")) for each in (old, new))
    async with running(tls=files.settings) as server:
        target = f"127.0.0.1:{server.port}"
        assert await call_once(target, credentials=old_client) == b"answer to x"
        new.cert_pem.write_to_path(files.client_ca)
        assert await call_once(target, credentials=new_client) == b"answer to x"
        assert await status_of(call_once(target, credentials=old_client)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_tls_session_of_a_replaced_client_authority_is_not_resumed(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A proxy caches its session, and resuming it would skip the verification of its certificate."""
    old, new = trustme.CA(), trustme.CA()
    files = TlsFiles(tmp_path, certificate, old)
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    authority.configure_trust(context)
    old.issue_cert("envoy.example").configure_cert(context)
    async with running(tls=files.settings) as server:
        session = await asyncio.to_thread(tls_session_after_request, server.port, context)
        assert session is not None
        new.cert_pem.write_to_path(files.client_ca)
        with pytest.raises((ssl.SSLError, ConnectionError)):  # with or without an alert
            await asyncio.to_thread(tls_session_after_request, server.port, context, session)


def tls_session_after_request(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """Connect with this session, and return the one that the server issues."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANG_GUARD) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as encrypted,
    ):
        encrypted.sendall(PREFACE + settings({}))
        require_octets(encrypted.recv(9))
        return encrypted.session


def require_octets(octets: bytes) -> None:
    if not octets:
        raise ConnectionError


async def test_old_versions_of_tls_are_refused_and_http2_is_chosen(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    async with running(tls=TlsFiles(tmp_path, certificate).settings) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await asyncio.to_thread(chosen_protocol, server.port, authority, version) == "h2"
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning), pytest.raises(ssl.SSLError):
            await asyncio.to_thread(chosen_protocol, server.port, authority, ssl.TLSVersion.TLSv1_1)


def chosen_protocol(port: int, authority: trustme.CA, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # else it would not offer an old version
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1", "h2"])
    authority.configure_trust(context)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANG_GUARD) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return encrypted.selected_alpn_protocol()


async def test_comments_between_the_certificates_of_an_authority_may_be_any_text(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, certificate, authority)
    files.client_ca.write_bytes("# Behörde für Prüfungen\n".encode() + files.client_ca.read_bytes())
    async with running(tls=files.settings) as server:
        client_certificate = trusting(authority, authority.issue_cert("envoy.example"))
        assert await call_once(f"127.0.0.1:{server.port}", credentials=client_certificate) == b"answer to x"


def test_unusable_certificates_are_an_error_before_the_server_listens(
    certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, certificate)
    files.key.write_bytes(b"")
    with pytest.raises(StartFailed, match="key_file"):
        new_server("127.0.0.1:0", files.settings)
