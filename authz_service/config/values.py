"""The types of single values: names, scopes, URLs, addresses, files, patterns.

A value is validated without regard to other keys. The message of a ``ValueError`` says what is wrong and what would be
right, and quotes no more of the value than is needed to find it. If the configuration file's folder is passed as
validation ``context``, file paths become relative to it and the files must exist; without a context, paths are kept as
written.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Strict,
    StrictStr,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from authz_service.config.files import open_regular
from authz_service.core.claim_path import ClaimPath, parse_claim_path
from authz_service.core.credential import BEARER, DPOP
from authz_service.core.decision import CORRELATION_MEMBERS, METADATA_MEMBERS
from authz_service.core.errors import Rejected, shown
from authz_service.core.issuer_template import TENANT, parse_issuer_template
from authz_service.core.members import SCOPE_TOKEN
from authz_service.core.paths import split
from authz_service.core.patterns import (
    CAPTURE,
    HostPattern,
    PathPattern,
    normalize_host,
    parse_host_pattern,
    parse_path_pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
_OTHER_ISSUER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.~:/@+-]{0,255}")
_URL = re.compile(r"https?://[!-~]+")
_PROXY_URL = re.compile(r"https?://[^/?#@\s]+/?")
_ORIGIN = re.compile(r"https?://[^/?#@\\\x00-\x20\x7f-\U0010ffff]+")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_PORT = 65535
_MAX_SOCKET_PATH = 107  # sun_path of unix(7) is 108 bytes, the last of them zero
_MAX_QUOTED_PATH = 300  # characters
_MAX_LISTED = 120  # characters of a string that a message shows as a list
_PATTERN_CHARACTER = re.compile("[{}*]")
_CAPTURE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEVER_MATCHED = {
    "authorization": "it is the credential, which a rule cannot match: remove it",
    "proxy-authorization": "it is the credential, which a rule cannot match: remove it",
    "host": "write match.hosts instead",
}
_A_CREDENTIAL = "it carries a credential: write the name of another header"
_NEVER_COMPARED = {
    **dict.fromkeys(("authorization", "proxy-authorization", "cookie", "dpop"), _A_CREDENTIAL),
    "host": "the host is not sent as a header over HTTP/2: write match.hosts instead",
}
_FRAMING = "the client sets it itself"
_NEVER_SENT = {
    "authorization": "write keys.bearer_token_file",
    "proxy-authorization": "put user and password into the proxy's URL in the environment",
    "cookie": "the client uses no cookies",
    "host": "it is the host of the URL",
    **dict.fromkeys(("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"), _FRAMING),
    **dict.fromkeys(("transfer-encoding", "expect", "range", "accept", "accept-encoding"), _FRAMING),
}
_SECRET = re.compile("secret|token|passw|api-?key|credential|signature")
_FIELD_VALUE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
_NEVER_UPSTREAM = frozenset(
    {
        *("host", "authorization", "connection", "content-length", "transfer-encoding"),
        *("te", "trailer", "upgrade", "keep-alive", "proxy-connection"),
    }
)
_NO_CREDENTIAL = _NEVER_UPSTREAM | {"cookie"}
_METADATA_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_KNOWN_SCHEMES = {scheme.lower(): scheme for scheme in (BEARER, DPOP)}  # written in any case
_MEDIA_TYPE = re.compile(
    r"(?:application/)?[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII | re.IGNORECASE
)  # RFC 6838 section 4.2
_NEVER_ACCESS_TOKENS = {
    "dpop+jwt": "a DPoP proof",
    "id+jwt": "an ID token",
    "id_token": "an ID token",
    "jwk-set+jwt": "a signed key set",
    "kb+jwt": "a key binding",
    "logout+jwt": "a logout token",
    "rt+jwt": "a refresh token",
    "secevent+jwt": "a security event",
    "oauth-authz-req+jwt": "an authorization request",
    "oauth-client-attestation+jwt": "a client attestation",
    "oauth-client-attestation-pop+jwt": "a client attestation's proof",
    "client-authentication+jwt": "a client's assertion",
    "entity-statement+jwt": "an entity statement",
    "trust-mark+jwt": "a trust mark",
    "openid4vci-proof+jwt": "a proof of possession",
    "token-introspection+jwt": "an introspection response",
}
PLACEHOLDER_AUDIENCE = "the-audience-of-your-api"  # by `authz-service init`, for the user to replace
EMPTY = "is empty: write a value, or remove it"


def as_list(text: str, is_accepted: Callable[[str], bool]) -> str:
    """A string that stands in place of a list, as the list that was probably meant.

    ``is_accepted`` returns whether a string can be an item. Commas separate items, and so do spaces if no item can have
    one.
    """
    if len(text) > _MAX_LISTED:
        return "a list, in brackets, [ ]"
    by_comma = [part.strip() for part in text.split(",") if part.strip()]
    candidates = (by_comma, text.replace(",", " ").split(), [text])
    return json.dumps(next((each for each in candidates if each and all(map(is_accepted, each))), [text]))


def _shown_path(path: Path) -> str:
    return shown(str(path), _MAX_QUOTED_PATH)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a name: write up to 128 letters, digits and _ . : / -, with a letter or digit first"
        )
    return value


def _printable(value: str) -> str:
    if not value or not value.isprintable() or value != value.strip():
        raise ValueError("must be a printable, non-empty string without spaces around it")
    return value


def _scope(value: str) -> str:
    if not is_scope(value):
        raise ValueError(
            f"{shown(value)} is not a scope: write printable ASCII without space, quote and backslash, and several "
            "scopes as a list"
        )
    return value


def is_scope(value: str) -> bool:
    """Whether it can be one scope."""
    return SCOPE_TOKEN.fullmatch(value) is not None


def _required_scope(value: str) -> str:
    literals = CAPTURE.sub("", _scope(value))
    if "{" in literals or "}" in literals:
        raise ValueError(f"{shown(value)}: write {{name}} for a capture of the path, with letters, digits and _")
    return value


def _plain_scope(value: str) -> str:
    if "{" in _scope(value) or "}" in value:
        raise ValueError(
            f"{shown(value)} has a brace, and captures of the path have no meaning here: write a plain scope"
        )
    return value


def _method(value: str) -> str:
    if not _TOKEN.fullmatch(value) or "*" in value:
        raise ValueError(f"{shown(value)} is not a method: write one such as GET, or remove methods to match any")
    if value != value.upper():
        raise ValueError(f"{shown(value)} is not a method: methods are case-sensitive, write {shown(value.upper())}")
    return value


def _asymmetric(value: object) -> object:
    if isinstance(value, str) and (value.upper().startswith("HS") or value.lower() == "none"):
        raise ValueError(
            f"{shown(value)} is not accepted, since only asymmetric signatures are: write RS, PS or ES with 256, 384 "
            "or 512, EdDSA, Ed25519, Ed448, or ML-DSA-44, -65 or -87"
        )
    return value


def _supported(value: str) -> str:
    if value.startswith("ML-DSA"):
        from authz_service.core import ml_dsa  # noqa: PLC0415 - loads cryptography, which nothing else here needs

        if value not in ml_dsa.SUPPORTED:
            raise ValueError(
                f"{shown(value)} is not supported by the installed cryptography package and its OpenSSL: install a "
                "version with ML-DSA, such as cryptography 50, or remove it"
            )
    return value


def _token_type(value: str) -> str:
    if not _MEDIA_TYPE.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a type of a token: write the typ of its header, such as JWT, or application/at+jwt"
        )
    kind = _NEVER_ACCESS_TOKENS.get(value.lower().removeprefix("application/"))
    if kind is not None:
        raise ValueError(f"{shown(value)} is the type of {kind}, never of an access token: remove it")
    return value


def _with_exp(value: tuple[str, ...]) -> tuple[str, ...]:
    if "exp" not in value:
        raise ValueError("exp cannot be removed: add it")
    return value


def _header_name(value: str, *, example: str) -> str:
    """The name in lower case."""
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a header name: write one such as {example}")
    return value.lower()


def _upstream_header(value: str) -> str:
    name = _header_name(value, example="x-auth-subject")
    if name in _NEVER_UPSTREAM:
        raise ValueError(
            f"{shown(value)} has a meaning in HTTP itself: choose a name of your own, such as x-auth-subject"
        )
    return name


def _http_header(value: str) -> str:
    name = _header_name(value, example="x-api-version")
    if name in _NEVER_MATCHED:
        raise ValueError(f"{shown(value)} cannot be matched here: {_NEVER_MATCHED[name]}")
    return name


def _metadata_name(value: str) -> str:
    if not _METADATA_NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a name of metadata: write up to 128 letters, digits and _ . -")
    if value in METADATA_MEMBERS | CORRELATION_MEMBERS:
        raise ValueError(f"{shown(value)} is in the metadata of decisions already: choose another name")
    return value


def _credential_header(value: str) -> str:
    name = _header_name(value, example="x-forwarded-access-token")
    if name != "authorization" and name in _NO_CREDENTIAL:
        raise ValueError(
            f"{shown(value)} cannot hold a token: write authorization, or a header that holds nothing else"
        )
    return name


def _scheme(value: str) -> str:
    if not _SCHEME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not an authentication scheme: write one such as Bearer")
    return _KNOWN_SCHEMES.get(value.lower(), value)


def _compared_header(value: str) -> str:
    name = _header_name(value, example="x-tenant")
    if name in _NEVER_COMPARED:
        raise ValueError(f"{shown(value)} cannot be compared with a claim: {_NEVER_COMPARED[name]}")
    return name


def _affix(value: str) -> str:
    if not value:
        raise ValueError("is empty, so any string would do: write at least one character, or {present: true}")
    return value


def _required_claim_path(path: ClaimPath) -> ClaimPath:
    if path.names[:2] == ("act", "act"):
        raise ValueError(
            f"{shown(path.text)} leads to a prior actor, and only the outermost one may decide (RFC 8693 section 4.1): "
            "write act.sub for the current actor, or remove it"
        )
    return path


def _provider_headers(value: object) -> object:
    if isinstance(value, dict) and len({str(name).lower() for name in value}) < len(value):
        raise ValueError("names a header twice: header names are case-insensitive")
    return value


def _provider_header(value: str) -> str:
    name = _header_name(value, example="x-tenant")
    if name in _NEVER_SENT or name.startswith(("if-", "content-", "sec-")):
        raise ValueError(f"{shown(value)} cannot be set here: {_NEVER_SENT.get(name, _FRAMING)}")
    if _SECRET.search(name):
        raise ValueError(f"{shown(value)} looks like a secret, and those are read from files only")
    return name


def _provider_header_value(value: str) -> str:
    if not _FIELD_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII without spaces around it")
    return value


def _mcp_pattern(value: str) -> str:
    if not value:
        raise ValueError("is empty: write a method or a name, or * for any")
    if "*" in value[:-1]:
        raise ValueError(f"{value!r} has a * that is not at its end: only a * at the end stands for any characters")
    return value


def _header_value(value: str) -> str:
    if "," in _printable(value):
        raise ValueError(f"{shown(value)} has a comma, and a header value with one never matches: write a single value")
    return value


def _acr_value(value: str) -> str:
    if not SCOPE_TOKEN.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not an acr value: write printable ASCII without space, quote and backslash"
        )
    return value


def _capture_name(value: str) -> str:
    if not _CAPTURE_NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not the name of a capture: write tenant for the {{tenant}} of the path")
    return value


def _scalar(value: object) -> object:
    if value is None or value == "":
        raise ValueError(EMPTY)
    if not isinstance(value, (str, int, float)):
        raise ValueError("must be a string, a number, true or false")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _url(value: str) -> str:
    if "@" in value.partition("//")[2].partition("/")[0]:
        raise ValueError("must be a URL without user and password")
    if not _URL.fullmatch(value) or not _has_host(value):
        raise ValueError(f"{shown(value)} is not a URL: write https://host/path, or http for a host on this machine")
    if "#" in value:
        raise ValueError(f"{shown(value)} has a fragment: remove it")
    return value


def _collector_url(value: str) -> str:
    if not _URL.fullmatch(value) or not _has_host(value) or set("?#@") & set(value):
        raise ValueError(f"{shown(value)} is not a base URL: write one such as http://collector:4318, without a query")
    return value


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value) or not _has_host(value):
        raise ValueError(f"{shown(value)} is not an origin: write https://host, or https://host:port, without a path")
    return value


def _resource(value: str) -> str:
    """An identifier of RFC 9728 section 1.2, with a path that no two readers can read differently."""
    if not https_or_loopback(_url(value)):
        raise ValueError(f"{shown(value)} is plain http: a resource identifier is an https URL")
    if "?" in value:
        raise ValueError(f"{shown(value)} has a query, which does not distinguish requests: remove it")
    if not normalize_host(urlsplit(value).netloc):  # empty for the Host header of such a request, too
        raise ValueError(f"{shown(value)} has a host that no request can have: write a host name or an address")
    if (pattern := _PATTERN_CHARACTER.search(value)) is not None:
        raise ValueError(
            f"{shown(value)} has {pattern[0]} in its path, where nothing stands for other characters: write the one "
            "address that clients use; requests under it belong to it as well"
        )
    try:
        split(urlsplit(value).path or "/")
    except Rejected as rejected:
        raise ValueError(f"{shown(value)} has a path that no request can have: {rejected.cause}") from None
    return value


def _proxy(value: str) -> str:
    if value in {"environment", "none"}:
        return value
    if "@" in value:
        raise ValueError(
            "must be a URL without user and password: put them into HTTPS_PROXY and HTTP_PROXY, and write environment"
        )
    if not _PROXY_URL.fullmatch(value) or not _has_host(value):
        raise ValueError(f"{shown(value)} is not a proxy: write environment, none, or a URL such as http://proxy:3128")
    return value.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # unclosed brackets, a port that is not a number
        return False


def _issuer(value: str) -> str:
    """A URL, a template of one, or an identifier that is not a URL, which needs a source of keys besides discovery."""
    template = parse_issuer_template(value)
    url = value if template is None else template.filled("x")
    if not is_url(value) and _OTHER_ISSUER.fullmatch(value):
        return value
    if "?" in _url(url):
        raise ValueError("must be a URL without a query (RFC 8414 section 2)")
    return value


def is_url(issuer: str) -> bool:
    """Whether an issuer is meant as a URL."""
    return issuer.lower().startswith(("https:", "http:"))


def is_name(value: str) -> bool:
    """Whether a rule can name it."""
    return _NAME.fullmatch(value) is not None


def _audience(value: str) -> str:
    if any(mark in _printable(value) for mark in "{}*"):
        raise ValueError(f"{shown(value)} has a brace or a *, which an audience cannot have: write it as in the token")
    return value


def _tenants(value: object) -> object:
    """``any`` is an empty tuple; a list must not be empty."""
    if value == "any":
        return ()
    if value == []:
        raise ValueError("is empty, so no token would do: write any, or a list of tenants")
    if isinstance(value, str):
        text = f"must be any or a list, not the string {shown(value)}: write {as_list(value, is_tenant)}"
        raise ValueError(text)  # noqa: TRY004 - pydantic reports ValueError only
    return value


def is_tenant(value: str) -> bool:
    """Whether it can be the value of a template's ``{name}``."""
    return TENANT.fullmatch(value) is not None


def _tenant(value: str) -> str:
    if not is_tenant(value):
        raise ValueError(
            f"{shown(value)} is not a tenant: write up to 128 letters, digits and . _ ~ -, with a letter or digit first"
        )
    return value


def _grpc_address(value: str, info: ValidationInfo) -> str:
    if value.startswith("unix:"):
        return f"unix:{_socket_path(value.removeprefix('unix:'), info.context)}"
    _require_address(value, "127.0.0.1:9191, [::1]:9191, or unix:/path/to.sock")
    return value


def _socket_path(value: str, folder: Path | None) -> Path:
    if not value or "\0" in value:
        raise ValueError("must name a path: write unix:/path/to.sock")
    path = Path(folder or "", value)
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"the socket's path is longer than {_MAX_SOCKET_PATH} bytes: choose a shorter one")
    if folder is not None and not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises if access is denied
        raise ValueError(f"the socket's folder {_shown_path(path.parent)} does not exist: create it first")
    return path


def _tcp_address(value: str) -> str:
    _require_address(value, "127.0.0.1:9192, or [::1]:9192")
    return value


def _require_address(value: str, examples: str) -> None:
    try:
        host_port(value)
    except ValueError as error:
        raise ValueError(f"{error}, such as {examples}") from None


def host_port(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: when it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})", address)
    if not match or int(match[3]) > _MAX_PORT or (match[1] and not _is_v6(match[1])):
        raise ValueError(f"{shown(address)} is not an address: write host:port")
    return match[1] or match[2], int(match[3])


def https_or_loopback(url: str) -> bool:
    """Whether traffic to a URL is protected by TLS or does not leave the machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _file(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    if info.context is None:
        return Path(value)
    file = Path(info.context, value)
    _require_readable(file)
    return file


def _own_file(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    file = Path(info.context or "", value)
    if info.context is not None and not os.path.isdir(file.parent):  # noqa: PTH112 - as for the socket
        raise ValueError(f"the file's folder {_shown_path(file.parent)} does not exist: create it first")
    if info.context is not None and os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113
        raise ValueError(f"{_shown_path(file)} exists and is not a regular file: write the path of a file")
    return file


def _reader_socket(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a unix socket")
    return _socket_path(value, info.context)


def _require_readable(file: Path) -> None:
    try:
        with open_regular(file):
            pass
    except OSError as error:
        raise ValueError(f"{_shown_path(file)} cannot be read: {error.strerror}") from None


def _not_null(value: object) -> object:
    if value is None:
        raise ValueError(EMPTY)
    return value


class _NeverNull:
    """Marks a key that may be left out but not set to null."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_not_null, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        written = [branch for branch in handler(schema)["anyOf"] if branch != {"type": "null"}]
        return dict(written[0]) if len(written) == 1 else {"anyOf": written}


@dataclass(frozen=True, slots=True)
class _ParsedWith:
    """Marks a value that is written as a string and stored parsed. Its JSON Schema is that of the string."""

    parse: Callable[[str], object]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self.parse,
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(when_used="always"),
        )


Item = TypeVar("Item")
# A YAML list, stored as a tuple, so that settings are deeply frozen.
Many = Annotated[tuple[Item, ...], Strict(strict=False)]
Some = Annotated[tuple[Item, ...], Strict(strict=False), Field(min_length=1)]
# None means that the key is left out; it cannot be written. The default is not validated.
OrAbsent = Annotated[Item | None, _NeverNull(), Field(validate_default=False)]

Name = Annotated[StrictStr, AfterValidator(_name)]
Printable = Annotated[StrictStr, AfterValidator(_printable)]
Scope = Annotated[StrictStr, AfterValidator(_required_scope)]
PlainScope = Annotated[StrictStr, AfterValidator(_plain_scope)]
Method = Annotated[StrictStr, AfterValidator(_method)]
Algorithm = Annotated[
    Literal[
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
        "EdDSA", "Ed25519", "Ed448", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87",
    ],
    AfterValidator(_supported),
    BeforeValidator(_asymmetric),
]  # fmt: skip
TokenType = Annotated[StrictStr, AfterValidator(_token_type)]
AcrValue = Annotated[
    StrictStr, AfterValidator(_acr_value)
]  # acr_values is a list separated by spaces, in a quoted-string (RFC 9470 section 3)
HttpHeader = Annotated[StrictStr, AfterValidator(_http_header)]
MetadataName = Annotated[StrictStr, AfterValidator(_metadata_name)]
CredentialHeaderName = Annotated[StrictStr, AfterValidator(_credential_header)]
Scheme = Annotated[StrictStr, AfterValidator(_scheme)]
McpPattern = Annotated[StrictStr, AfterValidator(_mcp_pattern)]
HeaderValue = Annotated[StrictStr, AfterValidator(_header_value)]
ClaimPathField = Annotated[ClaimPath, _ParsedWith(parse_claim_path)]
RequiredClaimPath = Annotated[ClaimPathField, AfterValidator(_required_claim_path)]
ComparedHeader = Annotated[StrictStr, AfterValidator(_compared_header)]
Affix = Annotated[StrictStr, AfterValidator(_affix)]
CaptureName = Annotated[StrictStr, AfterValidator(_capture_name)]
Scalar = Annotated[str | int | float | bool, PlainValidator(_scalar, json_schema_input_type=str | int | float | bool)]
UpstreamHeader = Annotated[StrictStr, AfterValidator(_upstream_header)]
HostPatternField = Annotated[HostPattern, _ParsedWith(parse_host_pattern)]
PathPatternField = Annotated[PathPattern, _ParsedWith(parse_path_pattern)]
Url = Annotated[StrictStr, AfterValidator(_url)]
CollectorUrl = Annotated[StrictStr, AfterValidator(_collector_url)]
ProviderHeaders = Annotated[
    dict[
        Annotated[StrictStr, AfterValidator(_provider_header)],
        Annotated[StrictStr, AfterValidator(_provider_header_value)],
    ],
    BeforeValidator(_provider_headers),
]
Origin = Annotated[StrictStr, AfterValidator(_origin)]
ResourceId = Annotated[StrictStr, AfterValidator(_resource)]
ProxySetting = Annotated[StrictStr, AfterValidator(_proxy)]
IssuerId = Annotated[StrictStr, AfterValidator(_issuer)]
Audience = Annotated[StrictStr, AfterValidator(_audience)]
_Tenant = Annotated[StrictStr, AfterValidator(_tenant)]
Tenants = Annotated[Many[_Tenant], BeforeValidator(_tenants, json_schema_input_type=Literal["any"] | Some[_Tenant])]
GrpcAddress = Annotated[StrictStr, AfterValidator(_grpc_address)]
TcpAddress = Annotated[StrictStr, AfterValidator(_tcp_address)]
File = Annotated[Path, BeforeValidator(_file, json_schema_input_type=StrictStr)]
OwnFile = Annotated[Path, BeforeValidator(_own_file, json_schema_input_type=StrictStr)]
ReaderSocket = Annotated[Path, BeforeValidator(_reader_socket, json_schema_input_type=StrictStr)]
RequiredClaims = Annotated[Many[Printable], AfterValidator(_with_exp)]
