"""The text of a first configuration. Pure: the same input gives the same text.

What is foreign or given by the user becomes a YAML string that reads back as itself, and nothing else of the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from authz_service.config.model import CREDENTIAL_KEYS
from authz_service.config.values import PLACEHOLDER_AUDIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.model import Keys
    from authz_service.initial_config.published import Published

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@~-]*(?::[A-Za-z0-9_./@~-]+)*")
_OPENID_SCOPES = frozenset({"openid", "profile", "email", "address", "phone", "offline_access"})
# Client scopes of every Keycloak realm: they add claims, and permit nothing.
_KEYCLOAK_SCOPES = frozenset(
    {"acr", "basic", "microprofile-jwt", "organization", "roles", "service_account", "web-origins"}
)
_MAX_SCOPES = 40  # that a comment lists
_MAX_SCOPE_LENGTH = 100  # characters


def configuration(published: Published, keys: Keys, audience: str | None) -> str:
    """The configuration file for an issuer; ``keys`` has what was needed to read its metadata."""
    return "\n".join(_lines(published, keys, audience)) + "\n"


def _lines(published: Published, keys: Keys, audience: str | None) -> Iterator[str]:
    yield "# A first configuration of authz-service, written by `authz-service init` from what the issuer publishes."
    yield "# Check it with `authz-service check-config FILE`. docs/reference/configuration.md describes every key, and"
    yield "# docs/how-to/providers/ many providers. A line that begins with # and no space is turned off."
    yield "# For an editor, run `authz-service schema > config.schema.json`, and write in the first line of this file:"
    yield "# yaml-language-server: $schema=config.schema.json"
    yield "#server: {grpc_address: 127.0.0.1:9191, admin_address: 127.0.0.1:9192}"
    yield "issuers:"
    yield f"  - issuer: {_string(published.issuer)}"
    if audience is None:
        yield "    # Replace it: the aud of the access tokens for your API. Until then, every token is denied."
    else:
        yield "    # The aud of the access tokens for your API."
    yield f"    audiences: [{_string(audience or PLACEHOLDER_AUDIENCE)}]"
    yield from _algorithms(published)
    yield from _keys(published, keys)
    yield from _introspection(published)
    yield from _security_events(published)
    yield from _rules(published)
    yield from _binding(published)


def _algorithms(published: Published) -> Iterator[str]:
    if published.algorithms:
        yield "    # What the issuer announces or has keys for, without what is never accepted (HS256, none)."
        yield f"    algorithms: [{', '.join(published.algorithms)}]"
    else:
        yield "    # The issuer announces no algorithm, so the defaults apply."
        yield "    #algorithms: [RS256, PS256, ES256, EdDSA, Ed25519, Ed448]"


def _keys(published: Published, keys: Keys) -> Iterator[str]:
    yield "    keys:"
    yield f"      # The metadata names the key set, now {_comment(published.jwks_uri)}"
    yield "      discovery: true"
    if keys.ca_file is not None:
        yield f"      ca_file: {_string(str(keys.ca_file))}"
    if keys.allow_http:
        yield "      allow_http: true"


def _introspection(published: Published) -> Iterator[str]:
    if published.auth_method is None:
        return
    yield "    # The issuer has an introspection endpoint (RFC 7662). For opaque tokens, register this API as a client:"
    parts = ["client_id: my-api", f"auth_method: {published.auth_method}"]
    if (file := CREDENTIAL_KEYS[published.auth_method]) is not None:
        parts.append(f"{file}: client-secret")
    yield f"    #introspection: {{{', '.join(parts)}}}"


def _security_events(published: Published) -> Iterator[str]:
    if published.polls_events:
        yield "    # The issuer sends security events, which revoke tokens: docs/how-to/security-events.md."
        yield "    # Create a stream with poll delivery, and write its address and audience:"
        members = (
            "poll_endpoint: https://STREAM, audience: AUDIENCE, client_id: authz, client_secret_file: client-secret"
        )
        yield f"    #security_events: {{{members}}}"


def _rules(published: Published) -> Iterator[str]:
    own = [each for each in _own_scopes(published.scopes) if len(each) <= _MAX_SCOPE_LENGTH]
    yield ""
    yield "# The first rule that matches a request decides it. A request that matches none is denied."
    yield "rules:"
    yield "  - name: health"
    yield "    match: {methods: [GET, HEAD], paths: [/healthz]}"
    yield "    access: public"
    yield "  - name: api"
    yield '    match: {paths: ["/**"]}'
    if own:
        yield "    # Scopes that the issuer announces, of which a rule should require those for your API:"
        yield from (f"    #   {_comment(each)}" for each in own[:_MAX_SCOPES])
        if len(own) > _MAX_SCOPES:
            yield f"    #   and {len(own) - _MAX_SCOPES} more"
    else:
        yield "    # A scope of your API, without which any token for the API may call everything:"
    yield f"    #require: {{scopes: [{_string(own[0] if own else 'read')}]}}"


def _own_scopes(scopes: tuple[str, ...]) -> list[str]:
    """Those that the provider does not announce for every API."""
    general = _OPENID_SCOPES | _KEYCLOAK_SCOPES if {"web-origins", "microprofile-jwt"} <= {*scopes} else _OPENID_SCOPES
    return [each for each in scopes if each not in general]


def _binding(published: Published) -> Iterator[str]:
    if published.dpop_algorithms:
        yield ""
        yield "# The issuer binds tokens to a client's key (DPoP, RFC 9449), and these need a proof in any case. With"
        yield "# this section, challenges offer DPoP as well; `require: {proof: dpop}` accepts no other tokens."
        yield f"#dpop: {{algorithms: [{', '.join(published.dpop_algorithms)}]}}"
    if published.binds_to_certificates:
        yield ""
        yield "# The issuer binds tokens to client certificates (RFC 8705): docs/how-to/mutual-tls.md."
        yield "#mtls: {certificate: peer}"


def _string(text: str) -> str:
    """A string in YAML, in quotes unless everyone reads it as a string without them."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    escaped = ("\\" + each if each in '"\\' else each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
    return f'"{"".join(escaped)}"'


def _comment(text: str) -> str:
    """A foreign string in a comment: on one line, in ASCII."""
    return ascii(text)[1:-1]
