"""The settings: every key of the configuration file with its type, default and description.

Owns what concerns one key; ``consistency`` owns what concerns several keys, where a finding can point at its key. The
descriptions become the JSON Schema, which users read in their editors and in the chart's schema.

``sections`` describes how a key is declared, and ``values`` has the kinds of values.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from authz_service.config.kinds import Flag, Many, Members, OneOf, Prepared, Whole, some
from authz_service.config.places import FILE, OWN_FILE, READER_SOCKET
from authz_service.config.sections import (
    Section,
    SectionKey,
    SectionKind,
    ShortSection,
    key,
    nested,
    nullable,
    optional,
    required,
)
from authz_service.config.server import Server
from authz_service.config.units import DURATION, LEEWAY, POSITIVE_DURATION, SIZE
from authz_service.config.values import (
    ACR_VALUE,
    AFFIX,
    ALGORITHM,
    AUDIENCE,
    CAPTURE_NAME,
    CLAIM_PATH,
    COLLECTOR_URL,
    COMPARED_HEADER,
    CREDENTIAL_HEADER,
    HEADER_VALUE,
    HOST_PATTERN,
    HTTP_HEADER,
    ISSUER_ID,
    MCP_PATTERN,
    METADATA_NAME,
    METHOD,
    NAME,
    ORIGIN,
    PATH_PATTERN,
    PLAIN_SCOPE,
    PRINTABLE,
    PROVIDER_HEADERS,
    PROXY,
    REQUIRED_CLAIM_PATH,
    REQUIRED_CLAIMS,
    RESOURCE_ID,
    SCALAR,
    SCHEME,
    SCOPE,
    TENANTS,
    TOKEN_TYPE,
    UPSTREAM_HEADER,
    URL,
)
from authz_service.core.credential import AUTHORIZATION, BEARER
from authz_service.core.issuer_template import parse_issuer_template
from authz_service.core.mcp import NAMED_METHODS, McpCondition
from authz_service.core.patterns import CAPTURE, EVERY_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz_service.core.issuer_template import IssuerTemplate
    from authz_service.core.patterns import PathPattern


# The values that some keys may have.
AuthMethod: TypeAlias = Literal[
    "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth", "bearer_token"
]
Exp: TypeAlias = Literal["required", "optional"]
IntrospectionMode: TypeAlias = Literal["opaque", "always"]
Profile: TypeAlias = Literal["any", "rfc9068"]
ConfirmationMode: TypeAlias = Literal["verify", "ignore"]
Proof: TypeAlias = Literal["any", "dpop", "mtls"]
Access: TypeAlias = Literal["token", "optional", "public"]
RuleMode: TypeAlias = Literal["enforce", "shadow"]
Encoding: TypeAlias = Literal["csv", "json", "base64url-json"]
Nonce: TypeAlias = Literal["off", "required"]
CertificateSource: TypeAlias = Literal["peer", "xfcc"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["json", "text"]
LoggedDecisions: TypeAlias = Literal["none", "denied", "all"]
CorsPreflight: TypeAlias = Literal["deny", "allow"]


_NAMED_SOURCES = frozenset({"jwks_uri", "jwks_file", "pem_file"})


class Keys(Section):
    """Where an issuer's public keys come from, and how they are cached. Set at most one source."""

    discovery = key(
        Flag(),
        default=True,
        description="Find the key set through the issuer's OpenID configuration or, if there is none, its OAuth "
        "authorization server metadata (RFC 8414). Off by default if `jwks_uri`, `jwks_file` or `pem_file` is set. If "
        "you turn it off and set none of them, the issuer's tokens are validated by introspection only.",
        example=False,
    )
    jwks_uri = optional(
        URL,
        description="URL of the key set. Replaces discovery.",
        example="https://idp.example.com/jwks.json",
    )
    jwks_file = optional(
        FILE,
        description="File with the key set, read again when it changes. Replaces discovery.",
        example="jwks.json",
    )
    pem_file = optional(
        FILE,
        description="File with one or more public keys or certificates in PEM, read again when it changes. Only the "
        "public key of a certificate is used. Replaces discovery.",
        example="idp.pem",
    )
    metadata_url = nullable(
        URL,
        description="URL of the metadata, if discovery cannot find it below the issuer's URL, for example inside a "
        "cluster. The issuer in the metadata must still be the configured one.",
        example="https://keycloak.idp.svc:8443/realms/shop/.well-known/openid-configuration",
    )
    bearer_token_file = nullable(
        FILE,
        description="File with a token that is sent with requests for metadata and keys, for example to the "
        "Kubernetes API server; read again when it changes. It is sent only to the origin of the configured address "
        "(`jwks_uri`, `metadata_url` or `issuer`), and never along a redirect.",
        example="/var/run/secrets/api-server/token",
    )
    client_certificate_file = nullable(
        FILE,
        description="Certificate chain in PEM for mutual TLS with the provider, also for introspection and security "
        "events; read again when it changes. Requires `client_key_file`.",
        example="client.crt",
    )
    client_key_file = nullable(
        FILE,
        description="Private key of the client certificate, PEM, without a password; read again when it changes.",
        example="client.key",
    )
    headers = key(
        PROVIDER_HEADERS,
        default={},
        description="Further headers for requests to the provider. Do not put secrets here: the headers are sent to "
        "every address that the provider's metadata names.",
        example={"x-tenant": "shop"},
    )
    ca_file = nullable(
        FILE,
        description="CA certificates in PEM that are trusted for the provider's certificate, in addition to the "
        "system's.",
        example="corporate-ca.pem",
    )
    allow_http = key(
        Flag(),
        default=False,
        description="Allow plain http to other hosts. `false`: only https, or http to a loopback address.",
        example=True,
    )
    proxy = key(
        PROXY,
        default="environment",
        description="The proxy for requests to the provider, also for introspection and security events. Requests to "
        "this machine use none. A URL: this proxy. `environment`: the proxy in the variables `HTTPS_PROXY`, "
        "`HTTP_PROXY` and `NO_PROXY`. `none`: no proxy.",
        example="http://proxy:3128",
    )
    timeout = key(
        POSITIVE_DURATION,
        default="2s",
        description="Maximum duration of one fetch.",
        example="5s",
    )
    refresh_interval = key(
        POSITIVE_DURATION,
        default="5m",
        description="Time between two fetches of the key set, unless the response's `Cache-Control` changes it.",
        example="10m",
    )
    min_refresh_interval = key(
        POSITIVE_DURATION,
        default="30s",
        description="Lower bound for the interval that `Cache-Control` sets.",
        example="1m",
    )
    max_refresh_interval = key(
        POSITIVE_DURATION,
        default="1h",
        description="Upper bound for the interval that `Cache-Control` sets.",
        example="2h",
    )
    unknown_kid_cooldown = key(
        POSITIVE_DURATION,
        default="30s",
        description="Tokens with an unknown key id cause at most one additional fetch within this time, however many "
        "there are.",
        example="10s",
    )
    outage_tolerance = key(
        DURATION,
        default="24h",
        description="How long the last good keys are used while the provider is unreachable. A key that the provider "
        "withdraws during an outage stays trusted for that time.",
        example="4h",
    )
    snapshot_file = optional(
        OWN_FILE,
        description="File in which to save the last good keys, so that a restart during an outage still has keys. Its "
        "folder must exist and be writable; give each issuer its own file. Default: keys are not saved.",
        example="/var/lib/authz-service/keys.json",
    )
    max_bytes = key(
        SIZE,
        default="512KiB",
        description="Maximum size of a key set or metadata document; a larger one is rejected.",
        example="1MiB",
    )
    max_keys = key(
        Whole(minimum=1),
        default=100,
        description="Maximum number of keys in a key set; a set with more is rejected as a whole.",
        example=20,
    )

    def metadata_address(self, issuer: str) -> str:
        """The configured address of the issuer's metadata."""
        return self.metadata_url or issuer

    def address(self, issuer: str) -> str:
        """The configured address that the keys are fetched from, directly or by discovery."""
        return self.jwks_uri or self.metadata_address(issuer)

    @property
    def file(self) -> Path | None:
        """The file with the keys; None if they are fetched."""
        return self.jwks_file or self.pem_file

    @classmethod
    def implied(cls, value: dict[str, Any]) -> dict[str, Any]:
        """A named source replaces discovery."""
        return {} if "discovery" in value or value.keys().isdisjoint(_NAMED_SOURCES) else {"discovery": False}


CREDENTIAL_KEYS = {
    "client_secret_basic": "client_secret_file",
    "client_secret_post": "client_secret_file",
    "private_key_jwt": "private_key_file",
    "bearer_token": "bearer_token_file",
    "tls_client_auth": None,
}


class IntrospectionSettings(Section, title="Introspection"):
    """Validation of access tokens at the issuer's introspection endpoint (RFC 7662)."""

    endpoint = nullable(
        URL,
        description="URL of the introspection endpoint. `null`: taken from the issuer's metadata.",
        example="https://idp.example.com/introspect",
    )
    client_id = required(
        PRINTABLE,
        description="Client id of your API's own registration at the issuer.",
        example="appointments-api",
    )
    client_secret_file = optional(
        FILE,
        description="File with the client secret, read again when it changes. One newline at its end is ignored.",
        example="client-secret",
    )
    private_key_file = optional(
        FILE,
        description="File with the client's private key for `private_key_jwt`, PEM or JWK, read again when it changes.",
        example="client-key.pem",
    )
    bearer_token_file = optional(
        FILE,
        description="File with an access token for the endpoint (RFC 7662 section 2.1), for `bearer_token`, read again "
        "when it changes.",
        example="token",
    )
    auth_method: SectionKey[AuthMethod] = key(
        OneOf(AuthMethod),
        default="client_secret_basic",
        description="How authz-service authenticates to the endpoint. `tls_client_auth` uses "
        "`keys.client_certificate_file` (RFC 8705).",
        example="private_key_jwt",
    )

    @property
    def credential_key(self) -> str | None:
        """The key that names the file with the credential for ``auth_method``; None if it is the certificate."""
        return CREDENTIAL_KEYS[self.auth_method]

    exp: SectionKey[Exp] = key(
        OneOf(Exp),
        default="required",
        description="Whether the response for an opaque token must have an `exp`; JWTs always need one. `required`: it "
        "must. `optional`: a response without `exp`, or with an `exp` of 0, is accepted and cached for `cache_ttl`.",
        example="optional",
    )
    mode: SectionKey[IntrospectionMode] = key(
        OneOf(IntrospectionMode),
        default="opaque",
        description="Which tokens are introspected. `opaque`: only tokens that are not JWTs. `always`: also verified "
        "JWTs, so that revoking them takes effect. Claims that only the response has are added to the JWT's.",
        example="always",
    )
    timeout = key(
        POSITIVE_DURATION,
        default="1s",
        description="Maximum duration of one request.",
        example="500ms",
    )
    cache_ttl = key(
        DURATION,
        default="30s",
        description="How long the response for an active token is cached, but never past its `exp`.",
        example="10s",
    )
    negative_cache_ttl = key(
        DURATION,
        default="10s",
        description="How long the response for an inactive or unacceptable token is cached.",
        example="30s",
    )
    max_concurrent = key(
        Whole(minimum=1),
        default=64,
        description="Maximum number of requests to the endpoint at a time. The same number may wait. Beyond that, "
        "tokens that are not cached get 503.",
        example=128,
    )


class SecurityEventsSettings(Section, title="SecurityEvents"):
    """Security events of an issuer (OpenID Shared Signals 1.0), which revoke tokens that have not expired."""

    poll_endpoint = required(
        URL,
        description="URL of the transmitter's poll endpoint (RFC 8936).",
        example="https://idp.example.com/ssf/poll",
    )
    audience = required(
        AUDIENCE,
        description="Audience (`aud`) that an event must have; any other event is rejected.",
        example="https://api.example.com/",
    )
    client_id = optional(
        PRINTABLE,
        if_absent="",
        description="Client id for the access token, which is requested at the issuer's token endpoint (client "
        "credentials grant). Required with `client_secret_file` and with `private_key_file`.",
        example="authz",
    )
    client_secret_file = optional(
        FILE,
        description="File with the client secret for `client_secret_basic`, read again when it changes. One newline at "
        "its end is ignored. Set exactly one of `client_secret_file`, `private_key_file` and `bearer_token_file`.",
        example="client-secret",
    )
    private_key_file = optional(
        FILE,
        description="File with the client's private key for `private_key_jwt`, PEM or JWK, read again when it changes.",
        example="client-key.pem",
    )
    bearer_token_file = optional(
        FILE,
        description="File with the access token itself, read again when it changes. No token is requested then.",
        example="token",
    )
    token_endpoint = nullable(
        URL,
        description="URL of the token endpoint. `null`: taken from the issuer's metadata.",
        example="https://idp.example.com/token",
    )
    scopes = key(
        Many(PLAIN_SCOPE),
        default=[],
        description="Scopes to request for the access token, such as `ssf.read` and `ssf.manage`. Default: none.",
        example=["ssf.read", "ssf.manage"],
    )
    interval = key(
        POSITIVE_DURATION,
        default="5s",
        description="Pause between two polls. A poll itself waits up to 30s for an event if the transmitter does.",
        example="10s",
    )
    keep = key(
        POSITIVE_DURATION,
        default="24h",
        description="How long an event revokes tokens: at least the longest lifetime of the issuer's access tokens. "
        "The issuer's `leeway` is added to it.",
        example="12h",
    )
    max_entries = key(
        Whole(minimum=1, maximum=1_000_000),
        default=100_000,
        description="Maximum number of revocations from events, each at most 1 KiB on average. Beyond that, the "
        "revocations with the least time left are evicted.",
        example=200000,
    )
    snapshot_file = optional(
        OWN_FILE,
        description="File in which to save revocations from events, so that they survive a restart. Processes with "
        "the same file share one stream of events: one polls, the others follow the file. Its folder must exist and "
        "be writable; give each issuer its own file. Default: nothing is saved, and each process polls for itself.",
        example="/var/lib/authz-service/events.json",
    )

    @property
    def auth_method(self) -> Literal["client_secret_basic", "private_key_jwt", "bearer_token"]:
        """How the client authenticates: the method that needs the file that is set."""
        if self.bearer_token_file is not None:
            return "bearer_token"
        return "client_secret_basic" if self.private_key_file is None else "private_key_jwt"

    @property
    def credential_key(self) -> str | None:
        """The key that names the file with the credential."""
        return CREDENTIAL_KEYS[self.auth_method]

    @property
    def discovers_token_endpoint(self) -> bool:
        """Whether the token endpoint is found in the issuer's metadata."""
        return self.token_endpoint is None and self.bearer_token_file is None


class Issuer(Section):
    """An issuer whose access tokens are accepted."""

    issuer = required(
        ISSUER_ID,
        description="The issuer's identifier. It must equal `iss` and the issuer in the metadata exactly, including a "
        "trailing slash. With one `{name}` as a whole path segment (`https://login.example.com/{tenantid}/v2.0`), the "
        "issuers of all tenants are accepted; they share their keys.",
        example="https://idp.example.com/",
    )
    name = optional(
        NAME,
        if_absent="",
        description="Label in metrics, logs and rules. Default: the host of `issuer`.",
        example="main",
    )
    audiences = key(
        Many(AUDIENCE),
        default=[],
        description="A token must name at least one of these. Required unless every rule sets its own.",
        example=["https://api.example.com/"],
    )
    algorithms = key(
        some(ALGORITHM),
        default=["RS256", "PS256", "ES256", "EdDSA", "Ed25519", "Ed448"],
        description="Accepted signature algorithms. Tokens with any other algorithm are denied. `HS256` and `none` "
        "cannot be listed. `Ed25519` and `Ed448` are the current names of `EdDSA` (RFC 9864); each name must be "
        "listed.",
        example=["RS256", "ES256"],
    )
    access_token_profile: SectionKey[Profile] = key(
        OneOf(Profile),
        default="any",
        description="The profile that tokens must meet. `any`: none. `rfc9068`: the type `at+jwt`, and the claims that "
        "RFC 9068 requires.",
        example="rfc9068",
    )
    token_types = key(
        some(TOKEN_TYPE),
        default=["at+jwt", "JWT"],
        description="Accepted values of `typ` in the token's header, in any case, with or without `application/` "
        "(except that `JWT` does not include `application/jwt`). A token without `typ` counts as `JWT`. If `jwt-svid` "
        "is listed, keys that are published for JWT-SVIDs (SPIFFE) are also accepted.",
        example=["at+jwt", "JWT", "application/vnd.example+jwt"],
    )
    leeway = key(
        LEEWAY,
        default="30s",
        description="Tolerated clock difference for `exp`, `nbf`, `iat` and `auth_time`.",
        example="10s",
    )
    max_token_age = nullable(
        POSITIVE_DURATION,
        description="Deny a token issued (`iat`) longer ago than this as `too_old`. `null`: no limit besides `exp`.",
        example="1h",
    )
    required_claims = key(
        REQUIRED_CLAIMS,
        default=["exp"],
        description="Claims that a token must have. The list must include `exp`.",
        example=["exp", "sub"],
    )
    audience_claims = key(
        some(CLAIM_PATH),
        default=["aud"],
        description="Paths of the claims that contain audiences; their values are combined. For Cognito's access "
        "tokens: `[client_id]`.",
        example=["client_id"],
    )
    allow_client_audience = key(
        Flag(),
        default=False,
        description="Accept tokens whose audience is their own client. Set to `true` if the client and the API share "
        "one registration.",
        example=True,
    )
    id_token_markers = key(
        Many(PRINTABLE),
        default=["nonce", "at_hash", "c_hash", "s_hash"],
        description="Claims that identify an ID token; a token with any of them is denied as `id_token`.",
        example=["at_hash", "c_hash"],
    )
    scope_claims = key(
        Many(CLAIM_PATH),
        default=["scope", "scp"],
        description="Paths of the claims that contain scopes, as a space-separated string or a list; their values are "
        "combined. A path is dotted (`realm_access.roles`); write `\\.` for a dot in a name.",
        example=["scope", "realm_access.roles"],
    )
    client_claims = key(
        Many(CLAIM_PATH),
        default=["client_id", "azp", "cid", "appid"],
        description="Paths of the claims that contain the client; the first one that is present is used.",
        example=["azp"],
    )
    tenants = key(
        TENANTS,
        default="any",
        description="The values that the `{name}` in `issuer` may have. `any`: all of them.",
        example=["3f2a", "9c1d"],
    )
    required_for_readiness = key(
        Flag(),
        default=True,
        description="Whether an instance becomes ready only with this issuer's keys. `false`: an instance can become "
        "ready without them, and this issuer's tokens get 503 until the keys arrive.",
        example=False,
    )
    confirmation: SectionKey[ConfirmationMode] = key(
        OneOf(ConfirmationMode),
        default="verify",
        description="How tokens that are bound to their sender (`cnf`) are accepted. `verify`: only with proof of the "
        "key (DPoP) or the client certificate. `ignore`: as bearer tokens, even from someone who stole one.",
        example="ignore",
    )
    keys = nested(
        Keys,
        description="Where the issuer's public keys come from, and how they are cached.",
        example={"refresh_interval": "10m", "outage_tolerance": "4h"},
    )
    introspection = optional(
        SectionKind(IntrospectionSettings),
        description="Validation of tokens at the issuer (RFC 7662). Default: opaque tokens are denied.",
        example={"client_id": "appointments-api", "client_secret_file": "client-secret"},
    )
    security_events = optional(
        SectionKind(SecurityEventsSettings),
        description="Events from the issuer (OpenID Shared Signals), which revoke the tokens of ended sessions and of "
        "disabled or deleted accounts within seconds. Default: no events are received.",
        example={
            "poll_endpoint": "https://idp.example.com/ssf/poll",
            "audience": "https://api.example.com/",
            "client_id": "authz",
            "client_secret_file": "client-secret",
        },
    )

    @cached_property
    def template(self) -> IssuerTemplate | None:
        """The form of the accepted issuers, if they are several."""
        template = parse_issuer_template(self.issuer)
        return None if template is None else template._replace(tenants=frozenset(self.tenants) or None)

    @cached_property
    def label(self) -> str:
        """The name in metrics, logs and rules."""
        return self.name or urlsplit(self.issuer).hostname or self.issuer

    @cached_property
    def accepted_types(self) -> frozenset[str]:
        """All spellings of token_types, in lower case."""
        types = [each.lower() for each in self.token_types]
        names = [each.removeprefix("application/") for each in types]
        return frozenset((*types, *names, *(f"application/{name}" for name in names if name != "jwt")))

    @property
    def key_uses(self) -> frozenset[str]:
        """The values of ``use`` in a JWK that the issuer's keys may have."""
        return frozenset({"sig", "jwt-svid"} if "jwt-svid" in self.accepted_types else {"sig"})

    @property
    def event_lifetime(self) -> float:
        """Seconds for which a security event counts: as long as a token issued before it may be accepted."""
        return 0.0 if self.security_events is None else self.security_events.keep + self.leeway

    @property
    def has_keys(self) -> bool:
        """Whether there is a source of keys. Without one, the issuer's tokens are validated by introspection only."""
        return self.keys.discovery or self.keys.jwks_uri is not None or self.keys.file is not None


class McpMatch(Section):
    """MCP messages, by the headers of protocol revision 2026-07-28 and later. Set methods, names, or both."""

    methods = optional(
        some(MCP_PATTERN),
        description="Values of `Mcp-Method`, such as `tools/call`. A `*` at the end stands for any further "
        "characters. Default: the methods with a name, `tools/call`, `resources/read` and `prompts/get`.",
        example=["tools/call"],
    )
    names = optional(
        some(MCP_PATTERN),
        description="Values of `Mcp-Name`: the name of a tool or prompt, or the URI of a resource. A `*` at the end "
        "stands for any further characters. Requests with these methods and without `Mcp-Name` are denied.",
        example=["get_*", "list_*"],
    )

    def check(self) -> None:
        """A condition that every message meets has no place here."""
        if self.methods is None and self.names is None:
            raise ValueError("needs methods or names: for every message of a new revision, write methods: ['*']")

    @cached_property
    def condition(self) -> McpCondition:
        """What requests are compared with."""
        return McpCondition(self.methods or NAMED_METHODS, self.names)


class Match(Section):
    """The requests that a rule applies to. All parts must match; a part that is left out matches any request."""

    hosts = optional(
        some(HOST_PATTERN),
        description="Hosts, without port, in any case. `*.example.org` matches any name below `example.org`.",
        example=["api.example.com", "*.example.org"],
    )
    methods = optional(
        some(METHOD),
        description="HTTP methods, in upper case.",
        example=["GET", "HEAD"],
    )
    paths = optional(
        some(PATH_PATTERN),
        description="Path patterns: literal segments, `{name}` for exactly one non-empty segment, `{name}:purge` for "
        "one that ends in `:purge`, and a final `/**` for any number of further segments, including none.",
        example=["/v1/appointments/{id}", "/v1/files/**"],
    )
    headers = optional(
        Members(HTTP_HEADER, HEADER_VALUE, may_be_empty=False),
        description="Header names with their values; spaces and tabs around a value are ignored. If the header is sent "
        "more than once or with a comma, the request matches neither this rule nor any later one.",
        example={"x-api-version": "2"},
    )
    mcp = optional(
        SectionKind(McpMatch),
        description="MCP messages. The rule applies only if `MCP-Protocol-Version` is 2026-07-28 or later. Then, if a "
        "compared header is missing, repeated or not decodable, the request is denied as `malformed_request`. Only "
        "the headers are compared, not the body, so the server must check that both agree.",
        example={"methods": ["tools/call"], "names": ["get_*"]},
    )
    case_insensitive = key(
        Flag(),
        default=False,
        description="Match the literals of paths in any case. Set to `true` if the upstream ignores case.",
        example=True,
    )

    encoded_slash = key(
        Flag(),
        default=False,
        description="Let each `{name}` of paths match a segment with encoded slashes (`%2F`): `/npm/{name}` matches "
        "`/npm/@scope%2Fname`. Set to `true` if the upstream reads them as part of the segment. Without it, such a "
        "path is denied as `ambiguous_path`.",
        example=True,
    )

    @cached_property
    def path_patterns(self) -> tuple[PathPattern, ...]:
        """The patterns that a path is matched with: ``paths``, folded if case_insensitive; any path without them."""
        paths = self.paths or (EVERY_PATH,)
        return tuple(pattern.folded() for pattern in paths) if self.case_insensitive else paths


class Scopes(Section):
    """The scopes that a token must have."""

    all = key(
        Many(SCOPE),
        default=[],
        description="The token must have all of these.",
        example=["read:appointments"],
    )
    any = key(
        Many(SCOPE),
        default=[],
        description="The token must have at least one of these.",
        example=["read", "admin"],
    )
    none = key(
        Many(SCOPE),
        default=[],
        description="The token must have none of these.",
        example=["suspended"],
    )


def _not_empty(value: Any) -> None:
    """An empty list is an error: to require no scope, leave the key out."""
    if value in ([], {}) or (isinstance(value, dict) and [] in value.values()):
        raise ValueError("is empty, so any token would do: write at least one scope, or remove it")


class ClaimCondition(Section, title="Condition"):
    """A condition on one claim. Set exactly one operator."""

    equals = optional(
        SCALAR,
        description="The claim equals this value, and has the same JSON type.",
        example="acme",
    )
    in_ = optional(
        some(SCALAR),
        name="in",
        description="The claim equals one of these values.",
        example=["pro", "team"],
    )
    contains = optional(
        SCALAR,
        description="The claim is a list that contains this value, or this string itself.",
        example="admin",
    )
    contains_any = optional(
        some(SCALAR),
        description="The claim is a list that contains at least one of these values, or one of these strings.",
        example=["ops", "dev"],
    )
    contains_all = optional(
        some(SCALAR),
        description="The claim is a list that contains all of these values. A string counts as a list of one.",
        example=["pwd", "otp"],
    )
    prefix = optional(
        AFFIX,
        description="The claim is a string that starts with this one, or a list with such a string.",
        example="system:serviceaccount:shop:",
    )
    suffix = optional(
        AFFIX,
        description="The claim is a string that ends with this one, or a list with such a string.",
        example="@corp.example",
    )
    present: SectionKey[Literal[True] | None] = optional(
        OneOf(Literal[True]),
        description="The claim is present and not null.",
        example=True,
    )
    absent: SectionKey[Literal[True] | None] = optional(
        OneOf(Literal[True]),
        description="The claim is absent or null.",
        example=True,
    )
    equals_path = optional(
        CAPTURE_NAME,
        description="The claim equals the segment that this `{name}` of the path matched: a string, or a whole number "
        "in decimal.",
        example="id",
    )
    contains_path = optional(
        CAPTURE_NAME,
        description="Like `equals_path`, or the claim is a list that contains such a value.",
        example="id",
    )
    equals_header = optional(
        COMPARED_HEADER,
        description="The claim equals the value of this request header: a string, or a whole number in decimal. "
        "Spaces and tabs around the value are ignored. A header that is missing, empty, repeated or joined with a "
        "comma meets no condition.",
        example="x-tenant",
    )
    contains_header = optional(
        COMPARED_HEADER,
        description="Like `equals_header`, or the claim is a list that contains such a value.",
        example="x-tenant",
    )

    def check(self) -> None:
        """There is exactly one operator."""
        if len(self.written) != 1:
            raise ValueError(f"needs exactly one of {', '.join(OPERATORS)}")

    @property
    def operator(self) -> tuple[str, Any]:
        """The name of the operator, and the value that it is written with."""
        (name,) = self.written
        return name, getattr(self, self.declared[name].attribute)

    @property
    def capture(self) -> str | None:
        """The name of the capture that the claim is compared with."""
        return self.equals_path or self.contains_path

    @property
    def header(self) -> str | None:
        """The name of the header that the claim is compared with."""
        return self.equals_header or self.contains_header


OPERATORS = tuple(ClaimCondition.declared)


def _one_value(value: Any) -> None:
    if value is None:
        raise ValueError("is empty: write a value, or {present: true}, or {absent: true}")
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004 - as all kinds raise
            "is a list: write {in: [...]} for one of these values, or {contains_any: [...]} for a claim that is a list"
        )


class Alternative(Section):
    """Requirements. All must hold."""

    issuers = optional(
        some(NAME),
        description="Names of the issuers that are accepted. Default: all configured issuers.",
        example=["main"],
    )
    audiences = optional(
        some(AUDIENCE),
        description="The token must name at least one of these. Replaces the issuer's audiences.",
        example=["https://api.example.com/billing"],
    )
    scopes = nested(
        Scopes,
        kind=ShortSection(Scopes, "all", _not_empty),
        description="Scopes that the token must have. A list means all of them. `{all: [...], any: [...], none: "
        "[...]}` combines requirements. A `{name}` in a scope stands for the segment that it matched in the path.",
        example=["read:appointments"],
    )
    clients = optional(
        some(PRINTABLE),
        description="The token's client must be one of these.",
        example=["mobile-app"],
    )
    claims = optional(
        Members(REQUIRED_CLAIM_PATH, ShortSection(ClaimCondition, "equals", _one_value), may_be_empty=False),
        description="Conditions on claims, by claim path. All must hold. A path is dotted (`realm_access.roles`); "
        "write `\\.` for a dot in a name. A condition is a value that the claim must equal, or one operator such as "
        "`{contains: admin}`.",
        example={"tenant": "acme", "realm_access.roles": {"contains": "admin"}},
    )
    proof: SectionKey[Proof | None] = optional(
        OneOf(Proof),
        description="The token must be bound to its sender. `dpop`: by a DPoP key (RFC 9449). `mtls`: by a client "
        "certificate (RFC 8705). `any`: by either. Default: a bearer token is enough.",
        example="dpop",
    )
    max_auth_age = optional(
        POSITIVE_DURATION,
        description="Maximum time since the user logged in (`auth_time`). After that, a challenge requests a new "
        "login (RFC 9470).",
        example="15m",
    )
    acr_values = optional(
        some(ACR_VALUE),
        description="The token's `acr` must be one of these; otherwise a challenge requests them (RFC 9470).",
        example=["urn:mfa"],
    )

    def used_captures(self) -> frozenset[str]:
        """The names of the captures of the path that scopes and claims are compared with."""
        scopes = (*self.scopes.all, *self.scopes.any, *self.scopes.none)
        conditions = (self.claims or {}).values()
        return frozenset().union(
            *map(CAPTURE.findall, scopes), (condition.capture for condition in conditions if condition.capture)
        )

    def allows_issuer(self, label: str) -> bool:
        """Whether ``issuers`` has the issuer of this name, or is left out."""
        return self.issuers is None or label in self.issuers


class CredentialSettings(Section, title="Credential"):
    """Where the requests of a rule have their token. It is read from no other place."""

    header = key(
        CREDENTIAL_HEADER,
        default="authorization",
        description="The header that contains the token.",
        example="x-forwarded-access-token",
    )
    scheme = optional(
        SCHEME,
        description="The scheme before the token, in any case. Default: `Bearer` in `authorization`; in any other "
        "header, the whole value is the token.",
        example="Token",
    )

    @classmethod
    def implied(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Bearer is the scheme in authorization."""
        header = value.get("header", AUTHORIZATION)
        in_authorization = isinstance(header, str) and header.lower() == AUTHORIZATION
        return {"scheme": BEARER} if in_authorization and "scheme" not in value else {}


def _alternative(value: object) -> object:
    if value == {}:
        raise ValueError("is empty, so any token would do: write at least one requirement, or remove any_of")
    return value


class Require(Alternative):
    """What a token must meet in addition to being valid. All parts must hold."""

    any_of = optional(
        some(Prepared(SectionKind(Alternative), _alternative)),
        description="Alternatives. At least one must hold, in addition to the other requirements. Each has the keys "
        "of `require` except `any_of`. They are evaluated in order. If none holds, the denial has the reason and the "
        "challenge of the last one. The audiences of an alternative replace those of the issuer, but not those of the "
        "rule.",
        example=[{"scopes": ["admin"]}, {"claims": {"account": {"equals_path": "id"}}}],
    )

    def parts(self) -> tuple[Alternative, ...]:
        """The rule's own requirements, then each alternative."""
        return (self, *(self.any_of or ()))

    def places(self, where: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Alternative]]:
        """The parts with their places in the file; ``where`` is that of the rule's own requirements."""
        yield where, self
        for number, alternative in enumerate(self.any_of or ()):
            yield (*where, "any_of", number), alternative

    @cached_property
    def all_used_captures(self) -> frozenset[str]:
        """Those of all parts."""
        return frozenset().union(*(part.used_captures() for part in self.parts()))

    def claim_conditions(self) -> Iterator[ClaimCondition]:
        """The conditions on claims in all parts."""
        return (condition for part in self.parts() for condition in (part.claims or {}).values())

    def accepted_issuers(self) -> frozenset[str] | None:
        """Names of the issuers whose tokens can meet the requirements; None: any issuer's."""
        own = None if self.issuers is None else frozenset(self.issuers)
        alternatives = [each.issuers for each in self.any_of or ()]
        if not alternatives or None in alternatives:
            return own
        named = frozenset(name for names in alternatives for name in names or ())
        return named if own is None else named & own


class RuleSettings(Section, title="Rule"):
    """A rule: the requests that it decides, and what it requires of them. The first rule that matches decides."""

    name = required(
        NAME,
        description="Unique name of the rule, a label in metrics and logs.",
        example="read-appointments",
    )
    match = nested(
        Match,
        description="The requests that the rule decides. Default: all.",
        example={"methods": ["GET"], "paths": ["/v1/appointments/{id}"]},
    )
    policy = optional(
        NAME,
        description="Set instead of `match`: the rule decides the requests for which Envoy's `context_extensions` "
        "contain `{authz_policy: NAME}`.",
        example="billing",
    )
    access: SectionKey[Access] = key(
        OneOf(Access),
        default="token",
        description="Whether requests need a token. `token`: a valid token. `optional`: none, but an invalid one is "
        "denied. `public`: none, and tokens are ignored.",
        example="public",
    )
    require = nested(
        Require,
        description="What the token must meet. Default: it must be valid.",
        example={"scopes": ["read:appointments"]},
    )
    credential = nested(
        CredentialSettings,
        description="Where the token is. Default: in `authorization`, with the scheme `Bearer`.",
        example={"header": "cf-access-jwt-assertion"},
    )
    mode: SectionKey[RuleMode] = key(
        OneOf(RuleMode),
        default="enforce",
        description="Whether the decision applies. `enforce`: it does. `shadow`: it is only logged and counted, and "
        "every request is allowed.",
        example="shadow",
    )


class HeaderSettings(Section, title="Header"):
    """The claim that an identity header carries, and how it is encoded."""

    claim = required(
        CLAIM_PATH,
        description="Dotted path of the claim; write `\\.` for a dot in a name. `*` stands for all claims.",
        example="realm_access.roles",
    )
    encoding: SectionKey[Encoding | None] = optional(
        OneOf(Encoding),
        description="How the value is written. `csv`: the items of a list, joined by commas. `json`: JSON in ASCII. "
        "`base64url-json`: the same, encoded as base64url without padding. Default: `csv` for a list, and the value "
        "itself for a string, number or boolean.",
        example="csv",
    )

    def check(self) -> None:
        """The whole claim set has no other encoding than JSON."""
        if self.claim.text == "*" and self.encoding not in {"json", "base64url-json"}:
            raise ValueError("* is the whole claim set: add encoding: json or encoding: base64url-json")


def _nonce(value: object) -> object:
    """YAML 1.1 reads a plain ``off`` as false."""
    if isinstance(value, bool):
        if value:
            raise ValueError("is true: write off or required")
        return "off"
    return value


def _path_or_mapping(value: Any) -> None:
    if value is not None and not isinstance(value, (str, dict)):
        raise ValueError("must be the path of a claim, or {claim: path, encoding: json}")


class UpstreamSettings(Section, title="Upstream"):
    """What the protected service receives."""

    headers = key(
        Members(UPSTREAM_HEADER, ShortSection(HeaderSettings, "claim", _path_or_mapping)),
        default={
            "x-auth-subject": "sub",
            "x-auth-issuer": "iss",
            "x-auth-client": "client_id",
            "x-auth-scopes": "scope",
        },
        description="Header names, each with the path of the claim that it carries, or `{claim: path, encoding: "
        "...}`. If a client sends one of these headers, it is removed, under every rule. `client_id` is the token's "
        "client; `scope` is its scopes of all `scope_claims`, sorted. A value that cannot be encoded or has more than "
        "8000 bytes is left out and counted in `authz_upstream_headers_omitted_total`.",
        example={"x-auth-subject": "sub", "x-auth-roles": {"claim": "realm_access.roles", "encoding": "csv"}},
    )
    metadata = key(
        Members(METADATA_NAME, CLAIM_PATH),
        default={},
        description="Further members of the decision's dynamic metadata: their names, each with the path of the claim "
        "that it carries as a JSON value. A value that has more than 8 KiB or 8 levels, or contains a control "
        "character, is left out.",
        example={"tenant": "tenant_id"},
    )
    forward_authorization = key(
        Flag(),
        default=True,
        description="Forward the `Authorization` header and every rule's credential header. `false`: remove all of "
        "them from every upstream request.",
        example=False,
    )


class DpopSettings(Section, title="Dpop"):
    """Verification of DPoP proofs (RFC 9449)."""

    algorithms = key(
        some(ALGORITHM),
        default=["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256"],
        description="Accepted signature algorithms of proofs; challenges name them.",
        example=["ES256"],
    )
    max_age = key(
        POSITIVE_DURATION,
        default="60s",
        description="Maximum age of a proof, by its `iat`. An `iat` in the future is tolerated by the leeway of the "
        "token's issuer.",
        example="30s",
    )
    nonce: SectionKey[Nonce] = key(
        Prepared(OneOf(Nonce), _nonce, written=(OneOf(Nonce), Flag())),
        default="off",
        description="Whether proofs need a nonce from authz-service. `off`: no. `required`: they need a current one. "
        "So no proof can be made in advance, or be replayed at another replica after the nonce expired.",
        example="required",
    )
    nonce_key_file = nullable(
        FILE,
        description="File with the key for nonces, 32 bytes or more, the same for all replicas and workers. When it "
        "changes, nonces of the previous key are accepted until they expire. `null`: each process generates its own.",
        example="nonce.key",
    )
    nonce_lifetime = key(
        POSITIVE_DURATION,
        default="5m",
        description="How long a nonce is accepted.",
        example="2m",
    )
    replay_cache_entries = key(
        Whole(minimum=1),
        default=100_000,
        description="Maximum number of accepted proofs that each process caches, to accept each only once. When the "
        "cache is full, the oldest is evicted and counted in `authz_dpop_replay_cache_evictions_total`.",
        example=500000,
    )
    origins = key(
        Many(ORIGIN),
        default=[],
        description="Origins of this API as clients see them, such as `https://api.example.com`, which the `htu` of "
        "proofs must start with. Default: `https://` and the request's host; `http://` for a loopback host.",
        example=["https://api.example.com"],
    )


class MtlsSettings(Section, title="Mtls"):
    """Where the client certificate of a request is found, for certificate-bound tokens (RFC 8705)."""

    certificate: SectionKey[CertificateSource] = key(
        OneOf(CertificateSource),
        default="peer",
        description="Where the client's certificate is found. `peer`: the certificate of Envoy's own connection, "
        "which `include_peer_certificate` sends. `xfcc`: the header `x-forwarded-client-cert`, which a proxy in front "
        "must set or sanitize.",
        example="xfcc",
    )
    xfcc_hops = key(
        Whole(minimum=1, maximum=16),
        default=1,
        description="Which element of `x-forwarded-client-cert` is the client's, counted from the right: 1 is the one "
        "that the nearest proxy added.",
        example=2,
    )


class ResourceSettings(Section, title="Resource"):
    """A protected resource whose metadata the sidecar publishes (RFC 9728)."""

    resource = required(
        RESOURCE_ID,
        description="The resource's identifier, an https URL. Requests with this host, at or below this path, belong "
        "to the resource. If several resources match, the one with the longest path is used. The challenges for "
        "denied requests name the address of its metadata.",
        example="https://api.example.com/v1",
    )
    name = optional(
        PRINTABLE,
        description="Display name (`resource_name`). Default: none.",
        example="Appointments",
    )
    issuers = optional(
        some(NAME),
        description="Names of the issuers that the metadata lists (`authorization_servers`). Default: all whose "
        "identifier is a URL.",
        example=["main"],
    )
    scopes = optional(
        Many(PLAIN_SCOPE),
        description="The scopes that the metadata lists (`scopes_supported`); `[]` for none. Default: those that the "
        "rules for this host and path require.",
        example=["read:appointments"],
    )
    documentation = optional(
        URL,
        description="URL of a page for developers (`resource_documentation`). Default: none.",
        example="https://docs.example.com/",
    )
    mcp = key(
        Flag(),
        default=False,
        description="Whether the resource is an MCP server. `true`: `check-config` warns about settings that MCP's "
        "authorization specification forbids. If a rule for it has `match.mcp`, the server must support revision "
        "2026-07-28 or later.",
        example=True,
    )


class TokenCache(Section):
    """The cache of validated tokens, which saves verifying a signature again."""

    max_entries = key(
        Whole(minimum=0),
        default=10000,
        description="Maximum number of tokens; the oldest are evicted. 0 turns the cache off. Also applies to the "
        "cached responses of each introspection endpoint.",
        example=100000,
    )
    max_bytes = key(
        SIZE,
        default="32MiB",
        description="Maximum memory for cached tokens. Whichever of `max_bytes` and `max_entries` is reached first "
        "limits the cache. The claims of a token need several times its length in memory. Also applies to the cached "
        "responses of each introspection endpoint.",
        example="64MiB",
    )
    max_ttl = key(
        DURATION,
        default="5m",
        description="How long a token is cached, but never past its `exp`. A token is evicted at once when its key "
        "leaves the key set.",
        example="1m",
    )


class Logging(Section):
    """What is logged, and where to."""

    level: SectionKey[Level] = key(
        OneOf(Level),
        default="info",
        description="The lowest level that is logged.",
        example="warning",
    )
    format: SectionKey[LogFormat] = key(
        OneOf(LogFormat),
        default="json",
        description="The form of a line. `json`: one JSON object. `text`: for people.",
        example="text",
    )
    decisions: SectionKey[LoggedDecisions] = key(
        OneOf(LoggedDecisions),
        default="denied",
        description="Which decisions to log, one line each, without tokens and query strings: `none`, those of "
        "`denied` requests, or `all`.",
        example="all",
    )
    decisions_file = optional(
        OWN_FILE,
        description="File to which decisions are logged instead of standard error, at every level. It is created with "
        "mode 0640, and opened again after a rotation. Its folder must exist and be writable. Workers share it.",
        example="/var/log/authz/decisions.log",
    )
    decisions_socket = optional(
        READER_SOCKET,
        description="Unix socket to which decisions are logged instead of standard error, at every level: a datagram "
        "for each line, or a stream if the reader accepts connections. While there is no reader, lines are lost.",
        example="/run/audit/reader.sock",
    )


class TracingSettings(Section):
    """The collector of traces."""

    otlp_endpoint = key(
        COLLECTOR_URL,
        default="http://127.0.0.1:4318",
        description="Base URL of an OpenTelemetry collector that takes OTLP over HTTP; `/v1/traces` is added. Spans "
        "contain nothing secret, so plain http is accepted.",
        example="http://collector.observability.svc:4318",
    )
    service_name = key(
        PRINTABLE,
        default="authz-service",
        description="`service.name` of the spans.",
        example="appointments-authz",
    )


class Settings(Section):
    """The configuration of authz-service."""

    server = nested(
        Server,
        description="Where and how authz-service listens.",
        example={"grpc_address": "unix:/run/authz/authz.sock", "workers": 4},
    )
    issuers = required(
        some(SectionKind(Issuer)),
        description="The issuers whose access tokens are accepted.",
        example=[{"issuer": "https://idp.example.com/", "name": "main", "audiences": ["https://api.example.com/"]}],
    )
    rules = required(
        some(SectionKind(RuleSettings)),
        description="The rules, in order: the first one that matches a request decides it. A request that matches none "
        "is denied.",
        example=[
            {
                "name": "read-appointments",
                "match": {"methods": ["GET"], "paths": ["/v1/appointments/{id}"]},
                "require": {"scopes": ["read:appointments"]},
            },
            {"name": "health", "match": {"paths": ["/healthz"]}, "access": "public"},
        ],
    )
    cors_preflight: SectionKey[CorsPreflight] = key(
        OneOf(CorsPreflight),
        default="deny",
        description="What happens to CORS preflight requests (`OPTIONS` with `Origin` and "
        "`Access-Control-Request-Method`). `deny`: they are treated like any other request. `allow`: they pass "
        "without a token if any rule is for their host and path.",
        example="allow",
    )
    upstream = nested(
        UpstreamSettings,
        description="What the protected service receives.",
        example={"metadata": {"tenant": "tenant_id"}, "forward_authorization": False},
    )
    scope_implies = key(
        Members(PLAIN_SCOPE, some(PLAIN_SCOPE)),
        default={},
        description="Scopes, each with the scopes that it implies, transitively. A token with the first scope counts "
        "as having the implied ones, for rules that require scopes and for rules that forbid them. Headers and "
        "metadata have only the scopes that are in the token.",
        example={"admin": ["read", "write"]},
    )
    dpop = optional(
        SectionKind(DpopSettings),
        description="Verification of DPoP proofs (RFC 9449). Tokens that are bound to a key need a proof even without "
        "this section. With it, challenges offer DPoP in addition to Bearer.",
        example={"origins": ["https://api.example.com"]},
    )
    mtls = nested(
        MtlsSettings,
        description="Where client certificates are found, for certificate-bound tokens (RFC 8705).",
        example={"certificate": "peer"},
    )
    resources = key(
        Many(SectionKind(ResourceSettings)),
        default=[],
        description="Protected resources whose metadata (RFC 9728) authz-service answers itself, without a token, at "
        "`/.well-known/oauth-protected-resource` followed by the resource's path.",
        example=[{"resource": "https://api.example.com/v1", "name": "Appointments"}],
    )
    revocations_file = optional(
        FILE,
        description="File with revocations: a list of tokens that are denied although they have not expired. A change "
        "takes effect within two seconds, also for cached tokens.",
        example="revocations.yaml",
    )
    token_cache = nested(
        TokenCache,
        description="The cache of validated tokens.",
        example={"max_entries": 100000, "max_bytes": "64MiB"},
    )
    logging = nested(
        Logging,
        description="What is logged, to standard error.",
        example={"level": "warning", "decisions": "all"},
    )
    tracing = optional(
        SectionKind(TracingSettings),
        description="Export of spans to an OpenTelemetry collector, for requests in sampled traces. Default: none.",
        example={"otlp_endpoint": "http://collector.observability.svc:4318"},
    )

    @property
    def reloaded_files(self) -> tuple[Path, ...]:
        """The files whose changes take effect by a reload. Other files have readers of their own."""
        nonce_key = () if self.dpop is None or self.dpop.nonce_key_file is None else (self.dpop.nonce_key_file,)
        return (*nonce_key, *(issuer.keys.ca_file for issuer in self.issuers if issuer.keys.ca_file is not None))

    @property
    def dpop_or_default(self) -> DpopSettings:
        """How proofs are verified, whether or not ``dpop`` is configured."""
        return self.dpop or DpopSettings()
