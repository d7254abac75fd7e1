"""The types of single values: names, scopes, URLs, patterns.

A value is validated without regard to other keys. The message of a ``ValueError`` says what is wrong and what would be
right, and quotes no more of the value than is needed to find it. Regular expressions are compiled when a value needs
them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from authz_service.config.kinds import Checked, Kind, Many, Members, OneOf, Prepared, Scalar, Text, some
from authz_service.core import ml_dsa
from authz_service.core.claim_path import ClaimPath, parse_claim_path
from authz_service.core.credential import BEARER, DPOP
from authz_service.core.decision import CORRELATION_MEMBERS, METADATA_MEMBERS
from authz_service.core.errors import Rejected, shown
from authz_service.core.issuer_template import TENANT, parse_issuer_template
from authz_service.core.members import SCOPE_TOKEN
from authz_service.core.paths import split
from authz_service.core.patterns import (
    CAPTURE,
    normalize_host,
    parse_host_pattern,
    parse_path_pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}"
_OTHER_ISSUER = r"[A-Za-z0-9][A-Za-z0-9_.~:/@+-]{0,255}"
_URL = r"https?://[!-~]+"
_PROXY_URL = r"https?://[^/?#@\s]+/?"
_ORIGIN = r"https?://[^/?#@\\\x00-\x20\x7f-\U0010ffff]+"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_LISTED = 120  # characters of a string that a message shows as a list
_PATTERN_CHARACTER = "[{}*]"
_CAPTURE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
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
_SECRET = "secret|token|passw|api-?key|credential|signature"
_FIELD_VALUE = r"[!-~](?:[ -~\t]*[!-~])?"
_NEVER_UPSTREAM = frozenset(
    {
        *("host", "authorization", "connection", "content-length", "transfer-encoding"),
        *("te", "trailer", "upgrade", "keep-alive", "proxy-connection"),
    }
)
_NO_CREDENTIAL = _NEVER_UPSTREAM | {"cookie"}
_METADATA_NAME = r"[A-Za-z0-9_.-]{1,128}"
_SCHEME = r"[A-Za-z][A-Za-z0-9_-]*"
_KNOWN_SCHEMES = {scheme.lower(): scheme for scheme in (BEARER, DPOP)}  # written in any case
_MEDIA_TYPE = r"(?ai)(?:application/)?[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"  # RFC 6838 section 4.2
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


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value):
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
    if not re.fullmatch(_TOKEN, value) or "*" in value:
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
    if value in ml_dsa.NAMES and value not in ml_dsa.supported():
        raise ValueError(
            f"{shown(value)} is not supported by the installed cryptography package and its OpenSSL: install a "
            "version with ML-DSA, such as cryptography 50, or remove it"
        )
    return value


def _token_type(value: str) -> str:
    if not re.fullmatch(_MEDIA_TYPE, value):
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
    if not re.fullmatch(_TOKEN, value):
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
    if not re.fullmatch(_METADATA_NAME, value):
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
    if not re.fullmatch(_SCHEME, value):
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


def _required_claim_path(value: str) -> ClaimPath:
    path = parse_claim_path(value)
    if path.names[:2] == ("act", "act"):
        raise ValueError(
            f"{shown(path.text)} leads to a prior actor, and only the outermost one may decide (RFC 8693 section 4.1): "
            "write act.sub for the current actor, or remove it"
        )
    return path


def _provider_header(value: str) -> str:
    name = _header_name(value, example="x-tenant")
    if name in _NEVER_SENT or name.startswith(("if-", "content-", "sec-")):
        raise ValueError(f"{shown(value)} cannot be set here: {_NEVER_SENT.get(name, _FRAMING)}")
    if re.search(_SECRET, name):
        raise ValueError(f"{shown(value)} looks like a secret, and those are read from files only")
    return name


def _provider_header_value(value: str) -> str:
    if not re.fullmatch(_FIELD_VALUE, value):
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
    if not re.fullmatch(_CAPTURE_NAME, value):
        raise ValueError(f"{shown(value)} is not the name of a capture: write tenant for the {{tenant}} of the path")
    return value


def _url(value: str) -> str:
    if "@" in value.partition("//")[2].partition("/")[0]:
        raise ValueError("must be a URL without user and password")
    if not re.fullmatch(_URL, value) or not _has_host(value):
        raise ValueError(f"{shown(value)} is not a URL: write https://host/path, or http for a host on this machine")
    if "#" in value:
        raise ValueError(f"{shown(value)} has a fragment: remove it")
    return value


def _collector_url(value: str) -> str:
    if not re.fullmatch(_URL, value) or not _has_host(value) or set("?#@") & set(value):
        raise ValueError(f"{shown(value)} is not a base URL: write one such as http://collector:4318, without a query")
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(_ORIGIN, value) or not _has_host(value):
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
    if (pattern := re.search(_PATTERN_CHARACTER, value)) is not None:
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
    if not re.fullmatch(_PROXY_URL, value) or not _has_host(value):
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
    if not is_url(value) and re.fullmatch(_OTHER_ISSUER, value):
        return value
    if "?" in _url(url):
        raise ValueError("must be a URL without a query (RFC 8414 section 2)")
    return value


def is_url(issuer: str) -> bool:
    """Whether an issuer is meant as a URL."""
    return issuer.lower().startswith(("https:", "http:"))


def is_name(value: str) -> bool:
    """Whether a rule can name it."""
    return re.fullmatch(_NAME, value) is not None


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
        raise ValueError(f"must be any or a list, not the string {shown(value)}: write {as_list(value, is_tenant)}")  # noqa: TRY004 - as kinds raise
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


def https_or_loopback(url: str) -> bool:
    """Whether traffic to a URL is protected by TLS or does not leave the machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519", "Ed448", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87",
]  # fmt: skip

STRING = Text(str)
NAME = Text(_name)
PRINTABLE = Text(_printable)
SCOPE = Text(_required_scope)
PLAIN_SCOPE = Text(_plain_scope)
METHOD = Text(_method)
ALGORITHM: Kind[str] = Checked(Prepared(OneOf(Algorithm), _asymmetric), _supported)
TOKEN_TYPE = Text(_token_type)
ACR_VALUE = Text(_acr_value)  # acr_values is a list separated by spaces, in a quoted-string (RFC 9470 section 3)
HTTP_HEADER = Text(_http_header)
METADATA_NAME = Text(_metadata_name)
CREDENTIAL_HEADER = Text(_credential_header)
SCHEME = Text(_scheme)
MCP_PATTERN = Text(_mcp_pattern)
HEADER_VALUE = Text(_header_value)
CLAIM_PATH = Text(parse_claim_path)
REQUIRED_CLAIM_PATH = Text(_required_claim_path)
COMPARED_HEADER = Text(_compared_header)
AFFIX = Text(_affix)
CAPTURE_NAME = Text(_capture_name)
UPSTREAM_HEADER = Text(_upstream_header)
HOST_PATTERN = Text(parse_host_pattern)
PATH_PATTERN = Text(parse_path_pattern)
URL = Text(_url)
COLLECTOR_URL = Text(_collector_url)
PROVIDER_HEADERS = Members(Text(_provider_header), Text(_provider_header_value))
ORIGIN = Text(_origin)
RESOURCE_ID = Text(_resource)
PROXY = Text(_proxy)
ISSUER_ID = Text(_issuer)
AUDIENCE = Text(_audience)
_TENANT = Text(_tenant)
TENANTS = Prepared(Many(_TENANT), _tenants, written=(OneOf(Literal["any"]), some(_TENANT)))
REQUIRED_CLAIMS = Checked(Many(PRINTABLE), _with_exp)
SCALAR = Scalar()
