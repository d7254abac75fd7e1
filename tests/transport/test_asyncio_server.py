"""Stopping, TLS and addresses of the server on asyncio, beyond what ``test_servers.py`` tests of both servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from authz_service.core.errors import StartFailed
from authz_service.transport import asyncio_server
from authz_service.transport.http2 import frames
from authz_service.transport.http2.timeouts import DRAIN_TIMEOUT
from transport.pki import TlsFiles
from transport.socket_client import (
    CALLS,
    HANG_GUARD,
    STREAMS,
    Checks,
    SocketClient,
    asyncio_server_of,
    connections,
    flooding_client,
    pass_seconds,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.transport.asyncio_server import AsyncioServer


async def test_stopping_answers_every_request_up_to_the_last_stream_of_the_goaway(
    server: AsyncioServer, checks: Checks
) -> None:
    async with flooding_client(server, CALLS) as client:
        stopping = asyncio.create_task(server.stop(HANG_GUARD))
        await until(lambda: server._methods.stopped)
        pass_seconds(server, DRAIN_TIMEOUT + 1)  # the acknowledgment of the PING is behind octets that are not read
        client.writer.transport.resume_reading()  # type: ignore[attr-defined] # a read transport
        await client.until_closed()
        async with asyncio.timeout(HANG_GUARD):
            await stopping
    last, code = client.goaways[-1]
    assert (last, code) == (2 * checks.count - 1, frames.ErrorCode.NO_ERROR)
    assert 0 < last < STREAMS[-1]
    assert [each for each in range(1, last + 1, 2) if not client.responses[each].ended] == []


async def test_stopping_does_not_wait_for_a_peer_that_does_not_read(server: AsyncioServer) -> None:
    async with flooding_client(server, CALLS):
        async with asyncio.timeout(HANG_GUARD):
            await server.stop(0.01)
        assert not connections(server)


async def test_a_tls_handshake_that_ends_after_the_stop_leads_to_no_connection(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_server, "TICK_INTERVAL", 3600.0)
    authority = trustme.CA()
    files = TlsFiles(tmp_path, authority.issue_cert("localhost"))
    server = asyncio_server_of(checks, tls=files.settings)
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as early:
        assert await asyncio.to_thread(first_octet_over_tls, early, authority)
    with socket.create_connection(("127.0.0.1", server.port)) as late:
        await asyncio.sleep(0.1)  # so that it is accepted; otherwise the test tests less
        async with asyncio.timeout(HANG_GUARD):
            await server.stop(0)
        assert await asyncio.to_thread(first_octet_over_tls, late, authority) == b""
    assert checks.count == 1


def first_octet_over_tls(connected: socket.socket, authority: trustme.CA) -> bytes:
    """The first octet of the response, or none."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    connected.settimeout(HANG_GUARD)
    client = SocketClient(None, None)  # type: ignore[arg-type] # it only encodes
    try:
        with context.wrap_socket(connected, server_hostname="localhost") as tls:
            tls.sendall(frames.PREFACE + frames.settings({}) + client.check())
            return tls.recv(1)
    except (ConnectionError, ssl.SSLEOFError):
        return b""


async def test_a_key_that_openssl_rejects_prevents_the_start_and_is_not_reloaded(
    tmp_path: Path, checks: Checks
) -> None:
    """Certificate parsers accept it."""
    authority = trustme.CA()
    good, weak = authority.issue_cert("localhost"), WeakPair()
    files = TlsFiles(tmp_path, weak)  # type: ignore[arg-type] # it has the same attributes
    with pytest.raises(StartFailed, match="OpenSSL rejects the certificates"):
        asyncio_server_of(checks, tls=files.settings)
    files.write(good)
    server = asyncio_server_of(checks, tls=files.settings)
    await server.start()
    files.write(weak)  # type: ignore[arg-type] # as above
    with socket.create_connection(("127.0.0.1", server.port)) as later:
        assert await asyncio.to_thread(first_octet_over_tls, later, authority)
    await server.stop(0)


class WeakPair:
    """A certificate for a key of 1,024 bits, which trustme does not make."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the subject of the test
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.private_key_pem = trustme.Blob(encoded)
        self.cert_chain_pems = [trustme.Blob(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))]


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_connections_wait_while_the_server_is_busy(way: str, checks: Checks, tmp_path: Path) -> None:
    address = "127.0.0.1:0" if way == "tcp" else f"unix:{tmp_path}/s"
    server = asyncio_server_of(checks, address)
    await server.start()
    with contextlib.ExitStack() as stack:
        for _ in range(500):  # it cannot accept them meanwhile
            client = stack.enter_context(socket.socket(socket.AF_INET if way == "tcp" else socket.AF_UNIX))
            client.settimeout(0.0 if way == "unix" else HANG_GUARD)
            client.connect(("127.0.0.1", server.port) if way == "tcp" else f"{tmp_path}/s")
        await until(lambda: len(connections(server)) == 500)
    await until(lambda: not connections(server))
    await server.stop(0)


def test_the_server_imports_tls_reflection_and_grpc_only_for_those_who_use_them() -> None:
    code = "import sys; from authz_service.transport import asyncio_server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {module.partition(".")[0] for module in loaded} & {"grpc", "hpack", "cryptography", "jwt", "h11", "yaml"}
    assert not {f"authz_service.transport.{name}" for name in ("tls", "reflection", "healthcheck")} & set(loaded)
