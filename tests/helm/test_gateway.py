"""Shape gateway: its bootstrap in the real Envoy, and its configuration in the real sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import trustme
import yaml
from transport.pki import TlsFiles

from authz_service.core import base64url
from authz_service.demo.envoy import binary
from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from authz_service.demo.run import SampleResult, send
from authz_service.demo.samples import Sample
from support import h2c
from support.chart import NAME, container, manifests, merged, one
from support.echo import echo
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.h2_client import connected
from support.request import request
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningEnvoy]:
    """The pod's application, sidecar and Envoy, configured by the chart except for addresses and the issuer."""
    folder = tmp_path_factory.mktemp("gateway")
    found = manifests("gateway", changes(provider.issuer, folder))
    config = folder / "config.yaml"
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    async with echo("/v1/updates") as port, SidecarProcess(config, folder / "sidecar.log"):
        places = {"application": loopback(port), "admin": pipe(folder / "admin.sock")}
        async with running_envoy(relocated(bootstrap, places), folder) as envoy:
            yield envoy


def changes(issuer: str, folder: Path) -> dict[str, Any]:
    socket = {"grpc_address": f"unix:{folder}/authz.sock", "admin_address": "0.0.0.0:0"}
    return {"config": {"server": socket, "issuers": [{"issuer": issuer, "name": "main", "audiences": [AUDIENCE]}]}}


async def through(envoy: RunningEnvoy, sample: Sample) -> SampleResult:
    async with aiohttp.ClientSession() as session:
        return await send(session, envoy.ports["http"], sample)


async def test_only_authorized_requests_reach_the_application(envoy: RunningEnvoy, provider: IdentityProvider) -> None:
    reader, payer = provider.access_token(scope="orders"), provider.access_token(scope="billing")
    for sample in (
        Sample("no token", "/v1/orders", 401, "missing_token", error=""),
        Sample("a token", "/v1/orders/7", 200, "", reader, upstream={"x-auth-subject": "alice"}),
        Sample("ID token", "/v1/orders", 401, "id_token", provider.id_token(), error="invalid_token"),
        Sample("public", "/healthz", 200, ""),
        Sample("spoofed", "/healthz", 200, "", headers={"x-auth-subject": "admin"}, upstream={"x-auth-subject": None}),
        Sample("by the route's policy", "/billing/9", 200, "", payer),
        Sample("too little", "/billing/9", 403, "insufficient_scope", reader, error="insufficient_scope"),
        Sample("no rule", "/v2/orders", 403, "no_rule", reader),
    ):
        result = await through(envoy, sample)
        assert result.is_expected(sample), (sample.title, result)


async def test_an_ambiguous_request_is_rejected_or_normalized(envoy: RunningEnvoy) -> None:
    for path, headers, status in (
        ("/v1%2forders", {}, 400),
        ("/healthz%5c..", {}, 400),
        ("/healthz", {"x_auth_subject": "admin"}, 400),
        ("/x/../healthz", {}, 200),
        ("//healthz", {}, 200),
    ):
        result = await through(envoy, Sample(path, path, status, "", headers=headers))
        assert result.status == status, path


async def test_the_stats_listener_serves_only_ready_and_metrics(
    envoy: RunningEnvoy,
) -> None:
    async def status(path: str) -> int:
        url = f"http://127.0.0.1:{envoy.ports['stats']}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status

    assert [await status(path) for path in ("/ready", "/stats/prometheus")] == [200, 200]
    assert [await status(path) for path in ("/", "/config_dump", "/quitquitquit", "/stats")] == [404] * 4


async def test_the_access_log_has_the_decision_and_no_secret(envoy: RunningEnvoy, provider: IdentityProvider) -> None:
    token = provider.access_token(scope="orders")
    await through(envoy, Sample("query", "/v1/orders?key=secret", 200, "", token))
    line = await envoy.access_log_line('"decision":"allow"', '"path":"/v1/orders"')
    assert (line["decision"], line["reason"], line["subject"], line["client_id"]) == (
        "allow",
        "ok",
        "alice",
        "demo-app",
    )
    assert (line["path"], line["status"]) == ("/v1/orders", 200)
    assert "secret" not in envoy.log.read_text()
    assert token not in envoy.log.read_text()


async def test_the_helm_test_passes(envoy: RunningEnvoy) -> None:
    url = f"http://127.0.0.1:{envoy.ports['http']}"
    result = await request(url, "GET", "authz-service.test", "/v1/orders", "missing_token")
    assert result == (0, "GET authz-service.test/v1/orders: status 401, reason missing_token\n")


async def test_a_websocket_requires_a_token(envoy: RunningEnvoy, provider: IdentityProvider) -> None:
    url = f"http://127.0.0.1:{envoy.ports['http']}/v1/updates"
    headers = {"Authorization": f"Bearer {provider.access_token(scope='orders')}"}
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect(url)
        assert error.value.status == 401
        async with session.ws_connect(url, headers=headers) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "alice: hello"


async def test_an_upgrade_does_not_make_a_later_proxy_remove_the_identity(
    envoy: RunningEnvoy, provider: IdentityProvider
) -> None:
    token = provider.access_token(scope="orders")

    async def answer(connection: str, path: str = "/v1/updates") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports["http"])
        lines = [f"GET {path} HTTP/1.1", "host: shop", f"authorization: Bearer {token}", f"connection: {connection}"]
        lines += ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return head

    assert (await answer("Upgrade, keep-alive")).startswith(b"HTTP/1.1 101")
    for connection in ("Upgrade, x-auth-subject", "Upgrade\r\nconnection: X-Auth-Subject", "upgrade,x-forwarded-for"):
        assert (await answer(connection)).startswith(b"HTTP/1.1 400"), connection
    assert (await answer("Upgrade, x-auth-subject", "/healthz")).startswith(b"HTTP/1.1 400")


async def test_data_after_a_rejected_upgrade_is_not_a_request(envoy: RunningEnvoy) -> None:
    head = "GET {} HTTP/1.1\r\nhost: shop\r\n{}\r\n"
    upgrade = head.format("/healthz", "connection: upgrade\r\nupgrade: websocket\r\n")
    smuggled = head.format("/v1/orders", "x-auth-subject: admin\r\n")
    for separately in (False, True):
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports["http"])
        writer.write((upgrade if separately else upgrade + smuggled).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")  # from an application that ignores the upgrade
        with contextlib.suppress(ConnectionError):  # Envoy may have closed it already
            if separately:
                writer.write(smuggled.encode())
            answer += await reader.read()
        writer.close()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"/v1/orders" not in answer


async def test_no_header_overrides_the_path_or_method_in_the_application(envoy: RunningEnvoy) -> None:
    names = ("x-original-url", "x-rewrite-url", "x-envoy-original-path", "x-http-method", "x-http-method-override")
    sent = dict.fromkeys((*names, "x-method-override"), "DELETE /admin")
    sample = Sample("others", "/healthz", 200, "", headers=sent, upstream=dict.fromkeys(sent))
    result = await through(envoy, sample)
    assert result.is_expected(sample), result


async def test_no_trailer_reaches_the_application(provider: IdentityProvider, tmp_path: Path) -> None:
    grpc_application = {"gateway": {"application": {"protocol": "http2"}}}
    found = manifests("gateway", merged(changes(provider.issuer, tmp_path), grpc_application))
    config = tmp_path / "config.yaml"
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    token: h2c.Headers = [("authorization", f"Bearer {provider.access_token(scope='orders')}")]
    trailers = [("x-auth-subject", "admin"), ("x.auth.subject", "admin"), ("checksum", "7")]
    async with h2c.upstream() as application, SidecarProcess(config, tmp_path / "sidecar.log"):
        assert await h2c.post(application.port, "/v1/orders", token, trailers=trailers) == 200
        assert application.received.pop().trailers == dict(trailers)  # without Envoy in between
        places = {"application": loopback(application.port), "admin": pipe(tmp_path / "admin.sock")}
        async with running_envoy(relocated(bootstrap, places), tmp_path) as envoy:
            for path, headers, subject in (("/v1/orders", token, "alice"), ("/healthz", [], None)):
                assert await h2c.post(envoy.ports["http"], path, headers, trailers=trailers) == 200
                received = application.received.pop()
                assert (received.headers.get("x-auth-subject"), received.body, received.trailers) == (subject, b"x", {})


async def test_endless_requests_make_envoy_reject_clients_before_it_is_killed(tmp_path: Path) -> None:
    limit = {"gateway": {"envoy": {"resources": {"limits": {"memory": "64Mi"}}}}}
    found = manifests("gateway", merged(changes("http://127.0.0.1:9", tmp_path), limit))
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    bootstrap = relocated(bootstrap, {"admin": pipe(tmp_path / "admin.sock")})
    unended = b"GET / HTTP/1.1\r\nhost: shop\r\n" + b"".join(b"x-%d: %s\r\n" % (at, b"x" * 580) for at in range(90))
    writers: list[asyncio.StreamWriter] = []

    async def is_turned_away(port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            answer = await reader.read(1)
            writer.close()
            return not answer
        return True

    async with running_envoy(bootstrap, tmp_path) as envoy:
        port = envoy.ports["http"]
        assert not await is_turned_away(port)
        while not await is_turned_away(port):
            assert len(writers) * len(unended) < 64 << 20
            for _ in range(50):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(unended)
                writers.append(writer)
        url = f"http://127.0.0.1:{envoy.ports['stats']}/ready"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 200  # so that no other pod gets its clients too
        for writer in writers:
            writer.close()
        async with asyncio.timeout(20):
            while True:
                if not await is_turned_away(port):
                    return
                await asyncio.sleep(0.05)


UNAVAILABLE = {
    "type": "urn:authz-service:denial:authorization_unavailable",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "Authorization is unavailable",
}


async def test_every_request_is_denied_while_the_sidecar_is_unavailable(tmp_path: Path) -> None:
    found = manifests("gateway", changes("http://127.0.0.1:9", tmp_path))
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    async with echo() as port:
        places = {"application": loopback(port), "admin": pipe(tmp_path / "admin.sock")}
        async with running_envoy(relocated(bootstrap, places), tmp_path) as envoy, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{envoy.ports['http']}"
            for sent in ({}, {"content-type": "text/plain"}, {"content-type": "application/grpc-web"}):
                async with session.post(f"{url}/healthz", headers=sent) as answer:
                    assert (answer.status, await answer.json(content_type="application/problem+json")) == (
                        503,
                        UNAVAILABLE,
                    )
                    assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("1", "no-store")
            async with connected(envoy.ports["http"]) as client:
                for kind in (b"application/grpc", b"application/grpc+proto"):
                    called = await client.request([*GRPC_CALL, (b"content-type", kind)], b"")
                    assert (called.status, called.grpc_status, called.body) == (200, b"14", b"")
                    assert called.headers[b"grpc-message"] == b"Authorization is unavailable"
                    assert called.headers[b"retry-after"] == b"1"
            result = await request(url, "GET", "shop", "/healthz")
            assert result[0] == 1
            assert "reason authorization_unavailable\nFAILED" in result[1]


GRPC_CALL = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"shop"), (b":path", b"/shop.v1.Orders/Get")]


async def test_an_unavailable_sidecar_changes_no_other_response(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    """A denial of the sidecar with 503, and those 503 that mean that the application is unavailable."""
    async with IdentityProvider() as provider:
        token = provider.access_token(scope="orders")
    found = manifests("gateway", changes(provider.issuer, tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    places = {"application": loopback(unused_tcp_port_factory()), "admin": pipe(tmp_path / "admin.sock")}
    async with (
        SidecarProcess(config, tmp_path / "sidecar.log", wait_until_ready=False),
        running_envoy(relocated(bootstrap, places), tmp_path) as envoy,
        aiohttp.ClientSession() as session,
    ):
        url = f"http://127.0.0.1:{envoy.ports['http']}"
        async with session.get(f"{url}/v1/orders", headers={"authorization": f"Bearer {token}"}) as answer:
            assert (answer.status, (await answer.json(content_type=None))["type"].rpartition(":")[2]) == (
                503,
                "keys_unavailable",
            )
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, answer.content_type) == (503, "text/plain")
            assert "retry-after" not in answer.headers


async def test_identity_headers_cannot_be_spoofed_with_failure_mode_allow(tmp_path: Path) -> None:
    spoofed = {"x-auth-subject": "admin", "x-tenant": "acme"}
    for headers in (None, {"x-auth-subject": "sub", "x-tenant": "tenant"}):
        open_gateway = {"gateway": {"envoy": {"failureModeAllow": True}}}
        names = {"config": {"upstream": {"headers": headers}}} if headers else {}
        found = manifests("gateway", merged(merged(changes("http://127.0.0.1:9", tmp_path), open_gateway), names))
        bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
        expected = {"x-auth-subject": None} | ({"x-tenant": None} if headers else {"x-tenant": "acme"})
        async with (
            echo() as port,
            running_envoy(relocated(bootstrap, {"application": loopback(port)}), tmp_path) as envoy,
        ):
            sample = Sample("spoofed", "/v1/orders", 200, "", headers=spoofed, upstream=expected)
            result = await through(envoy, sample)
            assert result.is_expected(sample), result


def mounted(folder: Path, version: str, certificate: trustme.LeafCert, client_ca: trustme.CA | None = None) -> None:
    """A mounted Secret that is updated as Kubernetes does it, by swapping a symlink."""
    (folder / version).mkdir(parents=True)
    TlsFiles(folder / version, certificate, client_ca)
    (folder / "..new").symlink_to(version)
    (folder / "..new").replace(folder / "..data")
    for file in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / file).is_symlink():
            (folder / file).symlink_to(f"..data/{file}")


async def test_envoy_serves_a_renewed_certificate(tmp_path: Path) -> None:
    old, new, secret = trustme.CA(), trustme.CA(), tmp_path / "authz-tls"
    found = manifests("gateway", changes("http://127.0.0.1:9", tmp_path) | {"tls": {"existingSecret": "shop-tls"}})
    files = one(found, "ConfigMap", f"{NAME}-envoy")["data"]
    sds = tmp_path / "certificate.yaml"
    sds.write_text(files["certificate.yaml"].replace("/etc/authz-tls", str(secret)))
    bootstrap = yaml.safe_load(files["envoy.yaml"].replace("/etc/envoy/certificate.yaml", str(sds)))
    mounted(secret, "1", old.issue_cert("shop"))

    async def status(authority: trustme.CA, port: int) -> int:
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://127.0.0.1:{port}/healthz", ssl=trust, server_hostname="shop") as answer,
        ):
            return answer.status

    async with running_envoy(relocated(bootstrap, {"admin": pipe(tmp_path / "admin.sock")}), tmp_path) as envoy:
        assert await status(old, envoy.ports["http"]) == 503  # there is no sidecar
        mounted(secret, "2", new.issue_cert("shop"))
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorCertificateError):
                    assert await status(new, envoy.ports["http"]) == 503
                    return
                await asyncio.sleep(0.05)


class Bound(NamedTuple):
    """A client of the gateway: its TLS settings, and the digest of its certificate."""

    context: ssl.SSLContext
    digest: bytes

    def token(self, provider: IdentityProvider) -> str:
        return provider.access_token(scope="orders", cnf={"x5t#S256": base64url.encode(self.digest)})


def client_of(server: trustme.CA, clients: trustme.CA, name: str | None) -> Bound:
    context = ssl.create_default_context()
    server.configure_trust(context)
    if name is None:
        return Bound(context, b"")
    certificate = clients.issue_cert(common_name=name)
    certificate.configure_cert(context)
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return Bound(context, hashlib.sha256(der).digest())


@contextlib.asynccontextmanager
async def gateway_for_certificates(
    issuer: str, folder: Path, server: trustme.CA, clients: trustme.CA, certificate: str
) -> AsyncIterator[int]:
    """The port of the chart's gateway with a CA for client certificates."""
    values = {
        "tls": {"existingSecret": "shop-tls"},
        "gateway": {"envoy": {"clientCaSecret": "client-ca"}},
        "config": {"mtls": {"certificate": certificate}},
    }
    found = manifests("gateway", merged(changes(issuer, folder), values))
    tls = TlsFiles(folder, server.issue_cert("shop"), clients)
    config, paths = folder / "config.yaml", {"/etc/authz-tls": str(folder), "/etc/envoy-client-ca": str(folder)}
    config.write_text(one(found, "ConfigMap")["data"]["config.yaml"])
    files = one(found, "ConfigMap", f"{NAME}-envoy")["data"]
    for name in ("certificate.yaml", "client-ca.yaml"):
        for mounted_at, path in paths.items():
            files[name] = files[name].replace(mounted_at, path)
        (folder / name).write_text(files[name])
    bootstrap = yaml.safe_load(files["envoy.yaml"].replace("/etc/envoy/", f"{folder}/"))
    assert tls.client_ca.name == "ca.crt"
    async with echo() as port, SidecarProcess(config, folder / "sidecar.log"):
        places = {"application": loopback(port), "admin": pipe(folder / "admin.sock")}
        async with running_envoy(relocated(bootstrap, places), folder) as envoy:
            yield envoy.ports["http"]


async def outcome(port: int, client: Bound, token: str, **headers: str) -> str:
    """The reason of a denial, or the body of the application's response."""
    url, host = f"https://127.0.0.1:{port}/v1/orders", {"authorization": f"Bearer {token}"}
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | host
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=sent, ssl=client.context, server_hostname="shop") as answer,
    ):
        body = await answer.json(content_type=None)
    return str(body["type"]).rpartition(":")[2] if answer.status == 401 else f"{answer.status}"


async def test_a_token_that_is_bound_to_a_certificate_requires_it(provider: IdentityProvider, tmp_path: Path) -> None:
    server, clients = trustme.CA(), trustme.CA()
    owner, other, none = (client_of(server, clients, name) for name in ("owner", "other", None))
    stranger = client_of(server, trustme.CA(), "owner")
    async with gateway_for_certificates(provider.issuer, tmp_path, server, clients, "peer") as port:
        token, forged = owner.token(provider), f"Hash={owner.digest.hex()}"
        assert await outcome(port, owner, token) == "200"
        assert await outcome(port, other, token, x_forwarded_client_cert=forged) == "invalid_proof"
        assert await outcome(port, none, token, x_forwarded_client_cert=forged) == "missing_proof"
        assert await outcome(port, none, provider.access_token(scope="orders")) == "200"
        with pytest.raises(aiohttp.ClientError):
            await outcome(port, stranger, token)


async def test_only_a_proxy_with_a_certificate_may_forward_one(provider: IdentityProvider, tmp_path: Path) -> None:
    server, proxies = trustme.CA(), trustme.CA()
    proxy, none = (client_of(server, proxies, name) for name in ("proxy", None))
    owner = client_of(server, trustme.CA(), "owner")
    async with gateway_for_certificates(provider.issuer, tmp_path, server, proxies, "xfcc") as port:
        token, forwarded = owner.token(provider), f"Hash={owner.digest.hex()}"
        assert await outcome(port, proxy, token, x_forwarded_client_cert=forwarded) == "200"
        assert (
            await outcome(port, proxy, token, x_forwarded_client_cert=f"{forwarded},Hash={'0' * 64}") == "invalid_proof"
        )
        assert await outcome(port, proxy, token) == "missing_proof"
        assert await outcome(port, proxy, proxy.token(provider)) == "missing_proof"
        assert await outcome(port, none, token, x_forwarded_client_cert=forwarded) == "missing_proof"


async def test_envoy_verifies_clients_by_a_renewed_authority(tmp_path: Path) -> None:
    server, old, new = trustme.CA(), trustme.CA(), trustme.CA()
    values = {"tls": {"existingSecret": "shop-tls"}, "gateway": {"envoy": {"clientCaSecret": "client-ca"}}}
    files = one(
        manifests("gateway", merged(changes("http://127.0.0.1:9", tmp_path), values)), "ConfigMap", f"{NAME}-envoy"
    )["data"]
    secret = tmp_path / "secret"
    for name in ("certificate.yaml", "client-ca.yaml"):
        text = files[name].replace("/etc/authz-tls", str(secret)).replace("/etc/envoy-client-ca", str(secret))
        (tmp_path / name).write_text(text)
    bootstrap = yaml.safe_load(files["envoy.yaml"].replace("/etc/envoy/", f"{tmp_path}/"))
    client = client_of(server, new, "client")

    async def status(port: int) -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://127.0.0.1:{port}/healthz", ssl=client.context, server_hostname="shop") as answer,
        ):
            return answer.status

    mounted(secret, "1", server.issue_cert("shop"), old)
    async with running_envoy(relocated(bootstrap, {"admin": pipe(tmp_path / "admin.sock")}), tmp_path) as envoy:
        with pytest.raises(aiohttp.ClientError):
            await status(envoy.ports["http"])
        mounted(secret, "2", server.issue_cert("shop"), new)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    assert await status(envoy.ports["http"]) == 503  # there is no sidecar
                    return
                await asyncio.sleep(0.05)


async def test_envoy_accepts_the_arguments_of_the_container(tmp_path: Path) -> None:
    found = manifests("gateway", changes("http://127.0.0.1:9", tmp_path))
    config = tmp_path / "envoy.yaml"
    config.write_text(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
    arguments = container(one(found, "Deployment")["spec"]["template"], "envoy")["args"]
    command = [str(config) if each == "/etc/envoy/envoy.yaml" else each for each in arguments]
    process = await asyncio.create_subprocess_exec(binary(), *command, "--mode", "validate")
    assert await process.wait() == 0
