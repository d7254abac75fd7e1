"""The settings: every key of the configuration file, its meaning, its default.

Law: frozen, documented, strict. No value is coerced from another type, no unknown key is accepted, no key that may be
left out may be left empty instead: what is empty by accident must not come to mean "everything" or "off". What concerns
one key alone is validated here; what concerns several is validated in ``references``, where a finding can point at its
key.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from authz_service.config.units import Duration, Leeway, PositiveDuration, Size, as_written
from authz_service.config.values import (
    AcrValue,
    Algorithm,
    CaptureName,
    ClaimPathField,
    File,
    GrpcAddress,
    HeaderValue,
    HostPatternField,
    HttpHeader,
    IssuerUrl,
    Many,
    Method,
    Name,
    OrAbsent,
    OwnFile,
    PathPatternField,
    Printable,
    RequiredClaims,
    Scalar,
    Scope,
    Some,
    TcpAddress,
    UpstreamHeader,
    Url,
)
from authz_service.core.patterns import EVERY_PATH

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.core.patterns import PathPattern


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no coercion, no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class Tls(Section):
    """TLS for the gRPC server. The files are re-read when they change."""

    certificate_file: File = Field(description="The certificate chain, PEM.")
    key_file: File = Field(description="The private key, PEM.")
    client_ca_file: OrAbsent[File] = Field(
        None,
        description="Trust anchors for client certificates, PEM. Present: clients must show one (mutual TLS).",
    )


class Server(Section):
    """Where and how the sidecar listens."""

    grpc_address: GrpcAddress = Field(
        "127.0.0.1:9191", description="host:port, [v6]:port, or unix:/path/to.sock (mode 0660)."
    )
    admin_address: TcpAddress = Field("127.0.0.1:9192", description="HTTP: /metrics, /healthz, /readyz.")
    transport: Literal["grpcio", "asyncio"] = Field(
        "asyncio", description="Which gRPC server answers: our own on asyncio, or grpcio's."
    )
    workers: int = Field(
        1, ge=1, le=256, description="Processes that share the address, each on a core of its own; 1: no other process."
    )
    tls: OrAbsent[Tls] = Field(None, description="Left out: plaintext.")
    check_deadline: PositiveDuration = Field(
        as_written("1s"),
        description="Longest time for one Check; past it the answer is an explicit 503 denial. The caller's own "
        "deadline less a tenth, and at least 50 ms, is kept when that is shorter.",
    )
    shutdown_delay: Duration = Field(
        as_written("0s"), description="At the end: not ready, still serving, so the mesh can drain."
    )
    shutdown_grace: Duration = Field(as_written("10s"), description="Then: time to finish what is in flight.")
    max_request_bytes: Size = Field(as_written("1MiB"), description="A larger CheckRequest is denied.")
    max_token_bytes: Size = Field(as_written("16KiB"), description="A larger credential is malformed_request.")


_NAMED_SOURCES = frozenset({"jwks_uri", "jwks_file"})


class Keys(Section):
    """Where an issuer's public keys come from, and how they are kept."""

    discovery: bool = Field(
        default=True,
        description="Read the key set's address from the issuer's OpenID configuration, or its OAuth authorization "
        "server metadata (RFC 8414). Off without a word where jwks_uri or jwks_file is given; with neither of them and "
        "with introspection, tokens are known by introspection alone.",
    )
    jwks_uri: OrAbsent[Url] = Field(None, description="The key set's address.")
    jwks_file: OrAbsent[File] = Field(None, description="The key set as a file; re-read when it changes.")
    ca_file: File | None = Field(None, description="Trust anchors beside the system's, PEM.")
    allow_http: bool = Field(default=False, description="Plain http is only for loopback unless true.")
    timeout: PositiveDuration = Field(as_written("2s"), description="Longest time for one fetch.")
    refresh_interval: PositiveDuration = Field(as_written("5m"), description="How often the key set is fetched.")
    min_refresh_interval: PositiveDuration = Field(
        as_written("30s"), description="The shortest that Cache-Control may make it."
    )
    max_refresh_interval: PositiveDuration = Field(
        as_written("1h"), description="The longest that Cache-Control may make it."
    )
    unknown_kid_cooldown: PositiveDuration = Field(
        as_written("30s"),
        description="At most one extra fetch for unknown key ids per this time, whatever the traffic.",
    )
    outage_tolerance: Duration = Field(
        as_written("24h"), description="How long the last good keys serve while the provider cannot be reached."
    )
    snapshot_file: OrAbsent[OwnFile] = Field(
        None,
        description="Where the last good keys are written down, so that a restart in an outage still works. The "
        "folder must be there and writable; each issuer needs a file of its own.",
    )
    max_bytes: Size = Field(as_written("512KiB"), description="A larger key set or discovery document is refused.")
    max_keys: int = Field(100, ge=1, description="A key set with more keys is refused.")

    @model_validator(mode="wrap")
    @classmethod
    def _discovery_gives_way(cls, value: Any, read: ModelWrapValidatorHandler[Keys]) -> Keys:
        gives_way = isinstance(value, dict) and "discovery" not in value and not value.keys().isdisjoint(_NAMED_SOURCES)
        keys = read({"discovery": False, **value} if gives_way else value)
        if gives_way:
            keys.model_fields_set.discard("discovery")  # nobody wrote it
        return keys


class IntrospectionSettings(Section):
    """Asking the issuer about access tokens (RFC 7662). Left out: opaque tokens are not accepted."""

    model_config = ConfigDict(title="Introspection")

    endpoint: Url | None = Field(None, description="Where to ask; null: as the issuer's metadata say.")
    client_id: Printable = Field(description="Who asks: the API's own registration at the issuer.")
    client_secret_file: OrAbsent[File] = Field(
        None, description="The client's secret; re-read when it changes. A newline at its end does not count."
    )
    private_key_file: OrAbsent[File] = Field(
        None, description="The client's private key for private_key_jwt, PEM or JWK; re-read when it changes."
    )
    auth_method: Literal["client_secret_basic", "client_secret_post", "private_key_jwt"] = Field(
        "client_secret_basic", description="How the client proves who it is."
    )
    mode: Literal["opaque", "always"] = Field(
        "opaque",
        description="opaque: only tokens that are not JWTs are asked about. always: JWTs too, once they were verified, "
        "so that revoking them takes effect.",
    )
    timeout: PositiveDuration = Field(as_written("1s"), description="Longest time for one call.")
    cache_ttl: Duration = Field(
        as_written("30s"), description="How long an active token is remembered, never past its exp."
    )
    negative_cache_ttl: Duration = Field(
        as_written("10s"), description="How long a token that is not active, or not acceptable, is remembered."
    )
    max_concurrent: int = Field(
        64, ge=1, description="Most calls at a time; as many more may wait, and what comes beyond is answered 503."
    )


class Issuer(Section):
    """An issuer whose access tokens are accepted."""

    issuer: IssuerUrl = Field(description="Compared with `iss` octet for octet.")
    name: Name = Field(
        "", validate_default=False, description="Label in metrics and logs; left out: the host of issuer."
    )
    audiences: Many[Printable] = Field(
        (), description="A token must name one of them. Required unless every rule names its own."
    )
    algorithms: Some[Algorithm] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"), description="Accepted signature algorithms; no others are."
    )
    access_token_profile: Literal["any", "rfc9068"] = Field(
        "any", description="rfc9068: the type must be at+jwt, and the claims that RFC 9068 requires must be there."
    )
    leeway: Leeway = Field(as_written("30s"), description="Tolerance of clocks, for exp, nbf and iat.")
    max_token_age: PositiveDuration | None = Field(None, description="A token issued (iat) longer ago is too_old.")
    required_claims: RequiredClaims = Field(("exp",), description="exp cannot be removed.")
    audience_claims: Some[Printable] = Field(
        ("aud",), description="Where audiences stand; united. Cognito's access tokens: [client_id]."
    )
    allow_client_audience: bool = Field(
        default=False, description="True where client and API share one registration, so aud is the client."
    )
    id_token_markers: Many[Printable] = Field(
        ("nonce", "at_hash", "c_hash", "s_hash"), description="Claims that give an ID token away."
    )
    scope_claims: Many[Printable] = Field(
        ("scope", "scp"), description="Where scopes stand, as a text or a list; united."
    )
    client_claims: Many[Printable] = Field(
        ("client_id", "azp", "cid", "appid"), description="Where the client stands; the first one present."
    )
    keys: Keys = Field(default_factory=Keys, description="Where the keys come from, and how they are kept.")
    introspection: OrAbsent[IntrospectionSettings] = Field(
        None, description="Asking the issuer about opaque tokens (RFC 7662). Left out: they are not accepted."
    )

    @property
    def label(self) -> str:
        """The name in metrics, logs and rules."""
        return self.name or urlsplit(self.issuer).hostname or self.issuer

    @property
    def has_keys(self) -> bool:
        """Whether there is a source of keys: without one, its tokens are known by introspection alone."""
        return self.keys.discovery or self.keys.jwks_uri is not None or self.keys.jwks_file is not None


class Match(Section):
    """What a request must be for the rule to apply. Every part given must hold; a part left out matches all."""

    hosts: OrAbsent[Some[HostPatternField]] = Field(
        None, description="Without port, case-insensitive; *.example.org is any name below it."
    )
    methods: OrAbsent[Some[Method]] = Field(None, description="Case-sensitive.")
    paths: OrAbsent[Some[PathPatternField]] = Field(
        None,
        description="Literal segments; {name} is exactly one non-empty segment; a final /** is any rest, also none.",
    )
    headers: OrAbsent[Annotated[dict[HttpHeader, HeaderValue], Field(min_length=1)]] = Field(
        None,
        description="Header name: its value, outer spaces and tabs aside. Sent more than once, or with a comma: the "
        "request matches no rule that asks for this header, nor any after it.",
    )
    case_insensitive: bool = Field(
        default=False,
        description="True: the literal segments of paths match in any case, for an upstream that ignores it.",
    )

    @cached_property
    def path_patterns(self) -> tuple[PathPattern, ...]:
        """The patterns that a path is matched with: ``paths``, folded if case_insensitive; any path without them."""
        paths = self.paths or (EVERY_PATH,)
        return tuple(pattern.folded() for pattern in paths) if self.case_insensitive else paths


class Scopes(Section):
    """Which scopes a token must hold."""

    all: Many[Scope] = Field((), description="Every one of them.")
    any: Many[Scope] = Field((), description="At least one of them.")
    none: Many[Scope] = Field((), description="Not one of them.")


def _scopes(value: object) -> object:
    """A plain list is short for ``all``. An empty one would want nothing, which is said by leaving it out."""
    empty = value in ([], {}) or (isinstance(value, dict) and [] in value.values())
    if empty:
        raise ValueError("is empty, so any token would do: write at least one scope, or remove it")
    return {"all": value} if isinstance(value, (list, tuple)) else value


class ClaimCondition(Section):
    """What one claim must be. Exactly one of the operators is given."""

    model_config = ConfigDict(title="Condition")

    equals: OrAbsent[Scalar] = Field(None, description="The claim is this value, of the same type.")
    contains: OrAbsent[Scalar] = Field(None, description="The claim is a list, and this value is in it.")
    in_: OrAbsent[Some[Scalar]] = Field(None, alias="in", description="The claim is one of these values.")
    present: OrAbsent[Literal[True]] = Field(None, description="The claim is there, and is not null.")
    absent: OrAbsent[Literal[True]] = Field(None, description="The claim is not there, or is null.")
    equals_path: OrAbsent[CaptureName] = Field(
        None, description="The claim is what the {name} of the path stands for: a text, or a whole number in decimal."
    )

    @model_validator(mode="after")
    def _one_operator(self) -> ClaimCondition:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"needs exactly one of {', '.join(OPERATORS)}")
        return self


OPERATORS = tuple(field.alias or name for name, field in ClaimCondition.model_fields.items())


def _condition(value: object) -> object:
    """A plain value is short for ``equals``."""
    if value is None:
        raise ValueError("is empty: write a value, or {present: true}, or {absent: true}")
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004 - what pydantic understands
            "is a list: write {in: [...]} for one of these values, or {contains: value} for a claim that is a list"
        )
    return value if isinstance(value, dict) else {"equals": value}


class Require(Section):
    """What the token must say."""

    issuers: OrAbsent[Some[Name]] = Field(None, description="Names of issuers; left out: any configured one.")
    audiences: OrAbsent[Some[Printable]] = Field(None, description="Replaces the issuer's audiences.")
    scopes: Annotated[Scopes, BeforeValidator(_scopes, json_schema_input_type=Many[Scope] | Scopes)] = Field(
        default_factory=Scopes, description="A list: all of them. Or {all: [...], any: [...], none: [...]}."
    )
    clients: OrAbsent[Some[Printable]] = Field(None, description="The token's client is one of them.")
    claims: OrAbsent[
        Annotated[
            dict[
                ClaimPathField,
                Annotated[ClaimCondition, BeforeValidator(_condition, json_schema_input_type=Scalar | ClaimCondition)],
            ],
            Field(min_length=1),
        ]
    ] = Field(
        None,
        description="Dotted path into nested claims (\\. for a dot in a name): the value that it equals, or one of "
        "{equals, contains, in, present, absent, equals_path}. All must hold.",
    )
    max_auth_age: OrAbsent[PositiveDuration] = Field(
        None, description="Against auth_time (RFC 9470): a login longer ago is asked for anew, by a challenge."
    )
    acr_values: OrAbsent[Some[AcrValue]] = Field(
        None, description="The token's acr is one of them (RFC 9470), else a challenge names them."
    )


class RuleSettings(Section):
    """A rule: which requests it decides, and what it wants of them. The first that matches decides."""

    model_config = ConfigDict(title="Rule")

    name: Name = Field(description="Label in metrics and logs; unique.")
    match: Match = Field(default_factory=Match, description="Left out: every request.")
    policy: OrAbsent[Name] = Field(
        None,
        description="Instead of match: the rule is for requests for which Envoy's context_extensions say "
        "{authz_policy: NAME}.",
    )
    access: Literal["token", "optional", "public"] = Field(
        "token",
        description="token: a good token is needed. optional: no token is fine, a bad one is not. "
        "public: a token is ignored.",
    )
    require: Require = Field(default_factory=Require, description="What the token must say.")
    mode: Literal["enforce", "shadow"] = Field(
        "enforce", description="shadow: decide, count and log, but let the request through."
    )


class UpstreamSettings(Section):
    """What the protected service receives."""

    model_config = ConfigDict(title="Upstream")

    headers: dict[UpstreamHeader, Printable] = Field(
        {
            "x-auth-subject": "sub",
            "x-auth-issuer": "iss",
            "x-auth-client": "client_id",
            "x-auth-scopes": "scope",
        },
        description="Header name: claim. Always removed from what the client sent, on every rule. client_id is the "
        "token's client, scope its united scopes, sorted.",
    )
    forward_authorization: bool = Field(
        default=True, description="False removes the Authorization header from the upstream request."
    )


class TokenCache(Section):
    """Validated tokens, so that a signature is verified once."""

    max_entries: int = Field(
        10000,
        ge=0,
        description="The oldest make way; 0 switches the cache off. It bounds the answers remembered of each "
        "introspection server too.",
    )
    max_bytes: Size = Field(
        as_written("32MiB"),
        description="Of tokens' claims and what is kept with them, as Python keeps them, which is several times the "
        "token's length; whichever bound is met first. It bounds the answers remembered of each introspection server "
        "too.",
    )
    max_ttl: Duration = Field(
        as_written("5m"), description="Never past exp; dropped at once when the key leaves the key set."
    )


class Logging(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")
    format: Literal["json", "text"] = Field("json", description="One JSON object a line, or text for people.")
    decisions: Literal["none", "denied", "all"] = Field(
        "denied", description="One line a decision; never a token, never a query string."
    )


class Settings(Section):
    """The configuration of authz-service."""

    server: Server = Field(default_factory=Server, description="Where and how the sidecar listens.")
    issuers: Some[Issuer] = Field(description="Whose access tokens are accepted.")
    rules: Some[RuleSettings] = Field(description="First match in file order decides; no match is denied.")
    cors_preflight: Literal["deny", "allow"] = Field(
        "deny",
        description="allow: OPTIONS with Origin and Access-Control-Request-Method goes through without a token, where "
        "any rule is for its host and path.",
    )
    upstream: UpstreamSettings = Field(
        default_factory=UpstreamSettings, description="What the protected service receives."
    )
    token_cache: TokenCache = Field(default_factory=TokenCache, description="Validated tokens.")
    logging: Logging = Field(default_factory=Logging, description="What is logged.")

    @property
    def reloaded_files(self) -> tuple[Path, ...]:
        """The files whose changes take effect by a reload. Other files have readers of their own."""
        return tuple(issuer.keys.ca_file for issuer in self.issuers if issuer.keys.ca_file is not None)
