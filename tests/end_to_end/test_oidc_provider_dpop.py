"""DPoP-bound tokens of a real identity provider and the proofs of a real client, the real sidecar and the real Envoy.

oidc-provider binds the tokens, oauth4webapi makes the proofs, keeps the nonces and parses the challenges. Proofs with a
wrong part are made by hand, for tokens that oidc-provider bound to their key.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from support.dpop import DpopKey
from support.oidc_provider import API, READ, OidcProvider
from support.protected_api import (
    INTROSPECTING,
    ORIGIN,
    PATH,
    RESOURCES,
    SETUPS,
    ProtectedApi,
    configuration,
    protected_api,
)
from support.sidecar_process import HANG_TIMEOUT, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from support.oauth_client import OAuthClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

_RELOADED = "configuration applied"


def requiring_nonces(
    folder: Path,
    provider: OidcProvider,
    client: OAuthClient,
    nonce_key: bytes | None = None,
    setup: Mapping[str, Any] | None = None,
    **dpop: Any,
) -> AbstractAsyncContextManager[ProtectedApi]:
    """An API with a nonce key of its own or this one, and with these other settings."""
    folder.mkdir(exist_ok=True)
    (folder / "nonce.key").write_bytes(nonce_key or secrets.token_bytes(32))
    settings = {"nonce": "required", "nonce_key_file": "nonce.key"} | dpop
    configured = configuration(folder, provider, "dpop", dpop=settings)
    return protected_api(folder, provider, client, configured, **(setup or {}))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(release: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    log = tmp_path_factory.mktemp("provider") / "provider.log"
    async with OidcProvider(release, log, [INTROSPECTING]) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SETUPS)
async def api(
    request: pytest.FixtureRequest,
    provider: OidcProvider,
    client: OAuthClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ProtectedApi]:
    folder = tmp_path_factory.mktemp("api")
    async with requiring_nonces(folder, provider, client, setup=SETUPS[request.param]) as api:
        yield api


@pytest.fixture(params=RESOURCES)
def resource(request: pytest.FixtureRequest) -> str:
    return RESOURCES[request.param]


async def issued(api: ProtectedApi, key: str | None, resource: str = API, algorithm: str = "ES256") -> str:
    """The token that the provider issues to the service."""
    issuer = api.mesh.provider.issuer
    response = await api.client.token(issuer, key=key, algorithm=algorithm, resource=resource, scope=READ)
    assert response["token_type"] == ("bearer" if key is None else "dpop")
    return str(response["access_token"])


def named() -> str:
    """The name of a new key."""
    return secrets.token_urlsafe(8)


async def current_nonce(api: ProtectedApi, token: str, key: DpopKey, origin: str = ORIGIN) -> str:
    response = await api.send(token, key.proof("GET", f"{origin}{PATH}", token, now=time.time()))
    assert (response.status, response.reason) == (401, "nonce_required")
    assert response.nonce is not None
    return response.nonce


async def test_the_owner_needs_one_nonce_and_is_allowed_from_then_on(api: ProtectedApi, resource: str) -> None:
    key = named()
    token = await issued(api, key, resource)
    first = await api.call(token, key)
    assert [each.status for each in first.sent] == [401, 200]
    assert first.sent[0].nonce is not None
    assert (first.reason, first.upstream["x-auth-client"]) == ("ok", "service")
    for _ in range(3):
        again = await api.call(token, key, method="POST", path=f"{PATH}/7?reason=checkup")
        assert [(each.status, each.nonce) for each in again.sent] == [(200, None)]
        assert again.reason == "ok"


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA", "PS256", "RS256"])
async def test_each_algorithm_of_a_client_is_accepted(api: ProtectedApi, algorithm: str) -> None:
    key = named()
    token = await issued(api, key, algorithm=algorithm)
    assert (await api.call(token, key, path="/bound")).reason == "ok"


async def test_a_logged_in_user_is_allowed_by_the_proof_of_the_application(api: ProtectedApi) -> None:
    key, verifier, provider = named(), secrets.token_urlsafe(32), api.mesh.provider
    response = await api.client.login(
        provider.issuer,
        key=key,
        client={"client_id": "app", "client_secret": "app-secret"},
        callback=await provider.callback(verifier, scope=f"openid {READ}", resource=API),
        redirect_uri="https://app.example/callback",
        code_verifier=verifier,
        resource=API,
    )
    assert response["token_type"] == "dpop"
    allowed = await api.call(response["access_token"], key)
    assert (allowed.reason, allowed.upstream["x-auth-subject"]) == ("ok", "alice")
    assert (await api.call(response["access_token"])).reason == "missing_proof"


async def test_a_stolen_token_is_worth_nothing_as_a_bearer_token(api: ProtectedApi, resource: str) -> None:
    key = named()
    token = await issued(api, key, resource)
    assert (await api.call(token, key)).reason == "ok"
    stolen = await api.call(token)
    assert (stolen.status, stolen.reason) == (401, "missing_proof")
    assert stolen.errors() == {"dpop": "invalid_token"}
    assert (await api.last_decision())["reason"] == "missing_proof"
    assert (await api.send(token)).reason == "missing_proof"  # under the scheme DPoP


async def test_a_stolen_token_is_worth_nothing_with_the_proof_of_a_thief(api: ProtectedApi, resource: str) -> None:
    owner, thief = named(), named()
    token = await issued(api, owner, resource)
    await api.call(await issued(api, thief, resource), thief)  # the thief has a nonce
    stolen = await api.call(token, thief)
    assert (stolen.status, stolen.reason) == (401, "invalid_proof")
    assert stolen.errors() == {"dpop": "invalid_dpop_proof"}
    logged = await api.last_decision()
    assert (logged["reason"], bool(logged["cause"])) == ("invalid_proof", True)


async def test_a_proof_is_accepted_once(api: ProtectedApi, resource: str) -> None:
    key = named()
    token = await issued(api, key, resource)
    allowed = await api.call(token, key)
    used = allowed.sent[-1].proof
    assert (allowed.reason, used is not None) == ("ok", True)
    for _ in range(2):
        replayed = await api.send(token, str(used))
        assert (replayed.status, replayed.reason) == (401, "replayed_proof")
        (challenge,) = replayed.challenges
        assert challenge.startswith("DPoP ")
        assert 'error="invalid_dpop_proof"' in challenge
    assert (await api.call(token, key)).reason == "ok"


async def test_a_proof_without_a_current_nonce_requires_one(api: ProtectedApi) -> None:
    key = DpopKey()
    token = await api.mesh.provider.bound_token(key)
    for nonce in (None, "guessed"):
        response = await api.send(token, key.proof("GET", f"{ORIGIN}{PATH}", token, now=time.time(), nonce=nonce))
        assert (response.status, response.reason) == (401, "nonce_required")
        assert response.nonce is not None
        (challenge,) = response.challenges
        assert challenge.startswith("DPoP ")
        assert 'error="use_dpop_nonce"' in challenge
        assert "ES256" in challenge


_WRONG: dict[str, dict[str, Any]] = {
    "another method": {"method": "POST"},
    "another path": {"url": f"{ORIGIN}{PATH}/7"},
    "another host": {"url": f"https://other.example{PATH}"},
    "http": {"url": f"http://api.example.com{PATH}"},
    "another port": {"url": f"{ORIGIN}:8443{PATH}"},
    "an old iat": {"claim_changes": {"iat": int(time.time()) - 3600}},
    "a future iat": {"claim_changes": {"iat": int(time.time()) + 3600}},
    "no jti": {"claim_changes": {"jti": None}},
    "no ath": {"claim_changes": {"ath": None}},
    "the ath of another token": {"token": "another"},
    "another typ": {"header_changes": {"typ": "JWT"}},
    "another key in the header": {"header_changes": {"jwk": DpopKey(name="thief").jwk}},
    "the signature of another key": {"sign_with": DpopKey(name="thief")},
    "the algorithm none": {"header_changes": {"alg": "none"}},
}


@pytest.mark.parametrize("wrong", _WRONG)
async def test_a_proof_for_anything_else_is_invalid(api: ProtectedApi, wrong: str) -> None:
    key = DpopKey()
    token = await api.mesh.provider.bound_token(key)
    right: dict[str, Any] = {"method": "GET", "url": f"{ORIGIN}{PATH}", "token": token, "now": time.time()}
    right["nonce"] = await current_nonce(api, token, key)
    response = await api.send(token, key.proof(**(right | _WRONG[wrong])))
    assert (response.status, response.reason) == (401, "invalid_proof")
    (challenge,) = response.challenges
    assert challenge.startswith("DPoP ")
    assert 'error="invalid_dpop_proof"' in challenge
    logged = await api.last_decision()
    assert (logged["reason"], bool(logged["cause"])) == ("invalid_proof", True)
    assert logged["cause"] not in "".join(api.received)
    assert (await api.send(token, key.proof(**right))).reason == "ok"


@pytest.mark.parametrize(
    ("path", "host", "url"),
    [
        (f"{PATH}/7?reason=checkup", "api.example.com", f"{ORIGIN}{PATH}/7"),
        (f"{PATH}/%41%2a%c3%a9", "api.example.com", f"{ORIGIN}{PATH}/A%2A%C3%A9"),
        (PATH, "API.example.com:443", f"{ORIGIN}{PATH}"),
        (PATH, "api.example.com:8443", f"https://Api.Example.com:8443{PATH}"),
        (PATH, "127.0.0.1:8080", f"http://127.0.0.1:8080{PATH}"),
    ],
)
async def test_the_url_of_a_proof_may_be_written_in_any_equivalent_way(
    api: ProtectedApi, path: str, host: str, url: str
) -> None:
    key = DpopKey()
    token = await api.mesh.provider.bound_token(key)
    proof = key.proof("GET", url, token, now=time.time(), nonce=await current_nonce(api, token, key))
    assert (await api.send(token, proof, path=path, headers={"Host": host})).reason == "ok"


async def test_the_scheme_is_written_in_any_case(api: ProtectedApi) -> None:
    key = DpopKey()
    token = await api.mesh.provider.bound_token(key)
    proof = key.proof("GET", f"{ORIGIN}{PATH}", token, now=time.time(), nonce=await current_nonce(api, token, key))
    assert (await api.send(token, proof, scheme="dpop")).reason == "ok"


async def test_two_proofs_are_invalid_even_if_each_is_valid(api: ProtectedApi) -> None:
    key = DpopKey()
    token = await api.mesh.provider.bound_token(key)
    nonce = await current_nonce(api, token, key)
    proofs = [key.proof("GET", f"{ORIGIN}{PATH}", token, now=time.time(), nonce=nonce) for _ in range(2)]
    assert (await api.send(token, *proofs)).reason == "invalid_proof"
    assert (await api.send(token, proofs[0])).reason == "ok"


async def test_an_unbound_token_is_a_bearer_token_and_not_enough_where_a_proof_is_required(
    api: ProtectedApi, resource: str
) -> None:
    key, token = named(), await issued(api, None, resource)
    assert (await api.call(token)).reason == "ok"
    refused = await api.call(token, path="/bound")
    assert (refused.status, refused.reason, refused.errors()) == (401, "unbound_token", {"dpop": "invalid_token"})
    with_proof = await api.call(token, key)
    assert (with_proof.status, with_proof.reason) == (401, "unbound_token")


async def test_the_client_finds_both_challenges_where_either_token_would_do(api: ProtectedApi) -> None:
    both = await api.call("guessed")
    assert (both.status, both.reason) == (401, "inactive")
    assert both.errors().keys() == {"bearer", "dpop"}
    algorithms = next(each["parameters"]["algs"] for each in both.challenges if each["scheme"] == "dpop")
    assert algorithms.split() == ["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256"]
    bound = await api.call("guessed", path="/bound")
    assert (bound.reason, bound.errors()) == ("inactive", {"dpop": "invalid_token"})


async def test_each_result_of_a_proof_is_counted(api: ProtectedApi) -> None:
    async def counted() -> list[float]:
        results = ("valid", "nonce_required", "replayed_proof", "invalid_proof")
        return [sum(await api.mesh.sidecar.metric("authz_dpop_proofs_total", result=each)) for each in results]

    owner, thief = named(), named()
    token = await issued(api, owner)
    before = await counted()
    allowed = await api.call(token, owner)
    await api.call(token, owner)
    assert (await api.send(token, str(allowed.sent[-1].proof))).reason == "replayed_proof"
    assert (await api.call(token, thief)).reason == "invalid_proof"
    assert [after - old for after, old in zip(await counted(), before, strict=True)] == [2, 1, 1, 1]


async def test_proofs_name_the_origin_that_clients_see(
    provider: OidcProvider, client: OAuthClient, tmp_path: Path
) -> None:
    origins = ["https://public.example", "https://public.example:8443"]
    async with requiring_nonces(tmp_path, provider, client, origins=origins) as api:
        key = DpopKey()
        token = await provider.bound_token(key)
        nonce = await current_nonce(api, token, key, origins[0])
        for origin, reason in (*((each, "ok") for each in origins), (ORIGIN, "invalid_proof")):
            proof = key.proof("GET", f"{origin}{PATH}", token, now=time.time(), nonce=nonce)
            assert (await api.send(token, proof)).reason == reason


async def test_used_proofs_and_nonces_outlive_a_change_of_the_configuration_and_of_the_nonce_key(
    provider: OidcProvider, client: OAuthClient, tmp_path: Path
) -> None:
    new = secrets.token_bytes(32)
    async with (
        requiring_nonces(tmp_path / "a", provider, client) as changed,
        requiring_nonces(tmp_path / "b", provider, client, new) as replica,
    ):
        key = named()
        token = await issued(changed, key)
        used = str((await changed.call(token, key)).sent[-1].proof)
        (tmp_path / "a" / "nonce.key").write_bytes(new)
        await wait_until(lambda: bool(changed.mesh.sidecar.records(_RELOADED)))
        assert (await changed.send(token, used)).reason == "replayed_proof"
        assert [each.status for each in (await changed.call(token, key)).sent] == [200]
        other = named()
        token = await issued(changed, other)
        dances = [[each.status for each in (await api.call(token, other)).sent] for api in (changed, replica)]
        assert dances == [[401, 200], [200]]


async def test_sidecars_with_one_nonce_key_accept_the_nonces_of_each_other(
    provider: OidcProvider, client: OAuthClient, tmp_path: Path
) -> None:
    shared = secrets.token_bytes(32)
    async with (
        requiring_nonces(tmp_path / "a", provider, client, shared) as one,
        requiring_nonces(tmp_path / "b", provider, client, shared) as two,
        requiring_nonces(tmp_path / "c", provider, client) as stranger,
    ):
        key = named()
        token = await issued(one, key)
        dances = [[each.status for each in (await api.call(token, key)).sent] for api in (one, two, stranger, one)]
    assert dances == [[401, 200], [200], [401, 200], [401, 200]]


async def test_workers_accept_the_nonces_of_each_other(
    provider: OidcProvider, client: OAuthClient, tmp_path: Path
) -> None:
    setup = {"server": {"workers": 2}, "checks_per_connection": 1}
    async with requiring_nonces(tmp_path, provider, client, setup=setup) as api:
        key = named()
        token = await issued(api, key)
        assert [each.status for each in (await api.call(token, key)).sent] == [401, 200]
        for _ in range(20):  # on new connections, which the kernel distributes between the workers
            assert [each.status for each in (await api.call(token, key)).sent] == [200]
    assert len({record.get("worker") for record in api.mesh.sidecar.records("decision")}) == 2


async def test_an_allowed_request_gets_the_next_nonce_before_its_own_expires(
    provider: OidcProvider, client: OAuthClient, tmp_path: Path
) -> None:
    async with requiring_nonces(tmp_path, provider, client, nonce_lifetime="2s") as api:
        key, own = named(), DpopKey()
        bound = await provider.bound_token(own)
        first = await current_nonce(api, bound, own)
        token = await issued(api, key)
        nonces: set[str] = set()
        async with asyncio.timeout(HANG_TIMEOUT):
            while len(nonces) < 2:
                response = await api.call(token, key)
                assert response.reason == "ok"
                nonces |= {response.sent[-1].nonce} if response.sent[-1].nonce else set()
            expired: Any = None
            while expired != "nonce_required":
                proof = own.proof("GET", f"{ORIGIN}{PATH}", bound, now=time.time(), nonce=first)
                expired = (await api.send(bound, proof)).reason
        assert first not in nonces
