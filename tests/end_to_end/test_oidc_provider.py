"""A real, certified identity provider (oidc-provider from npm), the real sidecar and the real Envoy.

No token here is self-made: the provider issues all of them at its own endpoints, to clients that follow the standards,
and the sidecar uses only what the provider publishes. There are two releases, because their ID tokens differ: those of
the older one have at_hash and the typ JWT, those of the current one have neither.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import pytest_asyncio

from support import oidc_provider as support
from support.initial_config import assert_init_writes_a_configuration_for
from support.oidc_provider import ALGORITHMS, API, OTHER_API, READ, WRITE, Mesh, OidcProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CONFIG = """\
issuers:
  - issuer: {issuer}
    name: real
    audiences: [{audiences}]
    access_token_profile: {profile}
    keys: {{{keys}}}
rules:
  - name: appointments
    match: {{paths: [/appointments]}}
    require: {{scopes: [read:appointments]}}
  - name: the-client-as-an-api
    match: {{paths: [/client]}}
    require: {{audiences: [app]}}
"""


@asynccontextmanager
async def running(folder: Path, provider: OidcProvider, *, profile: str = "any", keys: str = "") -> AsyncIterator[Mesh]:
    audiences = ", ".join(ALGORITHMS.values())
    configuration = _CONFIG.format(issuer=provider.issuer, audiences=audiences, profile=profile, keys=keys)
    async with support.running(folder, provider, configuration) as mesh:
        yield mesh


async def test_init_writes_a_configuration_that_decides_as_it_should(provider: OidcProvider, tmp_path: Path) -> None:
    await assert_init_writes_a_configuration_for(
        provider.issuer, API, tmp_path, good=await provider.access_token(), bad=(await provider.login())["id_token"]
    )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(release: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    """A provider whose keys do not change."""
    async with OidcProvider(release, tmp_path_factory.mktemp("provider") / "provider.log") as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("mesh"), provider) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module")
async def rotating(release: str, tmp_path: Path) -> AsyncIterator[OidcProvider]:
    """A provider whose keys the test changes."""
    async with OidcProvider(release, tmp_path / "provider.log") as provider:
        yield provider


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_access_tokens_of_each_algorithm_are_accepted_and_the_api_gets_the_subject(
    mesh: Mesh, algorithm: str
) -> None:
    token = await mesh.provider.access_token(ALGORITHMS[algorithm])
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    result = await mesh.send(token)
    assert (result.status, result.reason) == (200, "ok")
    assert {name: value for name, value in result.upstream.items() if name.startswith("x-auth-")} == {
        "x-auth-subject": "service",
        "x-auth-issuer": mesh.provider.issuer,
        "x-auth-client": "service",
        "x-auth-scopes": READ,
    }


async def test_the_access_token_of_a_logged_in_user_yields_subject_and_client(mesh: Mesh) -> None:
    tokens = await mesh.provider.login(scope=f"openid {READ} {WRITE}", resource=API)
    result = await mesh.send(tokens["access_token"])
    assert (result.status, result.reason) == (200, "ok")
    identity = [result.upstream[f"x-auth-{name}"] for name in ("subject", "client", "scopes")]
    assert identity == ["alice", "app", f"{READ} {WRITE}"]


async def test_an_access_token_for_another_resource_is_denied(mesh: Mesh) -> None:
    result = await mesh.send(await mesh.provider.access_token(OTHER_API))
    assert (result.status, result.reason) == (401, "wrong_audience")
    assert 'error="invalid_token"' in result.challenge


async def test_an_access_token_without_the_scope_is_denied_with_a_challenge(mesh: Mesh) -> None:
    result = await mesh.send(await mesh.provider.access_token(scope=WRITE))
    assert (result.status, result.reason) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in result.challenge
    assert f'scope="{READ}"' in result.challenge


@pytest.mark.parametrize("path", ["/appointments", "/client"])
async def test_its_id_tokens_are_denied_even_if_their_audience_is_accepted(mesh: Mesh, path: str) -> None:
    tokens = await mesh.provider.login(nonce=secrets.token_urlsafe(12))
    refreshed = await mesh.provider.refresh(tokens["refresh_token"])
    for token in (tokens["id_token"], refreshed["id_token"]):
        result = await mesh.send(token, path)
        assert (result.status, result.reason) == (401, "id_token")
        assert 'error="invalid_token"' in result.challenge


async def others(provider: OidcProvider) -> dict[str, str]:
    """Other JWTs that it signs with the same key."""
    tokens = await provider.login()
    callback = await provider.callback(response_mode="jwt")  # JARM
    return {
        "ID token without a nonce": tokens["id_token"],
        "userinfo": await provider.userinfo(tokens["access_token"]),
        "introspection": await provider.introspection(tokens["access_token"]),
        "authorization response": parse_qs(urlsplit(callback).query)["response"][0],
    }


async def test_other_jwts_signed_with_the_same_key_are_not_access_tokens(mesh: Mesh) -> None:
    tokens = await others(mesh.provider)
    assert {kid(token) for token in tokens.values()} == {kid(await mesh.provider.access_token())}
    outcomes = {name: await mesh.send(token) for name, token in tokens.items()}
    assert {name: result.status for name, result in outcomes.items()} == dict.fromkeys(tokens, 401)


async def test_the_strict_profile_accepts_only_its_access_tokens(provider: OidcProvider, tmp_path: Path) -> None:
    async with running(tmp_path, provider, profile="rfc9068") as mesh:
        for resource in ALGORITHMS.values():
            assert (await mesh.send(await provider.access_token(resource))).reason == "ok"
        for name, token in (await others(provider)).items():
            assert (await mesh.send(token, "/client")).status == 401, name


async def test_tokens_of_a_new_key_are_accepted_at_once_after_one_fetch(rotating: OidcProvider, tmp_path: Path) -> None:
    async with running(tmp_path, rotating, keys="unknown_kid_cooldown: 500ms") as mesh:
        old = await rotating.access_token()
        assert (await mesh.send(old)).reason == "ok"
        assert await rotating.fetches() == 1
        for fetches, keys in ((2, ("RSA-2", "RSA-1")), (3, ("RSA-3", "RSA-2", "RSA-1"))):
            await rotating.publish(*keys)
            new = [await rotating.access_token() for _ in range(20)]
            assert kid(old) not in map(kid, new)
            outcomes = await asyncio.gather(*(mesh.send(token) for token in (*new, old)))
            assert {result.reason for result in outcomes} == {"ok"}
            assert await rotating.fetches() == fetches
            await asyncio.sleep(0.6)  # the cooldown


async def test_a_removed_key_invalidates_its_tokens_including_cached_ones(
    rotating: OidcProvider, tmp_path: Path
) -> None:
    keys = "refresh_interval: 1s, min_refresh_interval: 1s, unknown_kid_cooldown: 1s"
    async with running(tmp_path, rotating, keys=keys) as mesh:
        cached, unseen = await rotating.access_token(), await rotating.access_token()
        await rotating.publish("RSA-2", "RSA-1")
        new = await rotating.access_token()
        for token in (cached, cached, new):
            assert (await mesh.send(token)).reason == "ok"
        assert await mesh.cache_hits() == 1
        await rotating.publish("RSA-2")
        await mesh.wait_for(cached, "unknown_key")  # at the next refresh
        for token in (cached, unseen):
            result = await mesh.send(token)
            assert (result.status, result.reason) == (401, "unknown_key")
            assert 'error="invalid_token"' in result.challenge
        assert (await mesh.send(new)).reason == "ok"


async def test_the_first_token_of_a_new_key_removes_the_replaced_key(rotating: OidcProvider, tmp_path: Path) -> None:
    async with running(tmp_path, rotating) as mesh:  # the next refresh is minutes away
        old = await rotating.access_token()
        assert (await mesh.send(old)).reason == "ok"
        await rotating.publish("RSA-2")
        assert (await mesh.send(await rotating.access_token())).reason == "ok"
        result = await mesh.send(old)
        assert (result.status, result.reason) == (401, "unknown_key")
        assert await rotating.fetches() == 2
