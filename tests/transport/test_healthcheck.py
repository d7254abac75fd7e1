"""The probe succeeds for a sidecar that is serving, fails for everything else, and never raises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from authz_service.config.server import Server
from authz_service.telemetry.metrics import Metrics
from authz_service.transport import healthcheck
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.healthcheck import is_serving
from authz_service.transport.http2 import frames
from authz_service.transport.http2.compression import encode
from authz_service.transport.http2.grpc_framing import RESPONSE, prefixed, trailers
from authz_service.transport.http2.grpc_framing import Status as Code
from support.uncovered import PYTHON
from transport.pki import TlsFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from authz_service.config.server import Tls

    Sends = Callable[[socket.socket], object]

SERVING = b"\x08\x01"


async def never(_data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
    raise AssertionError("a probe must not call Check")


def on_grpcio(address: str, tls: Tls | None) -> GrpcioServer | AsyncioServer:
    return GrpcioServer(address, tls, never, refuse=lambda _denial: b"")


def on_asyncio(address: str, tls: Tls | None) -> GrpcioServer | AsyncioServer:
    metrics = Metrics(transport="asyncio")
    return AsyncioServer(address, tls, never, lambda: 1 << 20, refuse=lambda _denial: b"", metrics=metrics)


NEW_SERVER: dict[str, Callable[[str, Tls | None], GrpcioServer | AsyncioServer]] = {}


@pytest.fixture(params=[on_grpcio, on_asyncio], autouse=True)
def transport(request: pytest.FixtureRequest) -> None:
    """Each test runs with both servers."""
    NEW_SERVER["server"] = request.param


def server_settings(address: str, files: TlsFiles | None = None) -> Server:
    return Server(grpc_address=address, tls=files.settings) if files else Server(grpc_address=address)


@contextlib.asynccontextmanager
async def running(
    address: str, files: TlsFiles | None = None, *, serving: bool = True
) -> AsyncIterator[GrpcioServer | AsyncioServer]:
    server = NEW_SERVER["server"](address, files.settings if files else None)
    await server.start()
    await server.set_serving(serving=serving)
    try:
        yield server
    finally:
        await server.stop(0)


async def probe(address: str, files: TlsFiles | None = None) -> tuple[bool, str]:
    return await asyncio.to_thread(is_serving, server_settings(address, files))


@pytest.mark.parametrize(
    ("listening", "queried"),
    [
        ("127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("localhost:{port}", "localhost:{port}"),
        ("0.0.0.0:{port}", "127.0.0.1:{port}"),
        ("[::]:{port}", "[::1]:{port}"),
    ],
)
async def test_a_serving_sidecar_is_found_at_its_listening_address(listening: str, queried: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running(listening.format(port=port)):
        result = await probe(listening.format(port=port))
    assert result == (True, f"{queried.format(port=port)} is SERVING")


async def test_a_serving_sidecar_is_found_at_its_unix_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    async with running(address):
        assert await probe(address) == (True, f"{address} is SERVING")


async def test_an_address_that_only_ends_like_a_wildcard_is_queried_as_it_is() -> None:
    async with running("0.0.0.0:0") as server:
        serving, message = await probe(f"10.0.0.0:{server.port}")
    assert not serving
    assert message.startswith(f"10.0.0.0:{server.port} ")


async def test_a_sidecar_that_is_not_ready_or_draining_is_not_serving(tmp_path: Path) -> None:
    async with running(f"unix:{tmp_path / 's'}", serving=False):
        assert await probe(f"unix:{tmp_path / 's'}") == (False, f"unix:{tmp_path / 's'} is NOT_SERVING")


async def test_an_address_without_a_listener_is_not_serving(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    assert await probe(address) == (False, f"{address} does not answer: No such file or directory")


async def test_a_server_that_accepts_and_never_answers_is_not_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        serving, message = await probe(f"127.0.0.1:{silent.getsockname()[1]}")
    assert not serving
    assert message.endswith(" does not answer: no response in time")


async def test_a_port_or_socket_that_nobody_serves_has_the_cause_of_the_system(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert await probe(f"127.0.0.1:{port}") == (False, f"127.0.0.1:{port} does not answer: Connection refused")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "s"))
    assert await probe(f"unix:{tmp_path / 's'}") == (
        False,
        f"unix:{tmp_path / 's'} does not answer: Connection refused",
    )


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("name", ["authz.mesh.svc", "127.0.0.1", "::1", "*.example.org", "b\u00fccher.example"])
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("place", ["tcp", "unix"])
async def test_a_sidecar_with_tls_is_found_whatever_name_its_certificate_has(
    authority: trustme.CA, name: str, place: str, tmp_path: Path, *, mutual: bool
) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert(name), authority if mutual else None)
    address = f"unix:{tmp_path / 's'}" if place == "unix" else "127.0.0.1:0"
    async with running(address, files) as server:
        assert await probe(address.replace(":0", f":{server.port}"), files) == (
            True,
            f"{address.replace(':0', f':{server.port}')} is SERVING",
        )


async def test_a_sidecar_with_a_certificate_of_an_intermediate_authority_is_found(tmp_path: Path) -> None:
    root = trustme.CA()
    files = TlsFiles(tmp_path, root.create_child_ca().issue_cert("a.example"), root)
    address = f"unix:{tmp_path / 's'}"
    async with running(address, files):
        assert (await probe(address, files))[0]


async def test_a_server_with_another_certificate_is_not_serving(authority: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TlsFiles(tmp_path / "other", trustme.CA().issue_cert("a.example"))
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    address = f"unix:{tmp_path / 's'}"
    async with running(address, other):
        serving, message = await probe(address, files)
    assert not serving
    assert "does not answer: it accepts connections, but no gRPC with this server.tls: " in message


async def test_a_sidecar_with_tls_that_is_queried_without_is_not_serving(authority: trustme.CA, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    async with running(address, TlsFiles(tmp_path, authority.issue_cert("a.example"))):
        serving, message = await probe(address)
    assert not serving
    assert "does not answer: it accepts connections, but no gRPC without TLS: " in message


@pytest.mark.parametrize("damage", ["absent", "empty", "no certificate"])
@pytest.mark.parametrize("file", ["certificate", "key"])
async def test_unreadable_certificates_are_a_failure_with_the_reason(
    authority: trustme.CA, damage: str, file: str, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)
    address = f"unix:{tmp_path / 's'}"
    async with running(address, files):
        path = getattr(files, file)
        if damage == "absent":
            path.unlink()
        else:
            path.write_bytes(b"" if damage == "empty" else b"nothing")
        serving, message = await probe(address, files)
    assert not serving
    assert message.startswith(address)


async def test_a_sidecar_whose_certificate_has_no_name_is_found(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path, trustme.CA().issue_cert("a.example"))
    nameless = trustme.CA()
    files.certificate.write_bytes(nameless.cert_pem.bytes())
    files.key.write_bytes(nameless.private_key_pem.bytes())
    address = f"unix:{tmp_path / 's'}"
    async with running(address, files):
        assert (await probe(address, files))[0]


async def test_a_certificate_that_is_too_large_or_no_regular_file_is_a_failure_with_the_reason(
    authority: trustme.CA, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    files.certificate.write_bytes(files.certificate.read_bytes() + b"#" * (1 << 20))
    serving, message = await probe("127.0.0.1:1", files)
    assert (serving, message.partition(f"{files.certificate} ")[2]) == (
        False,
        "cannot be read: larger than 1048576 bytes",
    )
    files.certificate.unlink()
    os.mkfifo(files.certificate)
    serving, message = await probe("127.0.0.1:1", files)
    assert (serving, message.partition(f"{files.certificate} ")[2]) == (False, "cannot be read: not a regular file")


async def test_an_encrypted_key_is_a_failure_and_not_a_prompt(authority: trustme.CA, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)
    key = load_pem_private_key(files.key.read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    assert await probe("127.0.0.1:1", files) == (
        False,
        "127.0.0.1:1 cannot be queried: server.tls.key_file holds no key of the certificate",
    )


@pytest.mark.parametrize(("name", "found"), [("a.example", True), ("b.example", False)])
async def test_another_certificate_of_the_files_authority_is_accepted_only_for_the_same_name(
    tmp_path: Path, name: str, *, found: bool
) -> None:
    """A server that refuses a half-written pair keeps the previous one."""
    authority = trustme.CA().create_child_ca()
    (tmp_path / "served").mkdir()
    served = TlsFiles(tmp_path / "served", authority.issue_cert(name))
    renewed = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    address = f"unix:{tmp_path / 's'}"
    async with running(address, served):
        assert (await probe(address, renewed))[0] is found


async def test_an_expired_certificate_is_not_serving(authority: trustme.CA, tmp_path: Path) -> None:
    expired = authority.issue_cert("a.example", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    files = TlsFiles(tmp_path, expired)
    address = f"unix:{tmp_path / 's'}"
    async with running(address, files):
        serving, message = await probe(address, files)
    assert not serving
    assert "no gRPC with this server.tls" in message


# Servers that are not the sidecar.


SETTINGS = frames.settings({})
HEADERS = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, RESPONSE)
MESSAGE = frames.frame(frames.DATA, 0, 1, prefixed(SERVING))
TRAILERS = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, trailers(Code.OK))


@contextlib.contextmanager
def peer(behaves: Sends, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[str]:
    """The address of a server that behaves so with one connection, and closes it."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(30.0)
                behaves(connection)

    with socket.create_server(address) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def sending(*octets: bytes) -> Sends:
    """Sends it, and reads until the client closes."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"".join(octets))
        while connection.recv(1 << 16):
            pass

    return behave


def dripping(octets: bytes) -> Sends:
    """Sends one octet after the other, and reads until the client closes: a close before that would reset."""

    def behave(connection: socket.socket) -> None:
        for octet in octets:
            connection.sendall(bytes((octet,)))
            time.sleep(0.001)
        while connection.recv(1 << 16):
            pass

    return behave


def flooding(octets: bytes) -> Sends:
    """Sends it without end."""

    def behave(connection: socket.socket) -> None:
        while True:
            connection.sendall(octets)

    return behave


async def test_a_response_in_pieces_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT", 30.0)  # on a machine under load, a millisecond may take much longer
    with peer(dripping(SETTINGS + HEADERS + MESSAGE + TRAILERS)) as address:
        assert await probe(address) == (True, f"{address} is SERVING")


@pytest.mark.parametrize(
    "behaves",
    [
        lambda connection: connection.recv(1),
        lambda connection: None,
        sending(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"),
        lambda connection: connection.sendall(b"\x15\x03\x03\0\x02\x02\x46"),  # an alert of TLS
        sending(b"\xff" * 100),
        sending(bytes(100)),
        sending(HEADERS + MESSAGE + TRAILERS),
        sending(SETTINGS, HEADERS, TRAILERS),
        sending(SETTINGS, HEADERS, MESSAGE, MESSAGE, TRAILERS),
        sending(SETTINGS, frames.goaway(0, frames.ErrorCode.NO_ERROR)),
        sending(SETTINGS, frames.rst_stream(1, frames.ErrorCode.REFUSED_STREAM)),
        flooding(SETTINGS),
        flooding(bytes(1 << 16)),
        flooding(SETTINGS + frames.frame(frames.PING, 0, 0, bytes(8))),
    ],
)
async def test_a_server_that_speaks_something_else_is_not_serving(behaves: Sends) -> None:
    with peer(behaves) as address:
        serving, message = await probe(address)
    assert not serving
    assert message.endswith(
        " does not answer: it accepts connections, but no gRPC without TLS: "
        "is this the configuration of the running instance?"
    )


@pytest.mark.parametrize(
    "behaves",
    [
        sending(),
        sending(SETTINGS),
        sending(SETTINGS, HEADERS, MESSAGE),
        dripping(SETTINGS * 10_000),
    ],
)
async def test_a_server_that_never_ends_its_response_is_not_serving(
    behaves: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT", 0.1)
    with peer(behaves) as address:
        assert await probe(address) == (False, f"{address} does not answer: no response in time")


@pytest.mark.parametrize("octets", [b"", b"\x16\x03\x03\x40\0" + bytes(100)])
async def test_a_server_that_never_ends_its_handshake_is_not_serving(
    authority: trustme.CA, octets: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT", 0.1)
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    with peer(sending(octets) if octets else sending()) as address:
        serving, message = await probe(address, files)
    assert not serving
    assert message.startswith(f"{address} does not answer: ")


async def test_a_sidecar_without_tls_that_is_queried_with_it_is_not_serving(
    authority: trustme.CA, tmp_path: Path
) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    address = f"unix:{tmp_path / 's'}"
    async with running(address):
        serving, message = await probe(address, files)
    assert not serving
    assert "does not answer: it accepts connections, but no gRPC with this server.tls: " in message


async def test_a_server_without_the_health_service_is_not_serving() -> None:
    unimplemented = RESPONSE + encode((b"grpc-status", b"12"))
    ended = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, unimplemented)
    with peer(sending(SETTINGS, ended)) as address:
        assert await probe(address) == (False, f"{address} does not answer: gRPC status 12")


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with running("127.0.0.1:0") as server:
        found = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", each)) for each in (port, server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert await probe("a.example:1") == (True, "a.example:1 is SERVING")


async def test_a_name_without_an_address_has_the_cause_of_the_system() -> None:
    serving, message = await probe("name.invalid:1")
    assert not serving
    assert message.startswith("name.invalid:1 does not answer: ")


def test_the_probe_imports_no_event_loop_and_no_library() -> None:
    code = "import sys; from authz_service.transport import healthcheck; print(*sys.modules)"
    loaded = subprocess.run([*PYTHON, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    packages = {module.partition(".")[0] for module in loaded}
    assert not packages & {"asyncio", "ssl", "grpc", "google", "cryptography", "hpack", "pydantic", "yaml", "urllib"}
