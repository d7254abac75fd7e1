"""The subject of the benchmark: keys, tokens, a configuration with 200 rules, and requests as Envoy sends them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from authz_service._pb.external_auth_pb2 import CheckRequest

if TYPE_CHECKING:
    from pathlib import Path

ISSUER, AUDIENCE = "https://issuer.bench/", "https://api.bench/"
HOST, PATH = "api.bench", "/v1/things-199/4711?expand=all"
GRPCIO, ASYNCIO = "grpcio", "asyncio"  # the transports
GRPC_PORTS = {GRPCIO: 19191, ASYNCIO: 19192}
ADMIN_PORTS = {GRPCIO: 19193, ASYNCIO: 19194}
EMPTY_PORTS = {GRPCIO: 19195, ASYNCIO: 19196}


def configuration(transport: str) -> str:
    """The sidecar's configuration file."""
    return f"""
server:
  grpc_address: "127.0.0.1:{GRPC_PORTS[transport]}"
  admin_address: "127.0.0.1:{ADMIN_PORTS[transport]}"
  transport: {transport}
issuers:
  - issuer: {ISSUER}
    audiences: [{AUDIENCE}]
    keys: {{jwks_file: jwks.json}}
    introspection: {{endpoint: "http://127.0.0.1:1/", client_id: my-api, client_secret_file: secret}}
rules:
""" + rules(200)


def rules(count: int) -> str:
    """This number of rules of a configuration file."""
    return "".join(
        f"""
  - name: rule-{number}
    match: {{hosts: [{HOST}], methods: [GET, HEAD], paths: ["/v1/things-{number}", "/v1/things-{number}/{{id}}"]}}
    require: {{scopes: ["read:things"]}}
"""
        for number in range(count)
    )


def claims() -> dict[str, Any]:
    """Typical claims of an access token."""
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": "a-subject-of-usual-length",
        "aud": AUDIENCE,
        "exp": now + 3600,
        "iat": now,
        "client_id": "a-client",
        "scope": "openid profile read:things write:things",
    }


def token(algorithm: str, key: Any, kid: str = "", **more: Any) -> str:
    """A valid token."""
    return jwt.encode(claims() | more, key, algorithm=algorithm, headers={"kid": kid or algorithm, "typ": "at+jwt"})


def check_request(token: str, proof: str | None = None, path: str = PATH) -> bytes:
    """The CheckRequest that Envoy sends for a browser's GET, with a bearer token, or a DPoP token and its proof.

    An empty token means none.
    """
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path = "GET", HOST, path
    http.scheme, http.protocol, http.id = "https", "HTTP/2", "1234567890"
    names = ("accept", "accept-encoding", "accept-language", "user-agent", "x-request-id", "x-forwarded-for")
    for name in (*names, "x-forwarded-proto", ":path", ":method", ":authority", ":scheme"):
        http.headers[name] = f"a value of usual length for {name}"
    if token:
        http.headers["authorization"] = f"Bearer {token}" if proof is None else f"DPoP {token}"
    if proof is not None:
        http.headers["dpop"] = proof
    return request.SerializeToString()


class Subject:
    """The keys and files of a sidecar."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
        }
        jwks = [
            RSAAlgorithm.to_jwk(self.keys["RS256"].public_key(), as_dict=True) | {"kid": "RS256"},
            ECAlgorithm.to_jwk(self.keys["ES256"].public_key(), as_dict=True) | {"kid": "ES256"},
        ]
        self.jwks = json.dumps({"keys": jwks})
        (folder / "jwks.json").write_text(self.jwks)
        (folder / "secret").write_text("a secret")
        for transport in (GRPCIO, ASYNCIO):
            self.config(transport).write_text(configuration(transport))

    def config(self, transport: str) -> Path:
        """The configuration file for a transport."""
        return self.folder / f"{transport}.yaml"

    def token(self, algorithm: str = "RS256", **claims: Any) -> str:
        """A valid token."""
        return token(algorithm, self.keys[algorithm], **claims)
