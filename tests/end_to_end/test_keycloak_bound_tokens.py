"""Tokens that a real Keycloak binds to a key or a certificate, the real sidecar and the real Envoy.

The clients are registered in keycloak/realm.json with "Require DPoP bound tokens" and with "OAuth 2.0 Mutual TLS
Certificate Bound Access Tokens".
"""

from __future__ import annotations

import secrets
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
import trustme

from authz_service.demo.samples import HOST
from support.dpop import DpopKey
from support.keycloak import Realm, forwarded
from support.keycloak_mesh import Mesh, Response, introspection, proof_for, running
from support.keycloak_server import keycloak

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PROMISE = "that access tokens that Keycloak binds to a key or a certificate are of no use to others"
_KEY, _OTHER_KEY = DpopKey(name="keycloak-client"), DpopKey(name="keycloak-thief")
_DPOP: dict[str, Any] = {"algorithms": ["ES256"]}


@dataclass(frozen=True)
class Certificates:
    """The server's certificate and those of two clients, all of one authority."""

    authority: trustme.CA
    server: Path
    authority_file: Path
    own: trustme.LeafCert
    other: trustme.LeafCert

    def tls(self, certificate: trustme.LeafCert | None) -> ssl.SSLContext:
        """What a client with this certificate connects with."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    def envoy(self) -> dict[str, Any]:
        """Envoy's settings: it requests a certificate from each client and requires none."""
        return {"certificate": self.server, "client_ca": self.authority_file}

    @property
    def own_pem(self) -> str:
        return self.own.cert_chain_pems[0].bytes().decode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    found = Certificates(
        authority,
        server=folder / "server.pem",
        authority_file=folder / "ca.pem",
        own=authority.issue_cert("own.example"),
        other=authority.issue_cert("other.example"),
    )
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(found.server)
    authority.cert_pem.write_to_path(found.authority_file)
    return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def realm() -> AsyncIterator[Realm]:
    with keycloak(_PROMISE) as server:
        async with Realm(server) as realm:
            yield realm


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["by its claims", "by introspection"])
async def mesh(
    request: pytest.FixtureRequest, realm: Realm, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    changes = introspection() if request.param == "by introspection" else {}
    async with running(tmp_path_factory.mktemp("mesh"), realm, top={"dpop": _DPOP}, **changes) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["by its claims", "by introspection"])
async def tls_mesh(
    request: pytest.FixtureRequest,
    realm: Realm,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Mesh]:
    changes = introspection() if request.param == "by introspection" else {}
    folder = tmp_path_factory.mktemp("tls-mesh")
    async with running(folder, realm, envoy=certificates.envoy(), **changes) as mesh:
        yield mesh


async def dpop_token(realm: Realm, key: DpopKey = _KEY, client: str = "dpop") -> str:
    tokens = await realm.tokens(client, "ann", realm.proof_of(key))
    assert tokens["token_type"] == "DPoP"
    return str(tokens["access_token"])


async def certificate_token(realm: Realm, certificates: Certificates, client: str = "certificate") -> str:
    return str((await realm.tokens(client, "ann", forwarded(certificates.own_pem)))["access_token"])


def confirmation(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})["cnf"]
    return found


def outcome(response: Response) -> tuple[int, str]:
    return response.status, response.reason


# DPoP.


async def test_the_owner_of_a_bound_token_is_let_in_with_a_proof_for_each_request(realm: Realm, mesh: Mesh) -> None:
    token = await dpop_token(realm)
    for _ in range(2):
        response = await mesh.send_bound(token, proof=proof_for(_KEY, token))
        assert outcome(response) == (200, "ok")
        assert response.upstream["x-auth-client"] == "dpop"


async def test_a_service_account_is_let_in_with_its_proof(realm: Realm, mesh: Mesh) -> None:
    token = await realm.service_token("dpop", realm.proof_of(_KEY))
    assert outcome(await mesh.send_bound(token, proof=proof_for(_KEY, token))) == (200, "ok")


async def test_keycloak_names_the_type_of_the_key_beside_its_thumbprint(realm: Realm) -> None:
    assert confirmation(await dpop_token(realm)) == {"jkt": _KEY.jkt, "kc-jkt-type": "DPoP"}


async def test_a_stolen_token_is_refused_as_a_bearer_token_without_a_proof_and_with_the_proof_of_another_key(
    realm: Realm, mesh: Mesh
) -> None:
    token = await dpop_token(realm)
    attempts = {
        "bearer": await mesh.send_bound(token, scheme="Bearer"),
        "bearer, own proof": await mesh.send_bound(token, scheme="Bearer", proof=proof_for(_OTHER_KEY, token)),
        "no proof": await mesh.send_bound(token),
        "own proof": await mesh.send_bound(token, proof=proof_for(_OTHER_KEY, token)),
        "own signature": await mesh.send_bound(token, proof=proof_for(_KEY, token, sign_with=_OTHER_KEY)),
    }
    assert {name: outcome(response) for name, response in attempts.items()} == {
        "bearer": (401, "missing_proof"),
        "bearer, own proof": (401, "missing_proof"),
        "no proof": (401, "missing_proof"),
        "own proof": (401, "invalid_proof"),
        "own signature": (401, "invalid_proof"),
    }
    errors = {name: response.challenges[-1] for name, response in attempts.items()}
    assert all(challenge.startswith("DPoP ") and 'algs="ES256"' in challenge for challenge in errors.values())
    assert 'error="invalid_token"' in errors["no proof"]
    assert 'error="invalid_dpop_proof"' in errors["own proof"]


async def test_a_captured_request_is_refused_when_it_is_sent_again(realm: Realm, mesh: Mesh) -> None:
    token = await dpop_token(realm)
    proof = proof_for(_KEY, token)
    assert outcome(await mesh.send_bound(token, proof=proof)) == (200, "ok")
    assert outcome(await mesh.send_bound(token, proof=proof)) == (401, "replayed_proof")


async def test_a_captured_proof_is_refused_with_another_token_of_the_same_client(realm: Realm, mesh: Mesh) -> None:
    captured, newer = await dpop_token(realm), await dpop_token(realm)
    assert outcome(await mesh.send_bound(newer, proof=proof_for(_KEY, captured))) == (401, "invalid_proof")


async def test_after_a_change_of_the_key_the_new_token_needs_the_new_key_and_the_old_token_the_old_one(
    realm: Realm, mesh: Mesh
) -> None:
    before = await realm.tokens("dpop", "ann", realm.proof_of(_KEY))
    new_key = DpopKey(name="keycloak-client-rotated")
    after = await realm.refreshed("dpop", before["refresh_token"], realm.proof_of(new_key))
    old, new = before["access_token"], after["access_token"]
    assert confirmation(new)["jkt"] == new_key.jkt
    assert outcome(await mesh.send_bound(new, proof=proof_for(new_key, new))) == (200, "ok")
    assert outcome(await mesh.send_bound(new, proof=proof_for(_KEY, new))) == (401, "invalid_proof")
    assert outcome(await mesh.send_bound(old, proof=proof_for(_KEY, old))) == (200, "ok")
    assert outcome(await mesh.send_bound(old, proof=proof_for(new_key, old))) == (401, "invalid_proof")


async def test_a_client_that_may_choose_gets_a_bound_token_for_a_proof_and_a_bearer_token_without(
    realm: Realm, mesh: Mesh
) -> None:
    bound = await dpop_token(realm, client="web")
    assert outcome(await mesh.send_bound(bound, scheme="Bearer")) == (401, "missing_proof")
    assert outcome(await mesh.send_bound(bound, proof=proof_for(_KEY, bound))) == (200, "ok")
    bearer = await realm.access_token("web", "ann")
    assert outcome(await mesh.send_bound(bearer, scheme="Bearer")) == (200, "ok")
    assert outcome(await mesh.send_bound(bearer, proof=proof_for(_KEY, bearer))) == (401, "unbound_token")


async def test_a_bound_lightweight_token_is_of_no_use_without_its_key(realm: Realm, tmp_path: Path) -> None:
    token = await dpop_token(realm, client="dpop-lightweight")
    assert confirmation(token)["jkt"] == _KEY.jkt
    async with running(tmp_path, realm, top={"dpop": _DPOP}, **introspection()) as mesh:
        assert outcome(await mesh.send_bound(token, proof=proof_for(_KEY, token))) == (200, "ok")
        assert outcome(await mesh.send_bound(token, scheme="Bearer")) == (401, "missing_proof")
        assert outcome(await mesh.send_bound(token, proof=proof_for(_OTHER_KEY, token))) == (401, "invalid_proof")


async def test_a_nonce_of_the_sidecar_is_required_and_accepted(realm: Realm, tmp_path: Path) -> None:
    token = await dpop_token(realm)
    async with running(tmp_path, realm, top={"dpop": _DPOP | {"nonce": "required"}}) as mesh:
        refused = await mesh.send_bound(token, proof=proof_for(_KEY, token))
        assert outcome(refused) == (401, "nonce_required")
        assert 'error="use_dpop_nonce"' in refused.challenges[-1]
        assert refused.nonce is not None
        proof = proof_for(_KEY, token, nonce=refused.nonce)
        assert outcome(await mesh.send_bound(token, proof=proof)) == (200, "ok")
        invented = proof_for(_KEY, token, nonce="invented")
        assert outcome(await mesh.send_bound(token, proof=invented)) == (401, "nonce_required")


@pytest.mark.parametrize("shared", [True, False], ids=["shared nonce key", "own nonce keys"])
async def test_another_replica_accepts_a_captured_request_once_if_it_accepts_the_nonce(
    realm: Realm, tmp_path: Path, *, shared: bool
) -> None:
    (tmp_path / "nonce.key").write_bytes(secrets.token_bytes(32))
    key = {"nonce_key_file": str(tmp_path / "nonce.key")} if shared else {}
    top = {"dpop": _DPOP | {"nonce": "required"} | key}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    token = await dpop_token(realm)
    async with running(tmp_path / "one", realm, top=top) as one, running(tmp_path / "other", realm, top=top) as other:
        nonce = (await one.send_bound(token, proof=proof_for(_KEY, token))).nonce
        captured = proof_for(_KEY, token, nonce=nonce)
        assert outcome(await one.send_bound(token, proof=captured)) == (200, "ok")
        assert outcome(await one.send_bound(token, proof=captured)) == (401, "replayed_proof")
        replayed = [outcome(await other.send_bound(token, proof=captured)) for _ in range(2)]
        accepted = [(200, "ok"), (401, "replayed_proof")]  # the limit that docs/understand/stolen-tokens.md describes
        assert replayed == (accepted if shared else [(401, "nonce_required")] * 2)


async def test_neither_tokens_nor_proofs_are_logged(realm: Realm, tmp_path: Path) -> None:
    top = {"dpop": _DPOP, "logging": {"decisions": "all"}}
    async with running(tmp_path, realm, top=top) as mesh:
        token = await dpop_token(realm)
        proofs = [proof_for(_KEY, token, jti="secret-identifier"), proof_for(_OTHER_KEY, token)]
        assert [(await mesh.send_bound(token, proof=proof)).status for proof in proofs] == [200, 401]
    log = mesh.log.read_text()
    parts = [part for secret in (token, *proofs) for part in secret.split(".")]
    assert not [part for part in (*parts, "secret-identifier") if part in log]


# Certificates.


async def results_by_certificate(mesh: Mesh, certificates: Certificates, token: str) -> dict[str, tuple[int, str]]:
    clients = {"own": certificates.own, "other": certificates.other, "none": None}
    return {
        name: outcome(await mesh.send_bound(token, scheme="Bearer", tls=certificates.tls(certificate)))
        for name, certificate in clients.items()
    }


_ONLY_OWN = {"own": (200, "ok"), "other": (401, "invalid_proof"), "none": (401, "missing_proof")}


async def test_a_token_that_is_bound_to_a_certificate_is_accepted_on_connections_with_that_certificate_only(
    realm: Realm, certificates: Certificates, tls_mesh: Mesh
) -> None:
    token = await certificate_token(realm, certificates)
    assert confirmation(token).keys() == {"x5t#S256"}
    assert await results_by_certificate(tls_mesh, certificates, token) == _ONLY_OWN
    refused = await tls_mesh.send_bound(token, scheme="Bearer", tls=certificates.tls(certificates.other))
    (challenge,) = refused.challenges
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge


async def test_a_lightweight_token_that_is_bound_to_a_certificate_is_of_no_use_without_it(
    realm: Realm, certificates: Certificates, tmp_path: Path
) -> None:
    token = await certificate_token(realm, certificates, "certificate-lightweight")
    async with running(tmp_path, realm, envoy=certificates.envoy(), **introspection()) as mesh:
        assert await results_by_certificate(mesh, certificates, token) == _ONLY_OWN


async def test_a_certificate_in_a_header_of_the_client_is_not_the_certificate_of_the_connection(
    realm: Realm, certificates: Certificates, tls_mesh: Mesh
) -> None:
    token = await certificate_token(realm, certificates)
    tls, header = certificates.tls(certificates.other), forwarded(certificates.own_pem)
    assert outcome(await tls_mesh.send_bound(token, scheme="Bearer", tls=tls, headers=header)) == (401, "invalid_proof")
    tls = certificates.tls(None)
    assert outcome(await tls_mesh.send_bound(token, scheme="Bearer", tls=tls, headers=header)) == (401, "missing_proof")
