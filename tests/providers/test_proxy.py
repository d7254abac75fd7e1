"""A proxy is chosen as curl and Go do; it sees only what it must, and a hostile one costs no more than a provider."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.providers.client import USER_AGENT, ProviderClient
from authz_service.providers.exchange import MAX_HEAD_BYTES, MAX_INFORMATIONAL
from authz_service.providers.proxy import Proxies, is_excepted
from authz_service.providers.urls import Origin
from support.raw_provider import EMPTY_OBJECT, MAX_BYTES, OK, RawProvider, send, send_repeatedly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.raw_provider import Script

HANG_TIMEOUT = 30.0  # seconds; reached only if a test fails
AUTHORITY = trustme.CA()
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
VARIABLES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")


def context_for(*hosts: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert(*hosts).configure_cert(context)
    return context


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets these variables and removes the others."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.fixture
async def clients(tmp_path: Path, environment: Callable[..., None]) -> AsyncIterator[Callable[..., ProviderClient]]:
    del environment  # without the variables of this machine
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    made: list[ProviderClient] = []

    def client(**settings: Any) -> ProviderClient:
        keys = Keys.read({"ca_file": str(tmp_path / "ca.pem"), "allow_http": True} | settings)
        made.append(ProviderClient(keys, accept="*/*", max_connections=4))
        return made[-1]

    yield client
    for each in made:
        await each.close()


async def body(client: ProviderClient, url: str) -> bytes:
    async with asyncio.timeout(HANG_TIMEOUT):
        return (await client.get(url, MAX_BYTES)).body


async def failure(client: ProviderClient, url: str = "https://idp.example/jwks") -> str:
    with pytest.raises(FetchFailed) as failed:
        await body(client, url)
    return str(failed.value)


# The choice.


def chosen(url: str, **variables: str) -> str | None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.partition(":")
    proxy = Proxies("environment", variables).proxy_for(
        Origin(scheme, host, int(port or {"https": 443}.get(scheme, 80)))
    )
    return proxy and proxy.root


@pytest.mark.parametrize(
    ("variables", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://a:3128"}, "http://a:3128", None),
        ({"HTTP_PROXY": "http://a:3128"}, None, "http://a:3128"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1", None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b:2"}, "http://b:2", None),
        ({"https_proxy": " ", "HTTPS_PROXY": ""}, None, None),
        ({"https_proxy": "a:3128"}, "http://a:3128", None),
        ({"https_proxy": "a"}, "http://a", None),
        ({"https_proxy": "HTTPS://a/"}, "https://a", None),
        ({"https_proxy": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128", None),
        ({"ALL_PROXY": "http://a:1"}, None, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "idp.example"}, None, None),
        ({"HTTPS_PROXY": "http://a:1", "no_proxy": "other", "NO_PROXY": "idp.example"}, "http://a:1", None),
    ],
)
def test_the_variables_choose_the_proxy_by_the_scheme_of_the_request(
    variables: dict[str, str], https: str | None, http: str | None
) -> None:
    assert chosen("https://idp.example", **variables) == https
    assert chosen("http://idp.example", **variables) == http


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "localhost."])
@pytest.mark.parametrize("setting", ["environment", "http://a:1"])
def test_requests_to_this_machine_use_no_proxy(host: str, setting: str) -> None:
    proxies = Proxies(setting, {"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "http://a:1"})
    assert proxies.proxy_for(Origin("http", host, 80)) is None
    assert proxies.proxy_for(Origin("https", host, 443)) is None


def test_a_setting_replaces_the_environment() -> None:
    variables = {"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://a:1", "NO_PROXY": "*"}
    origin = Origin("https", "idp.example", 443)
    assert Proxies("none", variables).proxy_for(origin) is None
    for scheme in ("http", "https"):
        proxy = Proxies("http://b:2", variables).proxy_for(origin._replace(scheme=scheme))
        assert proxy is not None
        assert proxy.root == "http://b:2"


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("", "idp.example", False),
        ("*", "idp.example", True),
        ("other, *", "idp.example", True),
        ("idp.example", "idp.example", True),
        ("IDP.Example.", "idp.example", True),
        ("idp.example", "idp.example.", True),
        ("example", "idp.example", True),
        ("dp.example", "idp.example", False),
        (".example", "idp.example", True),
        (".idp.example", "idp.example", False),
        ("*.example", "idp.example", True),
        ("*.idp.example", "idp.example", False),
        ("a,,b idp.example", "idp.example", True),
        ("idp.example:443", "idp.example", True),
        ("idp.example:8443", "idp.example", False),
        ("idp.example:0443", "idp.example", False),
        (".example:443", "idp.example", True),
        ("idp.example:", "idp.example", True),
        (":443", "idp.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3/8", "10.200.0.1", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "idp.example", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("2.3", "10.1.2.3", False),
        (".2.3", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00:0::1", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]:80", "fd00::1", False),
        ("fd00::/8", "10.0.0.1", False),
        ("a/b, 1.2.3.4/99, /", "idp.example", False),
    ],
)
def test_no_proxy_names_hosts_domains_networks_and_ports(no_proxy: str, host: str, *, excepted: bool) -> None:
    assert is_excepted(Origin("https", host, 443), no_proxy) is excepted


LABELS = st.sampled_from(["idp", "example", "com", "a", "xidp"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)


@given(NAMES, st.lists(NAMES | NAMES.map(".{}".format), max_size=3).map(",".join))
def test_no_proxy_agrees_with_pythons_own_reading_but_for_a_leading_dot_and_the_domain_itself(
    host: str, no_proxy: str
) -> None:
    ours = is_excepted(Origin("https", host, 443), no_proxy)
    theirs = urllib.request.proxy_bypass_environment(host, {"no": no_proxy})  # type: ignore[attr-defined]
    if f".{host}" not in no_proxy.split(","):
        assert ours is bool(theirs)


@given(st.text(max_size=40), st.sampled_from(["idp.example", "10.0.0.1", "fd00::1"]))
def test_any_no_proxy_is_read(no_proxy: str, host: str) -> None:
    assert is_excepted(Origin("https", host, 443), no_proxy) in {True, False}


SECRET = "s3cret"  # no message may hold it


@pytest.mark.parametrize(
    "url",
    [
        f"socks5://user:{SECRET}@proxy:1080",
        f"http://user:{SECRET}@",
        f"http://user:{SECRET}@proxy:port",
        f"http://user:{SECRET}@proxy:99999",
        f"http://user:{SECRET}@proxy/path",
        f"http://user@proxy:1/{SECRET}",
        f"http://{SECRET} @",
        f"://{SECRET}",
        f"http://[{SECRET}",
        "http://",
    ],
)
async def test_an_unusable_variable_fails_the_request_and_is_not_quoted(
    clients: Callable[..., ProviderClient], environment: Callable[..., None], url: str
) -> None:
    environment(HTTPS_PROXY=url)
    why = await failure(clients())
    assert why == (
        "HTTPS_PROXY is not the URL of a proxy that is supported: write http://host:port or https://host:port"
    )


@given(st.text(max_size=30))
def test_any_variable_gives_a_proxy_or_a_failed_request(url: str) -> None:
    try:
        proxy = Proxies("environment", {"HTTPS_PROXY": url}).proxy_for(Origin("https", "idp.example", 443))
    except FetchFailed as failed:
        assert "HTTPS_PROXY is not the URL of a proxy" in str(failed)
    else:
        assert proxy is None or "@" not in proxy.root


# What the proxy gets.


class Forward:
    """A proxy that records the heads of requests, and connects every tunnel to one port of this machine."""

    def __init__(self, port: int = 0, response: bytes = ESTABLISHED) -> None:
        self.heads: list[bytes] = []
        self._port = port
        self._response = response

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self._response)
        if not self._port:
            return
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(pipe(reader, upstream_writer), pipe(upstream_reader, writer))
        finally:
            upstream_writer.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def authority_of(origin: str) -> str:
    return origin.partition("://")[2]


def port_of(origin: str) -> int:
    return int(origin.rpartition(":")[2])


async def test_a_request_without_tls_is_sent_to_the_proxy_in_absolute_form(
    clients: Callable[..., ProviderClient], environment: Callable[..., None]
) -> None:
    forward = Forward(response=EMPTY_OBJECT)
    async with RawProvider(forward) as proxy:
        environment(HTTP_PROXY=f"http://us%20er:p%40ss@{authority_of(proxy.origin)}")
        assert await body(clients(), "http://idp.example/jwks?a=b") == b"{}"
    (head,) = forward.heads
    credentials = base64.b64encode(b"us er:p@ss").decode()
    assert head.startswith(b"GET http://idp.example/jwks?a=b HTTP/1.1\r\nHost: idp.example\r\n")
    assert f"Proxy-Authorization: Basic {credentials}\r\n".encode() in head


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
async def test_tls_runs_through_a_tunnel_and_the_proxy_sees_only_connect(
    clients: Callable[..., ProviderClient], proxy_scheme: str
) -> None:
    async with RawProvider(send(EMPTY_OBJECT), context_for("idp.example")) as provider:
        forward = Forward(port_of(provider.origin))
        async with RawProvider(forward, context_for("127.0.0.1") if proxy_scheme == "https" else None) as proxy:
            assert await body(clients(proxy=proxy.origin), "https://idp.example/jwks") == b"{}"
    assert forward.heads == [
        b"CONNECT idp.example:443 HTTP/1.1\r\nHost: idp.example:443\r\nUser-Agent: %b\r\n\r\n" % USER_AGENT.encode()
    ]


async def test_credentials_for_the_proxy_go_into_connect_only(
    clients: Callable[..., ProviderClient], environment: Callable[..., None]
) -> None:
    seen = Forward(response=EMPTY_OBJECT)
    async with RawProvider(seen, context_for("idp.example")) as provider:
        forward = Forward(port_of(provider.origin))
        async with RawProvider(forward) as proxy:
            environment(HTTPS_PROXY=f"http://user:{SECRET}@{authority_of(proxy.origin)}")
            await body(clients(), "https://idp.example/jwks")
    assert b"Proxy-Authorization: Basic " in forward.heads[0]
    assert b"Proxy-Authorization" not in seen.heads[0]


async def test_a_tunnel_is_reused_for_the_next_request(clients: Callable[..., ProviderClient]) -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await send(EMPTY_OBJECT)(reader, writer)

    async with RawProvider(twice, context_for("idp.example")) as provider:
        forward = Forward(port_of(provider.origin))
        async with RawProvider(forward) as proxy:
            client = clients(proxy=proxy.origin)
            assert await body(client, "https://idp.example/a") == await body(client, "https://idp.example/b")
    assert len(forward.heads) == 1


async def test_a_proxy_cannot_replace_the_provider(clients: Callable[..., ProviderClient]) -> None:
    async with (
        RawProvider(send(EMPTY_OBJECT), context_for("evil.example")) as provider,
        RawProvider(Forward(port_of(provider.origin))) as proxy,
    ):
        why = await failure(clients(proxy=proxy.origin))
    assert why == "the certificate of https://idp.example/jwks is for another host name"


async def test_a_proxy_over_tls_must_have_a_certificate_for_its_name(clients: Callable[..., ProviderClient]) -> None:
    async with RawProvider(send(ESTABLISHED), context_for("evil.example")) as proxy:
        why = await failure(clients(proxy=proxy.origin))
    assert why.startswith(f"the certificate of the proxy {proxy.origin} is for another ")


async def test_a_proxy_over_tls_does_not_get_the_client_certificate(
    clients: Callable[..., ProviderClient], tmp_path: Path
) -> None:
    certificate = AUTHORITY.issue_cert("client.example")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    files = {"client_certificate_file": str(tmp_path / "tls.crt"), "client_key_file": str(tmp_path / "tls.key")}
    presented: dict[str, Any] = {}

    def requesting(place: str, script: Script) -> Script:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            presented[place] = writer.get_extra_info("peercert")
            await script(reader, writer)

        return run

    def context(host: str) -> ssl.SSLContext:
        context = context_for(host)
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    async with RawProvider(requesting("provider", send(EMPTY_OBJECT)), context("idp.example")) as provider:
        forward = requesting("proxy", Forward(port_of(provider.origin)))
        async with RawProvider(forward, context("127.0.0.1")) as proxy:
            await body(clients(proxy=proxy.origin, **files), "https://idp.example/jwks")
    assert presented["provider"]["subjectAltName"] == (("DNS", "client.example"),)
    assert not presented["proxy"]


# Hostile and broken proxies.


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", "refused a tunnel to idp.example:443 with status 407: put user and password"),
        (b"HTTP/1.1 403 No\r\n\r\n", "refused a tunnel to idp.example:443 with status 403: allow idp.example:443 in"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\n\r\n", "with status 302"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 99999999\r\n\r\n", "with status 503"),
        (ESTABLISHED + b"HTTP/1.1 200 OK\r\n\r\n{}", "sent data of its own into the tunnel to idp.example:443"),
        (OK + b"Content-Length: 2\r\n\r\n{}", "sent data of its own into the tunnel"),
        (b"", "did not come"),
        (b"HTTP/1.1 200", "ended before it was complete"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\na: \x00\r\n\r\n", "has control characters"),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_fails_the_request_with_a_reason(
    clients: Callable[..., ProviderClient], response: bytes, why: str
) -> None:
    async with RawProvider(Forward(response=response)) as proxy:
        failed = await failure(clients(proxy=proxy.origin))
        assert f"the proxy {proxy.origin}" in failed
    assert why in failed


ENDLESS: dict[str, tuple[Script, str]] = {
    "informational responses": (
        send_repeatedly(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
        f"begins with more than {MAX_INFORMATIONAL} informational responses",
    ),
    "header lines": (
        send_repeatedly(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000),
        f"has a header section of more than {MAX_HEAD_BYTES} bytes",
    ),
    "a status line": (
        send_repeatedly(b"HTTP/1.1 200 ", b"O" * 8192),
        f"has a header section of more than {MAX_HEAD_BYTES} bytes",
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_endless_response_to_connect_is_given_up_with_a_reason(
    clients: Callable[..., ProviderClient], kind: str
) -> None:
    script, why = ENDLESS[kind]
    async with RawProvider(script) as proxy:
        assert await failure(clients(proxy=proxy.origin)) == f"the response from the proxy {proxy.origin} {why}"


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\na: ", ESTABLISHED])
async def test_a_proxy_that_hangs_is_given_up_after_the_callers_timeout(
    clients: Callable[..., ProviderClient], response: bytes
) -> None:
    closed = asyncio.Event()
    timeout = asyncio.timeout(HANG_TIMEOUT)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        timeout.reschedule(asyncio.get_running_loop().time() + 0.1)
        while await reader.read(65536):
            pass
        closed.set()

    async with RawProvider(hang) as proxy:
        client = clients(proxy=proxy.origin)
        with pytest.raises(TimeoutError):
            async with timeout:
                await client.get("https://idp.example/jwks", MAX_BYTES)
        async with asyncio.timeout(HANG_TIMEOUT):
            await closed.wait()


async def test_a_proxy_that_cannot_be_reached_is_named(clients: Callable[..., ProviderClient]) -> None:
    async with RawProvider(send(b"")) as proxy:
        origin = proxy.origin
    assert await failure(clients(proxy=origin)) == f"the proxy {origin} refuses connections"
    assert await failure(clients(proxy=origin), "http://idp.example/") == f"the proxy {origin} refuses connections"


async def test_plain_http_through_a_proxy_must_be_allowed(clients: Callable[..., ProviderClient]) -> None:
    client = clients(proxy="http://127.0.0.1:9", allow_http=False)
    assert "plain http to another host is not allowed" in await failure(client, "http://idp.example/")
