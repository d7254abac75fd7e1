"""The probe succeeds for a sidecar that is serving, fails for everything else, and never raises."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
import trustme

from authz_service.config.model import Server
from authz_service.transport import healthcheck
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.healthcheck import is_serving
from transport.pki import TlsFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def never(_data: bytes, _time_remaining: float | None, _traceparent: str) -> bytes:
    raise AssertionError("a probe must not call Check")


def server_settings(address: str, files: TlsFiles | None = None) -> Server:
    return Server(grpc_address=address, tls=files.settings) if files else Server(grpc_address=address)


@contextlib.asynccontextmanager
async def running(address: str, files: TlsFiles | None = None, *, serving: bool = True) -> AsyncIterator[GrpcioServer]:
    server = GrpcioServer(address, files.settings if files else None, never, refuse=lambda _denial: b"")
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
    authority = trustme.CA().create_child_ca()
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"), authority)
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


async def test_a_certificate_without_a_name_is_a_failure_with_the_reason(authority: trustme.CA, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path, authority.issue_cert("a.example"))
    nameless = trustme.CA()
    files.certificate.write_bytes(nameless.cert_pem.bytes())
    serving, message = await probe(f"unix:{tmp_path / 's'}", files)
    assert not serving
    assert message.endswith(" cannot be queried: server.tls.certificate_file holds no certificate with a name")
