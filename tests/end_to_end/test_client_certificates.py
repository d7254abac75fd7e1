"""Tokens that are bound to a client certificate, with the real program behind the real Envoy."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio
import trustme

from authz_service.core import base64url
from support.envoy import running_envoy
from support.envoy_bootstrap import connection_manager, ext_authz_filter, front_proxy
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.envoy_bootstrap import VariedBootstrap

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Characters that Envoy escapes in a subject, and that a careless reader takes for syntax.
STRANGE = 'b",Hash=0;\\,\\'
OK, MISSING, INVALID = (200, "ok"), (401, "missing_proof"), (401, "invalid_proof")


class Client(NamedTuple):
    """A client's TLS settings, and the digest of its certificate."""

    context: ssl.SSLContext
    digest: bytes

    @property
    def binding(self) -> dict[str, str]:
        return {"x5t#S256": base64url.encode(self.digest)}


@dataclass(frozen=True)
class Pki:
    """The CAs of servers and of clients, and the files of a server."""

    servers: trustme.CA
    clients: trustme.CA
    certificate: Path
    client_ca: Path

    def client(self, name: str | None) -> Client:
        """A client with a certificate for this common name, or without one."""
        context = ssl.create_default_context()
        self.servers.configure_trust(context)
        if name is None:
            return Client(context, b"")
        certificate = self.clients.issue_cert(common_name=name)
        certificate.configure_cert(context)
        der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        return Client(context, hashlib.sha256(der).digest())

    def serving(self, bootstrap: VariedBootstrap, **changes: Any) -> dict[str, Any]:
        """The bootstrap of an Envoy that accepts TLS, and certificates of clients that have one."""
        return replace(bootstrap, certificate=self.certificate, client_ca=self.client_ca, **changes).document()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    servers, clients, folder = trustme.CA(), trustme.CA(), tmp_path_factory.mktemp("tls")
    servers.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    clients.cert_pem.write_to_path(folder / "clients.pem")
    return Pki(servers, clients, folder / "server.pem", folder / "clients.pem")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("peer")) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("xfcc"), "mtls: {certificate: xfcc}\n") as mesh:
        yield mesh


@asynccontextmanager
async def listening(document: dict[str, Any], parent: Path, name: str = "envoy") -> AsyncIterator[int]:
    """The port of a running Envoy with this bootstrap, whose files are in a folder with this name."""
    folder = parent / name
    folder.mkdir()
    async with running_envoy(document, folder) as envoy:
        yield envoy.ports["http"]


async def result(port: int, client: Client, mesh: Mesh, cnf: dict[str, str] | None, *lines: str) -> tuple[int, str]:
    """The status and the reason of a request with a token that is bound so."""
    token = mesh.provider.access_token(cnf=cnf)
    head = ("GET /v1/appointments/7 HTTP/1.1", "host: api.demo", f"authorization: Bearer {token}", *lines)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client.context)
    writer.write("\r\n".join([*head, "connection: close", "", ""]).encode())
    answer = (await reader.read()).decode()
    writer.close()
    fields = dict(line.split(": ", 1) for line in answer.partition("\r\n\r\n")[0].splitlines()[1:])
    if answer.startswith("HTTP/1.1 401"):
        assert fields["www-authenticate"].startswith("Bearer ")
        assert 'error="invalid_token"' in fields["www-authenticate"]
    return int(answer.split(" ")[1]), fields["x-authz-reason"]


@pytest.mark.parametrize("raw_headers", [False, True])
async def test_a_bound_token_is_accepted_only_with_its_certificate(
    pki: Pki,
    mesh: Mesh,
    tmp_path: Path,
    raw_headers: bool,  # noqa: FBT001
) -> None:
    document = pki.serving(mesh.bootstrap, encode_raw_headers=raw_headers)
    owner, other, strange, none = map(pki.client, ("owner", "other", STRANGE, None))
    async with listening(document, tmp_path) as port:
        assert await result(port, owner, mesh, owner.binding) == OK
        assert await result(port, strange, mesh, strange.binding) == OK
        assert await result(port, other, mesh, owner.binding) == INVALID
        assert await result(port, none, mesh, owner.binding) == MISSING
        assert await result(port, owner, mesh, None) == OK
        assert await result(port, none, mesh, None) == OK
        forged = f"x-forwarded-client-cert: Hash={owner.digest.hex()}"
        assert await result(port, none, mesh, owner.binding, forged) == MISSING


async def test_a_certificate_that_envoy_does_not_send_is_missing(pki: Pki, mesh: Mesh, tmp_path: Path) -> None:
    document = pki.serving(mesh.bootstrap)
    del ext_authz_filter(document)["include_peer_certificate"]
    owner = pki.client("owner")
    async with listening(document, tmp_path) as port:
        assert await result(port, owner, mesh, owner.binding) == MISSING
        assert await result(port, owner, mesh, None) == OK


@pytest.mark.parametrize("details", [{}, {"cert": True}, {"subject": True, "cert": True, "chain": True, "uri": True}])
@pytest.mark.parametrize("raw_headers", [False, True])
async def test_a_proxy_in_front_forwards_the_certificate_and_a_client_cannot(
    pki: Pki,
    behind_proxy: Mesh,
    tmp_path: Path,
    raw_headers: bool,  # noqa: FBT001
    details: dict[str, bool],
) -> None:
    mesh, inner = behind_proxy, behind_proxy.bootstrap.document()
    connection_manager(inner)["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
    ext_authz_filter(inner)["encode_raw_headers"] = raw_headers
    owner, strange, none = map(pki.client, ("owner", STRANGE, None))
    forged = [f"x-forwarded-client-cert: Hash={owner.digest.hex()}", 'x-forwarded-client-cert: Subject="']
    async with listening(inner, tmp_path, "inner") as inner_port:
        front = front_proxy(inner_port, pki.certificate, pki.client_ca)
        connection_manager(front)["forward_client_cert_details"] = "SANITIZE_SET"
        connection_manager(front)["set_current_client_cert_details"] = details
        async with listening(front, tmp_path, "front") as port:
            assert await result(port, owner, mesh, owner.binding) == OK
            assert await result(port, owner, mesh, owner.binding, *forged) == OK
            assert await result(port, strange, mesh, strange.binding) == OK
            assert await result(port, strange, mesh, owner.binding, forged[0]) == INVALID
            assert await result(port, none, mesh, owner.binding, forged[0]) == MISSING
            assert await result(port, none, mesh, None) == OK


async def test_what_a_client_puts_before_the_proxys_element_does_not_count(
    pki: Pki, behind_proxy: Mesh, tmp_path: Path
) -> None:
    mesh, inner = behind_proxy, behind_proxy.bootstrap.document()
    connection_manager(inner)["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
    owner, strange = map(pki.client, ("owner", STRANGE))
    stolen = f"x-forwarded-client-cert: Hash={owner.digest.hex()}"
    async with listening(inner, tmp_path, "inner") as inner_port:
        front = front_proxy(inner_port, pki.certificate, pki.client_ca)
        connection_manager(front)["forward_client_cert_details"] = "APPEND_FORWARD"
        connection_manager(front)["set_current_client_cert_details"] = {"subject": True, "cert": True}
        async with listening(front, tmp_path, "front") as port:
            assert await result(port, strange, mesh, strange.binding, stolen) == OK
            for end in ("", ";", ",", ';Subject="', ';Subject="\\', ';Subject=",'):
                assert await result(port, strange, mesh, owner.binding, stolen + end) == INVALID, end
            assert await result(port, owner, mesh, owner.binding, 'x-forwarded-client-cert: Subject="') == INVALID


async def test_the_envoy_that_calls_the_sidecar_may_add_the_element_itself(
    pki: Pki, behind_proxy: Mesh, tmp_path: Path
) -> None:
    mesh, document = behind_proxy, pki.serving(behind_proxy.bootstrap)
    connection_manager(document)["forward_client_cert_details"] = "SANITIZE_SET"
    owner, other, none = map(pki.client, ("owner", "other", None))
    stolen = f"x-forwarded-client-cert: Hash={owner.digest.hex()}"
    async with listening(document, tmp_path) as port:
        assert await result(port, owner, mesh, owner.binding) == OK
        assert await result(port, other, mesh, owner.binding, stolen) == INVALID
        assert await result(port, none, mesh, owner.binding, stolen) == MISSING


async def test_a_certificate_outlives_the_handshake_that_showed_it(pki: Pki, mesh: Mesh, tmp_path: Path) -> None:
    """A resumed TLS session has the certificate of the first handshake."""
    document = pki.serving(mesh.bootstrap)
    owner = pki.client("owner")
    async with listening(document, tmp_path) as port:
        owner.context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose session is known after the handshake
        token = mesh.provider.access_token(cnf=owner.binding)
        request = (
            f"GET /v1/appointments/7 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )

        def send(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                owner.context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls,
            ):
                tls.sendall(request.encode())
                return tls.recv(100), tls.session, tls.session_reused

        first, session, _ = await asyncio.to_thread(send, None)
        second, _, reused = await asyncio.to_thread(send, session)
    assert reused
    assert [answer.split(b" ")[1] for answer in (first, second)] == [b"200", b"200"]
