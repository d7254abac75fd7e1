"""Distinguishing access tokens from the other tokens that an issuer signs with the same keys.

An ID token tells an application who logged in. An API that accepts one lets every application act for its users. No
single place has the kind of a token: most providers write ``typ: JWT`` in both kinds. So each marker of another kind
is enough to reject a token. No I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.core.errors import Rejected, quoted
from authz_service.core.members import optional_str
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.config.model import Issuer

_AT_JWT = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068 section 2.1
_ID = frozenset({"id", "id_token"})
_REFRESH = frozenset({"refresh", "refresh_token"})
# Keycloak, Cognito, djangorestframework-simplejwt, Flask-JWT-Extended.
_KIND_CLAIMS = ("typ", "token_use", "token_type", "type")
# The typ claim of Keycloak's other tokens.
_OTHER_KINDS = frozenset(
    {"refresh", "offline", "logout", "serialized-id", "registrationaccesstoken", "initialaccesstoken"}
)


def require_access_token(issuer: Issuer, header: Mapping[str, Any] | None, raw: Mapping[str, Any]) -> None:
    """Reject tokens that are not access tokens. ``header`` is None for an opaque token, which has none.

    Raises:
        Rejected: ``wrong_token_type`` or ``id_token``; ``invalid_claim`` if a claim for the kind is not a string.
    """
    is_at_jwt = header is not None and _require_type(issuer, header)
    other_kind = "events" in raw
    for name in _KIND_CLAIMS:
        if name not in raw:
            continue
        kind = _kind(raw, name)
        if kind in _ID:
            raise Rejected(Reason.ID_TOKEN, f"claim {name} marks an ID token, expected an access token")
        if kind in _REFRESH:
            raise Rejected(Reason.WRONG_TOKEN_TYPE, f"claim {name} marks a refresh token, expected an access token")
        other_kind |= name == "typ" and kind in _OTHER_KINDS
    if other_kind:
        cause = "claim typ or events marks a refresh or logout token, expected an access token"
        raise Rejected(Reason.WRONG_TOKEN_TYPE, cause)
    for marker in issuer.id_token_markers:
        if marker in raw:
            cause = f"claim {marker} is present, which marks an ID token (id_token_markers)"
            raise Rejected(Reason.ID_TOKEN, cause)
    if not (is_at_jwt or issuer.allow_client_audience) and _is_for_the_client_alone(raw):
        cause = "aud is the client itself, which marks an ID token (allow_client_audience)"
        raise Rejected(Reason.ID_TOKEN, cause)


def _kind(raw: Mapping[str, Any], name: str) -> str:
    """A claim's value in lower case.

    ``type`` is not a claim of OAuth: Flask-JWT-Extended uses it for the kind, and others for anything of any type.
    """
    if name == "type" and not isinstance(raw.get(name), str):
        return ""
    return optional_str(raw, name).lower()


def _require_type(issuer: Issuer, header: Mapping[str, Any]) -> bool:
    """Whether the header's ``typ`` is that of an access token (RFC 9068)."""
    typ = header.get("typ", "JWT")
    kind = typ.lower() if isinstance(typ, str) else ""
    is_at_jwt = kind in _AT_JWT
    is_profile = issuer.access_token_profile == "rfc9068"
    if kind not in issuer.accepted_types or (is_profile and not is_at_jwt):
        expected = "at+jwt" if is_profile else " or ".join(issuer.token_types)
        raise Rejected(Reason.WRONG_TOKEN_TYPE, f"typ in the header is {quoted(typ)}, expected {expected}")
    return is_at_jwt


def _is_for_the_client_alone(raw: Mapping[str, Any]) -> bool:
    audience = raw.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    clients = [each for each in (raw.get("azp"), raw.get("client_id")) if each]
    return bool(audience) and not [each for each in audiences if each not in clients]
