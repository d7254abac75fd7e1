"""Validating the claims of a token against its issuer's settings.

Covers JWTs whose signature was verified, and introspection responses, which have no header. No I/O. Claims of a wrong
type are rejected, never converted. Audiences are not validated here: a rule may replace the issuer's.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from authz_service.core.claim_path import NotAnObjectError, parse_claim_path
from authz_service.core.claims import Claims, Identity
from authz_service.core.confirmation import IGNORED, confirmation_of
from authz_service.core.errors import Rejected, quoted
from authz_service.core.members import SCOPE_TOKEN, numeric_date, optional_str, optional_str_at, strings
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.token_kind import require_access_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from authz_service.config.model import Issuer
    from authz_service.core.claim_path import ClaimPath
    from authz_service.core.confirmation import Confirmation

    _Header = Mapping[str, Any] | None  # an opaque token has none
    Requirements = tuple[tuple[str, Callable[[Issuer, _Header, Mapping[str, Any], float], None]], ...]

_RFC9068_CLAIMS = ("iss", "exp", "aud", "sub", "client_id", "iat", "jti")  # section 2.2
# Their types by RFC 7519 section 4.1, RFC 8693 section 4.3 and OpenID Connect Core section 2, used by a rule or not.
_STRINGS = ("sub", "jti", "client_id", "azp")
_NUMERIC_DATES = ("exp", "nbf", "iat")
_SUB, _AUD = parse_claim_path("sub"), parse_claim_path("aud")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_MAX_BITS = 64  # of an integer; one that is this short needs no further check
_LONG = 1e9  # seconds; a time that is farther away was hardly meant
_MAX_CACHED = 512  # parsed scopes
_MAX_CACHED_LENGTH = 1024  # characters of one string of them
_MAX_IDENTIFIER = 256  # characters that are kept of a refused token's subject and client


def validate_claims(
    issuer: Issuer,
    header: _Header,
    raw: Mapping[str, Any],
    now: float,
    requirements: Requirements | None = None,
    *,
    kid: str | None = None,
) -> Claims:
    """Validate ``raw``, the claims as in the token. ``header`` is None for an opaque token's introspection response.

    ``kid`` is that of the key that verified the token.

    Raises:
        Rejected: for the first claim that does not meet the issuer's requirements.
    """
    for _, require in requirements or REQUIREMENTS:
        require(issuer, header, raw, now)
    scopes, scope = _scopes(raw, issuer.scope_claims)
    return Claims(
        issuer.label,
        _without_control(raw, _SUB),
        _client_id(issuer, raw),
        frozenset(strings(raw, issuer.audience_claims)),
        scopes,
        scope,
        raw,
        _confirmation(issuer, raw) if "cnf" in raw else None,
        kid,
    )


def requirements_to_repeat(
    issuer: Issuer, header: _Header, raw: Mapping[str, Any], now: float, requirements: Requirements
) -> Requirements:
    """Those that decide whether invalid claims are refused again, and why, at a later time.

    They are the first one that is not met and, before it, the one that depends on the time. None if all are met.
    """
    before: Requirements = ()
    for each in requirements:
        _, require = each
        try:
            require(issuer, header, raw, now)
        except Rejected:
            return (*before, each)
        if require is _require_times:
            before = (each,)
    return ()


def _client_id(issuer: Issuer, raw: Mapping[str, Any]) -> str:
    """The first client claim that is not empty."""
    for path in issuer.client_claims:
        if value := _without_control(raw, path):
            return value
    return ""


def identity_of(issuer: Issuer, raw: Mapping[str, Any]) -> Identity:
    """The identity in verified claims that may be invalid: long strings are shortened, other values are left out."""
    client_id = next(filter(None, (_identifier(raw, path) for path in issuer.client_claims)), "")
    return Identity(issuer.label, _identifier(raw, _SUB), client_id)


def _identifier(raw: Mapping[str, Any], path: ClaimPath) -> str:
    try:
        value = path.find(raw, "")
    except NotAnObjectError:
        return ""
    if not isinstance(value, str) or _CONTROL.search(value):
        return ""
    return value if len(value) <= _MAX_IDENTIFIER else f"{value[:_MAX_IDENTIFIER]}..."


def valid_until(issuer: Issuer, claims: Claims) -> float:
    """When the claims stop being valid, in seconds since the epoch."""
    until: float = claims.raw.get("exp", math.inf) + issuer.leeway
    if issuer.max_token_age is not None:
        until = min(until, claims.raw.get("iat", 0.0) + issuer.max_token_age + issuer.leeway)
    return until


def _require_issuer(issuer: Issuer, _header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    iss, template = raw.get("iss"), issuer.template
    tenant = template.tenant_of(iss) if template is not None and isinstance(iss, str) else None
    if tenant is None and (template is not None or iss != issuer.issuer):
        raise Rejected(Reason.UNKNOWN_ISSUER, f"iss is {quoted(iss)}, expected {quoted(issuer.issuer)}")
    if tenant is not None and raw.get("tid", tenant) != tenant:
        raise Rejected(
            Reason.INVALID_CLAIM, f"claim tid is {quoted(raw['tid'])}, and the tenant of iss {quoted(tenant)}"
        )


def _require_kind(issuer: Issuer, header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    require_access_token(issuer, header, raw)


def _require_types(issuer: Issuer, _header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    for name in _STRINGS:
        if not isinstance(raw.get(name, ""), str):
            optional_str(raw, name)  # raises
    for path in issuer.client_claims:
        if path.names[0] in raw and path.text not in _STRINGS:
            optional_str_at(raw, path)
    for name in _NUMERIC_DATES:
        value = raw.get(name, 0)
        if type(value) is not int or value.bit_length() > _MAX_BITS:
            numeric_date(raw, name, 0.0)  # raises, unless it is a finite number
    strings(raw, (_AUD, *issuer.audience_claims, *issuer.scope_claims))


def _require_claims(issuer: Issuer, header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    of_profile = _RFC9068_CLAIMS if issuer.access_token_profile == "rfc9068" else ()
    names = (*issuer.required_claims, *of_profile)
    if issuer.max_token_age is not None:
        names = (*names, "iat")
    if header is None and issuer.introspection is not None and issuer.introspection.exp == "optional":
        names = tuple(name for name in names if name != "exp")
    _require_present(raw, names)


def _require_exp(_issuer: Issuer, _header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    _require_present(raw, ("exp",))


def _require_present(raw: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if raw.get(name) is None:
            raise Rejected(Reason.MISSING_CLAIM, f"claim {name} is missing")


def _require_times(issuer: Issuer, _header: _Header, raw: Mapping[str, Any], now: float) -> None:
    """Validate by RFC 7519 sections 4.1.4 to 4.1.6; at ``exp`` itself a token is not valid any more.

    The times are numbers: ``_require_types`` comes before.
    """
    exp = raw.get("exp", now)
    if now >= exp + issuer.leeway:
        raise Rejected(Reason.EXPIRED, f"exp has passed, {_seconds(now - exp)} ago (leeway {issuer.leeway:g} s)")
    for name in ("nbf", "iat"):
        time = raw.get(name, now)
        if now < time - issuer.leeway:
            cause = f"{name} is in the future, in {_seconds(time - now)} (leeway {issuer.leeway:g} s)"
            raise Rejected(Reason.NOT_YET_VALID, cause)
    max_age = issuer.max_token_age
    if max_age is not None and now >= raw.get("iat", now) + max_age + issuer.leeway:
        cause = f"iat is longer ago than max_token_age, {max_age:g} s (leeway {issuer.leeway:g} s)"
        raise Rejected(Reason.TOO_OLD, cause)


def _seconds(interval: float) -> str:
    return f"{interval:.0f} s" if interval < _LONG else "years"  # such as milliseconds in place of seconds


def _require_confirmation(issuer: Issuer, _header: _Header, raw: Mapping[str, Any], _now: float) -> None:
    if "cnf" in raw:
        _confirmation(issuer, raw)


# In this order: the kind of a token comes before its times, since an operator learns more from it.
REQUIREMENTS = (
    ("iss", _require_issuer),
    ("kind of token", _require_kind),
    ("required claims", _require_claims),
    ("types of claims", _require_types),
    ("times", _require_times),
    ("confirmation", _require_confirmation),
)
# Those of a verified JWT to which an introspection response may add claims: the others are required of both together.
REQUIREMENTS_BEFORE_INTROSPECTION = tuple(
    (name, _require_exp if require is _require_claims else require) for name, require in REQUIREMENTS
)


def _confirmation(issuer: Issuer, raw: Mapping[str, Any]) -> Confirmation | None:
    return IGNORED if issuer.confirmation == "ignore" else confirmation_of(raw)


def _without_control(raw: Mapping[str, Any], path: ClaimPath) -> str:
    """A claim that goes into headers, metadata and access logs, which a control character could split."""
    value = optional_str_at(raw, path)
    if not value.isprintable() and _CONTROL.search(value):
        raise Rejected(Reason.INVALID_CLAIM, f"claim {path} contains a control character")
    return value


def _scopes(raw: Mapping[str, Any], paths: Iterable[ClaimPath]) -> tuple[frozenset[str], str]:
    """The scopes in several claims of validated types, and as one string."""
    values: list[str | list[str]] = []
    for path in paths:
        names = path.names
        value = raw.get(names[0]) if len(names) == 1 else path.find(raw, None)  # one name, nearly always
        if value:
            values.append(value)
    first = values[0] if len(values) == 1 else None
    if isinstance(first, str) and len(first) <= _MAX_CACHED_LENGTH:
        return _scopes_in_string(first)
    return _parsed_scopes(values)


@lru_cache(_MAX_CACHED)
def _scopes_in_string(value: str) -> tuple[frozenset[str], str]:
    """The scopes of most tokens, which are in one claim. Tokens are many, different strings of scopes few."""
    return _parsed_scopes((value,))


def _parsed_scopes(values: Iterable[str | list[str]]) -> tuple[frozenset[str], str]:
    """The items of lists, and of strings that are split at spaces only.

    What is not a scope-token is omitted: no rule can require it, and one that contains a space would turn into two on
    its way to the upstream.
    """
    items = [item for value in values for item in (value.split(" ") if isinstance(value, str) else value)]
    scopes = frozenset(filter(SCOPE_TOKEN.fullmatch, items))
    return scopes, " ".join(sorted(scopes))
