"""The introspection endpoint: discovered once, refreshed in the background, and never at another issuer's word."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from support.introspection_clients import ACTIVE, TOKEN, free_port, hang, record_requests

if TYPE_CHECKING:
    from support.http_provider import Provider
    from support.introspection_clients import IntrospectionClients

OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"


def metadata(provider: Provider, **changes: Any) -> str:
    own = {"issuer": provider.origin, "introspection_endpoint": f"{provider.origin}/introspect"}
    return json.dumps({name: value for name, value in (own | changes).items() if value is not None})


@pytest.mark.parametrize("path", [OPENID, OAUTH])
async def test_the_endpoint_is_discovered_once(provider: Provider, clients: IntrospectionClients, path: str) -> None:
    record_requests(provider)
    provider.serve(path, metadata(provider))
    client = clients.client({"endpoint": None}, issuer=provider.origin)
    await asyncio.gather(*(client.introspect(TOKEN) for _ in range(10)))
    assert provider.count(path) == 1
    assert provider.count("/introspect") == 10


async def test_after_preparation_the_first_request_needs_no_discovery(
    provider: Provider, clients: IntrospectionClients
) -> None:
    record_requests(provider)
    provider.serve(OPENID, metadata(provider))
    client = clients.client({"endpoint": None}, issuer=provider.origin)
    await client.prepare()
    provider.requests.clear()
    await client.introspect(TOKEN)
    assert [request.path for request in provider.requests] == ["/introspect"]


@pytest.mark.parametrize("endpoint", [None, "http://[", "http://a:b", "mailto:a", "http:///", "/introspect"])
async def test_preparing_never_raises(clients: IntrospectionClients, endpoint: str | None) -> None:
    clients.provider.serve(OPENID, metadata(clients.provider, introspection_endpoint=endpoint))
    await clients.client({"endpoint": None}, issuer=clients.provider.origin).prepare()


async def test_a_malformed_endpoint_does_not_replace_a_usable_one(
    provider: Provider, clients: IntrospectionClients
) -> None:
    now = 0.0
    record_requests(provider)
    provider.serve(OPENID, metadata(provider))
    client = clients.client({"endpoint": None}, issuer=provider.origin, timer=lambda: now)
    await client.introspect(TOKEN)
    provider.serve(OPENID, metadata(provider, introspection_endpoint="http://["))
    for _ in range(3):
        now += 300.0
        await client.introspect(TOKEN)
        refreshing = client._endpoint._refreshing
        assert refreshing is not None
        await refreshing.wait()
        await client.introspect(TOKEN)
    assert provider.count("/introspect") == 7


async def test_a_moved_endpoint_is_discovered_and_the_old_one_is_used_until_then(
    provider: Provider, clients: IntrospectionClients
) -> None:
    now = 0.0
    record_requests(provider)
    provider.serve("/moved", ACTIVE, content_type="application/json")
    provider.serve(OPENID, metadata(provider))
    client = clients.client({"endpoint": None}, issuer=provider.origin, timer=lambda: now)
    await client.introspect(TOKEN)
    provider.serve(OPENID, metadata(provider, introspection_endpoint=f"{provider.origin}/moved"))
    now = 299.0
    await client.introspect(TOKEN)
    assert provider.count(OPENID) == 1
    now = 300.0
    await client.introspect(TOKEN)
    while provider.count("/moved") == 0:
        await client.introspect(TOKEN)
    assert provider.count(OPENID) == 2


async def test_the_discovered_endpoint_is_used_while_metadata_is_unavailable(
    provider: Provider, clients: IntrospectionClients
) -> None:
    now = 0.0
    record_requests(provider)
    provider.serve(OPENID, metadata(provider))
    client = clients.client({"endpoint": None}, issuer=provider.origin, timer=lambda: now)
    await client.introspect(TOKEN)
    provider.serve(OPENID, b"", status=500)
    for now in (300.0, 301.0, 329.0, 331.0):  # noqa: B007 - read by the timer
        await client.introspect(TOKEN)
        await asyncio.sleep(0.02)
    assert provider.count(OPENID) == 3  # not more often than min_refresh_interval


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"introspection_endpoint": None},
        {"introspection_endpoint": 7},
        {"introspection_endpoint": "/introspect"},
        {"introspection_endpoint": "ftp://idp.example/"},
        {"introspection_endpoint": "http://idp.example/introspect"},
    ],
)
async def test_invalid_metadata_is_a_failure(
    provider: Provider, clients: IntrospectionClients, changes: dict[str, Any]
) -> None:
    record_requests(provider)
    provider.serve(OPENID, metadata(provider, **changes))
    assert str(await clients.failure({"endpoint": None}, issuer=provider.origin))
    assert provider.count("/introspect") == 0


async def test_without_metadata_a_request_fails_with_the_cause(
    provider: Provider, clients: IntrospectionClients
) -> None:
    assert "no metadata: " in str(await clients.failure({"endpoint": None}, issuer=provider.origin))
    address = f"http://127.0.0.1:{free_port()}"
    failure = await clients.failure({"endpoint": None}, issuer=address)
    assert str(failure) == f"{address}/.well-known/openid-configuration refuses connections"


async def test_waiting_for_metadata_counts_towards_the_timeout(
    provider: Provider, clients: IntrospectionClients
) -> None:
    provider.handlers[OPENID] = hang
    failure = await clients.failure({"endpoint": None, "timeout": "100ms"}, issuer=provider.origin)
    assert str(failure) == "no complete response within 0.1 s"


async def test_discovery_has_its_own_timeout(provider: Provider, clients: IntrospectionClients) -> None:
    provider.handlers[OPENID] = hang
    keys = {"timeout": "100ms"}
    failure = await clients.failure({"endpoint": None, "timeout": "20s"}, issuer=provider.origin, keys=keys)
    assert str(failure) == f"no complete metadata from {provider.origin}{OPENID} within 0.1 s"
