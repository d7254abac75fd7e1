"""The sample requests with their expected results, and the sidecar's configuration for them.

Nothing here sends a request or reads a response.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz_service.demo.dpop import DpopKey
from authz_service.demo.introspection import API_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.demo.identity_provider import IdentityProvider

HOST = "api.demo"
RESOURCE = f"https://{HOST}/"
METADATA_PATH = "/.well-known/oauth-protected-resource"
SECRET_FILE = "client-secret"  # the sidecar's credential for introspection


@dataclass(frozen=True, slots=True)
class Sample:
    """A request through Envoy, and its expected result."""

    title: str
    path: str
    status: int
    reason: str
    token: str | None = None
    method: str = "GET"
    scheme: str = "Bearer"
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None  # in the challenge; None: no challenge, "": a challenge without an error
    challenge: str = "Bearer"  # the scheme of the challenge, if there is one
    in_challenge: str = ""
    upstream: Mapping[str, str | None] = field(
        default_factory=dict
    )  # headers that the API must receive; None: must not


def samples(provider: IdentityProvider) -> list[Sample]:
    """At least one request for each kind of decision."""
    good, revoked = provider.access_token(), provider.opaque_token()
    provider.introspection.revoke(revoked)
    appointments = "/v1/appointments/7"
    named = f'resource_metadata="https://{HOST}{METADATA_PATH}"'

    def bad_token(title: str, token: str, reason: str) -> Sample:
        return Sample(title, appointments, 401, reason, token, error="invalid_token")

    return [
        Sample("good token", appointments, 200, "ok", good, upstream={"x-auth-subject": "alice"}),
        Sample("good token, ES256", appointments, 200, "ok", provider.access_token(algorithm="ES256")),
        Sample(
            "good opaque token", appointments, 200, "ok", provider.opaque_token(),
            upstream={"x-auth-subject": "alice"},
        ),
        Sample("no token", appointments, 401, "missing_token", error="", in_challenge=named),
        bad_token("expired token", provider.expired_token(), "expired"),
        bad_token("token for another API", provider.access_token(aud="https://other.demo/"), "wrong_audience"),
        bad_token("opaque, for another API", provider.opaque_token(aud="https://other.demo/"), "wrong_audience"),
        bad_token("opaque, but revoked", revoked, "inactive"),
        Sample(
            "token without the scope", "/v1/appointments", 403, "insufficient_scope", good, "POST",
            error="insufficient_scope",
        ),
        bad_token("ID token", provider.id_token(), "id_token"),
        bad_token("ID token made for the API", provider.id_token(aud="https://api.demo/"), "id_token"),
        bad_token("forged signature", provider.forged_token(), "bad_signature"),
        bad_token("alg: none", provider.unsigned_token(), "unsupported_algorithm"),
        Sample("path with encoded dots", "/public/%2e%2e/v1/appointments", 400, "ambiguous_path"),
        Sample(
            "spoofed x-auth-subject", appointments, 200, "ok", good,
            headers={"x-auth-subject": "admin"}, upstream={"x-auth-subject": "alice"},
        ),
        Sample("public route", "/public/news", 200, "public"),
        Sample(
            "public route, spoofed", "/public/news", 200, "public",
            headers={"x-auth-subject": "admin", "x_auth_subject": "admin"},
            upstream={"x-auth-subject": None, "x_auth_subject": None},
        ),
        Sample("optional token, none sent", "/v1/greeting", 200, "anonymous"),
        Sample("unknown route", "/v1/secrets", 403, "no_rule", good),
        Sample("metadata of the API", METADATA_PATH, 200, "resource_metadata"),
        Sample("the same, of another host", METADATA_PATH, 403, "no_rule", headers={"Host": "other.demo"}),
        *_with_bound_token(provider, appointments),
    ]  # fmt: skip


def _with_bound_token(provider: IdentityProvider, path: str) -> list[Sample]:
    """A token that is bound to a key, sent by its owner and by a thief who captured a request, without the key."""
    owner, thief = DpopKey(), DpopKey()
    token = provider.access_token(cnf={"jkt": owner.jkt})
    url = f"https://{HOST}{path}"
    captured = {"DPoP": owner.proof("GET", url, token)}
    thiefs = {"DPoP": thief.proof("GET", url, token)}
    invalid = "invalid_dpop_proof"
    return [
        Sample("bound token, its owner", path, 200, "ok", token, scheme="DPoP", headers=captured),
        Sample("stolen, as a bearer token", path, 401, "missing_proof", token, error="invalid_token", challenge="DPoP"),
        Sample(
            "stolen, proof of the thief", path, 401, "invalid_proof", token, scheme="DPoP", headers=thiefs,
            error=invalid, challenge="DPoP",
        ),
        Sample(
            "stolen, request replayed", path, 401, "replayed_proof", token, scheme="DPoP", headers=captured,
            error=invalid, challenge="DPoP",
        ),
    ]  # fmt: skip


def configuration(issuer: str, audience: str, socket: str) -> str:
    """The sidecar's configuration file for these samples. ``SECRET_FILE`` must be in the same folder."""
    address = json.dumps(f"unix:{socket}")  # quoted: a temporary folder may have any name
    return f"""\
server:
  grpc_address: {address}
  admin_address: 127.0.0.1:0
resources:
  - resource: {RESOURCE}
issuers:
  - issuer: {issuer}
    name: demo
    audiences: [{audience}]
    introspection: {{client_id: {API_ID}, client_secret_file: {SECRET_FILE}}}
rules:
  - name: read-appointments
    match: {{methods: [GET, HEAD], paths: ["/v1/appointments", "/v1/appointments/{{id}}"]}}
    require: {{scopes: [read:appointments]}}
  - name: write-appointments
    match: {{methods: [POST, PUT, DELETE], paths: ["/v1/appointments", "/v1/appointments/{{id}}"]}}
    require: {{scopes: [write:appointments]}}
  - name: greeting
    match: {{paths: [/v1/greeting]}}
    access: optional
  - name: public
    match: {{paths: ["/public/**"]}}
    access: public
"""
