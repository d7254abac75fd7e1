"""A real Keycloak, the real sidecar and the real Envoy, with the configuration of examples/keycloak.

Every token is issued by Keycloak. The realm is imported from keycloak/realm.json: ``ann`` is a customer (a client role
of the API), ``bob`` works in the back office (a realm role that contains ``shop-admin``).
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, Final

import jwt
import pytest
import pytest_asyncio

from support.documents import blocks, page
from support.initial_config import assert_init_writes_a_configuration_for
from support.keycloak import API, API_SECRET, Realm
from support.keycloak_mesh import ADMIN, REPORTS, Mesh, introspection, running
from support.keycloak_server import Server, keycloak
from support.missing import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PAGE: Final = page("how-to/providers/keycloak")
_HANG_TIMEOUT: Final = 60.0  # seconds; only a test that hangs takes this long

_PROMISE = (
    "that Keycloak's access tokens are accepted and its other tokens refused, with its roles, audiences, key rotation, "
    "introspection and revocation"
)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak(_PROMISE) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def realm(server: Server) -> AsyncIterator[Realm]:
    async with Realm(server) as realm:
        yield realm


async def test_init_writes_a_configuration_that_decides_as_it_should(realm: Realm, tmp_path: Path) -> None:
    tokens = await realm.tokens("web", "ann")
    good, bad = tokens["access_token"], tokens["id_token"]
    await assert_init_writes_a_configuration_for(realm.issuer, API, tmp_path, good=good, bad=bad)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("mesh"), realm) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def introspecting(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("introspecting"), realm, **introspection(cache_ttl="1s")) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module")
async def rotating(server: Server) -> AsyncIterator[Realm]:
    """A realm whose keys the test changes."""
    async with Realm(server) as realm:
        yield realm


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_the_access_token_of_a_service_account_is_accepted(realm: Realm, mesh: Mesh) -> None:
    token = await realm.service_token()
    outcome = await mesh.send(token)
    assert (outcome.status, outcome.reason) == (200, "ok")
    assert {name: value for name, value in outcome.upstream.items() if name.startswith("x-auth-")} == {
        "x-auth-subject": claims(token)["sub"],
        "x-auth-client": "service",
    }


async def test_the_command_of_the_page_on_keycloak_gets_a_token_that_is_accepted(
    realm: Realm, mesh: Mesh, tmp_path: Path
) -> None:
    for name in ("curl", "jq"):
        program(name, "that the command of docs/how-to/providers/keycloak.md gets a token")
    command = blocks(_PAGE, "sh")[0].text.replace("https://sso.example.com/realms/shop", realm.issuer)
    command = command.replace("client_id=curl", "client_id=service")
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-ec", command), cwd=tmp_path, env=os.environ | {"SECRET": "service-secret"}
    )
    assert await asyncio.wait_for(process.wait(), _HANG_TIMEOUT) == 0
    token = (tmp_path / "token").read_text().strip()
    assert await mesh.result(token) == (200, "ok")


async def test_the_tokens_of_a_user_have_the_claims_that_the_page_on_keycloak_shows(realm: Realm) -> None:
    tokens = await realm.tokens("web", "ann")
    for title, name in (("access token", "access_token"), ("ID token", "id_token")):
        (shown,) = [json.loads(block.text) for block in blocks(_PAGE, "json", title)]
        issued = claims(tokens[name])
        assert set(shown) <= set(issued), title
        assert {each: type(shown[each]) for each in shown} == {each: type(issued[each]) for each in shown}
        assert (shown["typ"], shown["azp"]) == (issued["typ"], issued["azp"])
        assert API in issued["aud"] or title == "ID token"


@pytest.mark.parametrize("way", ["direct grant", "authorization code"])
async def test_the_access_token_of_a_user_is_accepted_and_names_the_user_and_the_client(
    realm: Realm, mesh: Mesh, way: str
) -> None:
    tokens = await (realm.tokens("web", "ann") if way == "direct grant" else realm.login("ann"))
    outcome = await mesh.send(tokens["access_token"])
    assert (outcome.status, outcome.reason) == (200, "ok")
    sent = [outcome.upstream[f"x-auth-{name}"] for name in ("subject", "client")]
    assert sent == [claims(tokens["id_token"])["sub"], "web"]


async def test_a_realm_role_counts_also_as_a_part_of_a_composite_role(realm: Realm, mesh: Mesh) -> None:
    outcome = await mesh.send(await realm.access_token("web", "bob"), REPORTS)
    assert (outcome.status, outcome.reason) == (200, "ok")
    assert "shop-admin" in outcome.upstream["x-auth-roles"].split(",")
    assert await mesh.result(await realm.access_token("web", "ann"), REPORTS) == (403, "claim_mismatch")


async def test_a_client_role_counts_only_for_its_client(realm: Realm, mesh: Mesh) -> None:
    assert await mesh.result(await realm.access_token("web", "ann")) == (200, "ok")
    assert await mesh.result(await realm.access_token("web", "bob")) == (403, "claim_mismatch")


async def test_without_the_audience_mapper_the_audience_is_wrong(realm: Realm, mesh: Mesh) -> None:
    outcome = await mesh.send(await realm.access_token("without-mapper", "bob"), REPORTS)
    assert (outcome.status, outcome.reason) == (401, "wrong_audience")
    assert 'error="invalid_token"' in outcome.challenge


async def test_a_token_for_another_audience_is_inactive_for_the_api_that_introspects_it(
    realm: Realm, introspecting: Mesh
) -> None:
    token = await realm.access_token("without-mapper", "bob")
    assert await introspecting.result(token, REPORTS) == (401, "inactive")


async def test_a_client_role_of_the_api_is_enough_for_the_audience(realm: Realm, mesh: Mesh) -> None:
    # "audience resolve" of the default client scope "roles" adds each client of which the user has a role.
    assert await mesh.result(await realm.access_token("without-mapper", "ann")) == (200, "ok")


async def test_an_id_token_is_refused_even_where_its_audience_is_accepted(realm: Realm, tmp_path: Path) -> None:
    async with running(tmp_path, realm, audiences=["web"]) as mesh:
        for tokens in (await realm.tokens("web", "ann"), await realm.login("ann", nonce="n-0S6_WzA2Mj")):
            assert claims(tokens["id_token"])["aud"] == "web"
            outcome = await mesh.send(tokens["id_token"], "/catalog/shoes")
            assert (outcome.status, outcome.reason) == (401, "id_token")
            assert 'error="invalid_token"' in outcome.challenge


async def test_a_refresh_token_is_refused_with_and_without_introspection(
    realm: Realm, mesh: Mesh, introspecting: Mesh
) -> None:
    token = (await realm.tokens("web", "ann"))["refresh_token"]
    for each in (mesh, introspecting):
        outcome = await each.send(token)
        assert (outcome.status, outcome.reason) == (401, "unsupported_algorithm")  # Keycloak signs it with HS512
        assert 'error="invalid_token"' in outcome.challenge


async def test_the_strict_profile_accepts_only_at_jwt_tokens_with_a_client_id(realm: Realm, tmp_path: Path) -> None:
    async with running(tmp_path, realm, access_token_profile="rfc9068") as mesh:
        assert await mesh.result(await realm.access_token("rfc9068", "ann")) == (200, "ok")
        assert await mesh.result(await realm.access_token("web", "ann")) == (401, "wrong_token_type")


async def test_the_challenge_of_a_rule_with_step_up_leads_to_a_login_that_it_accepts(realm: Realm, mesh: Mesh) -> None:
    with_password = await realm.login("bob")
    outcome = await mesh.send(with_password["access_token"], ADMIN)
    assert (outcome.status, outcome.reason) == (401, "weak_authentication")
    assert 'error="insufficient_user_authentication"' in outcome.challenge
    assert 'acr_values="gold"' in outcome.challenge
    stepped_up = await realm.login("bob", acr_values="gold")
    assert await mesh.result(stepped_up["access_token"], ADMIN) == (200, "ok")


async def test_discovery_at_the_realm_url_finds_the_keys_and_the_introspection_endpoint(
    realm: Realm, introspecting: Mesh
) -> None:
    document = await realm.discovered()
    assert document["issuer"] == realm.issuer
    assert document["jwks_uri"] == f"{realm.protocol}/certs"  # which examples/keycloak names
    before = await introspecting.count("authz_introspections_total", result="active")
    assert await introspecting.result(await realm.service_token()) == (200, "ok")
    assert await introspecting.count("authz_introspections_total", result="active") == before + 1


async def test_a_token_of_a_new_key_is_accepted_by_a_fetch_for_its_kid_and_older_tokens_remain_good(
    rotating: Realm, tmp_path: Path
) -> None:
    keys = {"jwks_uri": f"{rotating.protocol}/certs", "unknown_kid_cooldown": "100ms"}
    algorithms = ["RS256", "PS256", "ES256", "EdDSA"]
    async with running(
        tmp_path, rotating, keys=keys, algorithms=algorithms
    ) as mesh:  # the next refresh is minutes away
        tokens = [await rotating.service_token()]
        assert await mesh.result(tokens[0]) == (200, "ok")
        for fetches, algorithm in enumerate(algorithms, 2):
            await rotating.add_key(algorithm)
            tokens.append(await rotating.service_token())
            assert jwt.get_unverified_header(tokens[-1])["alg"] == algorithm
            await mesh.until(tokens[-1], "ok")  # once the cool-down is over
            assert [await mesh.result(token) for token in tokens] == [(200, "ok")] * len(tokens)
            assert await mesh.count("authz_jwks_fetches_total", result="success") == fetches
        assert len({kid(token) for token in tokens}) == len(tokens)


async def test_tokens_of_a_disabled_key_are_refused_even_if_cached(rotating: Realm, tmp_path: Path) -> None:
    keys = {"discovery": True, "refresh_interval": "1s", "min_refresh_interval": "1s", "unknown_kid_cooldown": "1s"}
    async with running(tmp_path, rotating, keys=keys) as mesh:
        cached, unseen = await rotating.service_token(), await rotating.service_token()
        assert await mesh.result(cached) == (200, "ok")
        await rotating.add_key()
        new = await rotating.service_token()
        await mesh.until(new, "ok")
        await rotating.disable_first_key()
        await mesh.until(cached, "unknown_key")
        for token in (cached, unseen):
            outcome = await mesh.send(token)
            assert (outcome.status, outcome.reason) == (401, "unknown_key")
            assert 'error="invalid_token"' in outcome.challenge
        assert await mesh.result(new) == (200, "ok")


async def test_a_revoked_token_and_one_of_an_ended_session_are_refused_once_cache_ttl_has_passed(
    realm: Realm, introspecting: Mesh
) -> None:
    service_token = await realm.service_token()
    revoked, logged_out, other = [await realm.tokens("web", "ann") for _ in range(3)]
    refused = [service_token, revoked["access_token"], logged_out["access_token"]]
    for token in (*refused, other["access_token"]):
        assert await introspecting.result(token) == (200, "ok")
    await realm.revoke("service", service_token)
    await realm.revoke("web", revoked["access_token"])
    await realm.log_out("web", logged_out["refresh_token"])
    for token in refused:
        outcome = await introspecting.until(token, "inactive")
        assert outcome.status == 401
        assert 'error="invalid_token"' in outcome.challenge
    assert await introspecting.result(other["access_token"]) == (200, "ok")


async def test_without_introspection_a_revoked_token_is_good_until_it_expires(realm: Realm, mesh: Mesh) -> None:
    token = await realm.access_token("web", "ann")
    await realm.revoke("web", token)
    assert await mesh.result(token) == (200, "ok")


async def test_an_invented_opaque_token_is_inactive(introspecting: Mesh) -> None:
    assert await introspecting.result("guessed") == (401, "inactive")


async def test_a_lightweight_token_with_the_claims_that_rules_need_is_accepted(
    realm: Realm, mesh: Mesh, introspecting: Mesh
) -> None:
    token = await realm.access_token("lightweight", "ann")
    assert "preferred_username" not in claims(token)
    assert await mesh.result(token) == (200, "ok")
    assert await introspecting.result(token) == (200, "ok")
    await realm.revoke("lightweight", token)
    await introspecting.until(token, "inactive")


async def test_a_bare_lightweight_token_is_accepted_by_the_claims_of_its_introspection(
    realm: Realm, mesh: Mesh, introspecting: Mesh
) -> None:
    token = await realm.access_token("bare-lightweight", "ann")
    assert not {"aud", "sub", "resource_access"} & claims(token).keys()
    assert await mesh.result(token) == (401, "wrong_audience")
    outcome = await introspecting.send(token)
    assert (outcome.status, outcome.reason) == (200, "ok")
    assert outcome.upstream["x-auth-client"] == "bare-lightweight"
    assert outcome.upstream["x-auth-subject"]


async def test_neither_tokens_nor_secrets_are_logged(realm: Realm, tmp_path: Path) -> None:
    async with running(tmp_path, realm, **introspection()) as mesh:
        tokens = await realm.tokens("web", "ann")
        sent = [tokens[name] for name in ("access_token", "id_token", "refresh_token")]
        assert [(await mesh.send(token)).status for token in sent] == [200, 401, 401]
    log = mesh.log.read_text()
    assert not [secret for secret in (*sent, API_SECRET) if secret in log]
