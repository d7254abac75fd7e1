"""A realm of the real Keycloak, its clients and users, and its administrator.

Every token is issued by Keycloak, at its own endpoints, to a client registered in realm.json.
"""

from __future__ import annotations

import html
import json
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from support.dpop import DpopKey
    from support.keycloak_server import Server

_FILE = Path(__file__).parent.parent / "end_to_end" / "keycloak" / "realm.json"
API = "shop-api"
API_SECRET = f"{API}-secret"
RECEIVER = "authz"
RECEIVER_SECRET = f"{RECEIVER}-secret"
_CALLBACK = "https://web.example/callback"
_TIMEOUT = aiohttp.ClientTimeout(total=60)  # Keycloak may share two cores with other tests
_MAX_FORMS = 5  # of one login
_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
_TRANSMITTER = "ssf.transmitterEnabled"  # an attribute of the realm


def forwarded(certificate: str) -> dict[str, str]:
    """The header with which Envoy forwards a client's certificate (PEM)."""
    return {"x-forwarded-client-cert": f'Cert="{quote(certificate, safe="")}"'}


class Realm:
    """A new realm as realm.json describes it, deleted when its context is left.

    The client ``NAME`` has the secret ``NAME-secret`` and the user ``NAME`` the password ``NAME-password``.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._name = f"shop-{secrets.token_hex(4)}"
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        self.issuer = f"{server.url}/realms/{self._name}"
        self.protocol = f"{self.issuer}/protocol/openid-connect"

    async def __aenter__(self) -> Self:
        try:
            realm = json.loads(_FILE.read_text()) | {"realm": self._name}
            await self._admin("POST", "", realm)
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._admin("DELETE", f"/{self._name}")
        finally:
            await self._session.close()

    # Clients.

    async def service_token(self, client: str = "service", headers: Mapping[str, str] | None = None) -> str:
        """The access token of a service that acts for itself (client credentials)."""
        tokens = await self._token(client, headers, grant_type="client_credentials")
        return str(tokens["access_token"])

    async def tokens(self, client: str, user: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The access, ID and refresh token of a user who gave the client the password (direct grant).

        ``headers`` prove the possession of a key: see ``proof_of`` and ``forwarded``.
        """
        form = {"grant_type": "password", "username": user, "password": f"{user}-password", "scope": "openid"}
        return await self._token(client, headers, **form)

    async def refreshed(
        self, client: str, refresh_token: str, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The tokens that the client gets for its refresh token."""
        return await self._token(client, headers, grant_type="refresh_token", refresh_token=refresh_token)

    def proof_of(self, key: DpopKey) -> dict[str, str]:
        """The header by which the token endpoint binds a token to the key (RFC 9449)."""
        return {"DPoP": key.proof("POST", f"{self.protocol}/token", None, now=time.time())}

    async def access_token(self, client: str, user: str) -> str:
        """The access token of the same grant."""
        return str((await self.tokens(client, user))["access_token"])

    async def login(self, user: str, **parameters: str) -> dict[str, Any]:
        """The tokens of a user who logged in with a browser (authorization code)."""
        callback = await self._callback(user, **parameters)
        code = parse_qs(urlsplit(callback).query)["code"][0]
        return await self._token("web", grant_type="authorization_code", code=code, redirect_uri=_CALLBACK)

    async def revoke(self, client: str, token: str) -> None:
        """The client revokes a token issued to it (RFC 7009)."""
        form = {"client_id": client, "client_secret": f"{client}-secret", "token": token}
        await self._request("POST", f"{self.protocol}/revoke", data=form)

    async def log_out(self, client: str, refresh_token: str) -> None:
        """The client ends the user's session."""
        form = {"client_id": client, "client_secret": f"{client}-secret", "refresh_token": refresh_token}
        await self._request("POST", f"{self.protocol}/logout", data=form)

    async def discovered(self) -> dict[str, Any]:
        """The realm's discovery document."""
        document: dict[str, Any] = json.loads(
            await self._request("GET", f"{self.issuer}/.well-known/openid-configuration")
        )
        return document

    async def _callback(self, user: str, **parameters: str) -> str:
        """The URL to which the browser is redirected after the login, whose forms are filled in."""
        query = {"client_id": "web", "response_type": "code", "redirect_uri": _CALLBACK, "scope": "openid"}
        url = f"{self.protocol}/auth?{urlencode(query | parameters)}"
        # Keycloak's cookies are Secure, over HTTP as well; browsers send those to the loopback interface.
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=URL(self._server.url))
        form: dict[str, str] | None = None
        async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=jar) as browser:
            for _ in range(_MAX_FORMS):
                method = "GET" if form is None else "POST"
                async with browser.request(method, URL(url, encoded=True), data=form, allow_redirects=False) as page:
                    if "Location" in page.headers:
                        return page.headers["Location"]
                    action = re.search(r'<form[^>]* action="([^"]+)"', await page.text())
                assert action is not None, f"a page without a form, status {page.status}"
                url, form = html.unescape(action[1]), {"username": user, "password": f"{user}-password"}
        raise AssertionError("the login does not end")

    async def _token(self, client: str, headers: Mapping[str, str] | None = None, **form: str) -> dict[str, Any]:
        data = {"client_id": client, "client_secret": f"{client}-secret"} | form
        response = await self._request("POST", f"{self.protocol}/token", data=data, headers=headers)
        tokens: dict[str, Any] = json.loads(response)
        return tokens

    # The administrator.

    async def add_key(self, algorithm: str = "RS256") -> None:
        """Add a key that signs from now on; the keys before it remain published."""
        kinds = {"RS256": "rsa", "PS256": "rsa", "ES256": "ecdsa", "EdDSA": "eddsa"}
        priority = str(200 + len(await self._keys()))
        config = {"priority": [priority]} | ({"algorithm": [algorithm]} if kinds[algorithm] == "rsa" else {})
        key = {
            "name": f"{algorithm}-{priority}",
            "providerId": f"{kinds[algorithm]}-generated",
            "providerType": _KEY_PROVIDER,
            "config": config,
        }
        await self._admin("POST", f"/{self._name}/components", key)
        await self._admin("PUT", f"/{self._name}", {"defaultSignatureAlgorithm": algorithm})

    async def disable_first_key(self) -> None:
        """Disable the key that the realm was created with: it is no longer published."""
        key = next(each for each in await self._keys() if each["name"] == "rsa-generated")
        key["config"]["enabled"] = ["false"]
        await self._admin("PUT", f"/{self._name}/components/{key['id']}", key)

    async def transmit_events(self, audience: str, key: Mapping[str, Any] | None = None) -> str:
        """Let the client RECEIVER poll the security events of all users; returns the endpoint.

        With ``key``, a public JWK, it authenticates by private_key_jwt.
        """
        realm = await self._get("")
        await self._admin("PUT", f"/{self._name}", {"attributes": realm["attributes"] | {_TRANSMITTER: "true"}})
        attributes = {"ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.streamAudience": audience}
        client: dict[str, Any] = {
            "clientId": RECEIVER,
            "secret": RECEIVER_SECRET,
            "standardFlowEnabled": False,
            "serviceAccountsEnabled": True,
            "optionalClientScopes": ["ssf.read"],
            "attributes": attributes,
        }
        if key is not None:
            client["clientAuthenticatorType"] = "client-jwt"
            attributes |= {"use.jwks.string": "true", "jwks.string": json.dumps({"keys": [dict(key)]})}
        await self._admin("POST", f"/{self._name}/clients", client)
        stream = {"delivery": {"method": "urn:ietf:rfc:8936"}, "events_requested": ["CaepSessionRevoked"]}
        created = await self._admin("POST", f"/{self._name}/ssf/clients/{RECEIVER}/stream", stream)
        return str(json.loads(created)["delivery"]["endpoint_url"])

    async def user_id(self, user: str) -> str:
        """The ``sub`` of a user's tokens."""
        return str((await self._user(user))["id"])

    async def sign_out(self, user: str) -> None:
        """End all sessions of a user."""
        await self._admin("POST", f"/{self._name}/users/{await self.user_id(user)}/logout")

    async def sign_out_everyone(self) -> None:
        """End all sessions of the realm. Tokens issued until then, also the receiver's, are invalid for Keycloak."""
        await self._admin("POST", f"/{self._name}/logout-all")

    async def disable(self, user: str) -> None:
        """Disable a user's account."""
        account = await self._user(user)
        await self._admin("PUT", f"/{self._name}/users/{account['id']}", account | {"enabled": False})

    async def emit_session_revoked(self, subject: Mapping[str, Any]) -> None:
        """Transmit the event that sessions of the subject were revoked."""
        event = {"eventType": "CaepSessionRevoked", "sub_id": subject, "event": {}}
        await self._admin("POST", f"/{self._name}/ssf/clients/{RECEIVER}/events/emit", event)

    async def verify_stream(self) -> None:
        """Transmit a verification event."""
        await self._admin("POST", f"/{self._name}/ssf/clients/{RECEIVER}/stream/verify")

    async def set_stream_status(self, status: str) -> None:
        """Pause, disable, or enable the stream of events."""
        await self._admin("POST", f"/{self._name}/ssf/clients/{RECEIVER}/stream/status", {"status": status})

    async def undelivered_events(self) -> Mapping[str, Any]:
        """How many events the receiver has not acknowledged, by their status."""
        statistics = await self._get(f"/ssf/clients/{RECEIVER}/events/stats")
        return {name: each["count"] for name, each in statistics["statuses"].items() if name != "DELIVERED"}

    async def _user(self, name: str) -> dict[str, Any]:
        (account,) = await self._get(f"/users?username={name}&exact=true")
        found: dict[str, Any] = account
        return found

    async def _keys(self) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = await self._get(f"/components?type={_KEY_PROVIDER}")
        return keys

    async def _get(self, path: str) -> Any:
        return json.loads(await self._admin("GET", f"/{self._name}{path}"))

    async def _admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> str:
        form = self._server.administrator | {"grant_type": "client_credentials"}
        url = f"{self._server.url}/realms/master/protocol/openid-connect/token"
        token = json.loads(await self._request("POST", url, data=form))["access_token"]  # valid for a minute
        headers = {"Authorization": f"Bearer {token}"}
        return await self._request(method, f"{self._server.url}/admin/realms{path}", json=body, headers=headers)

    async def _request(self, method: str, url: str, **arguments: Any) -> str:
        async with self._session.request(method, url, **arguments) as response:
            text = await response.text()
            assert response.ok, f"{method} {url}: {response.status} {text}"
            return text
