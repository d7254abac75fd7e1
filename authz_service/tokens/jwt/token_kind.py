"""Telling an access token from the other tokens that an issuer signs with the same keys.

Law: pure. An ID token tells an application who logged in; it says nothing about what may be done at an API, and an API
that accepts it lets every application act for its users. What kind of token it is cannot be read off one place:
``typ`` is ``JWT`` on both kinds at most providers. So each mark of another kind is enough to refuse.
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
_ACCEPTED_TYPES = _AT_JWT | {"jwt"}
_ID = frozenset({"id", "id_token"})
_REFRESH = frozenset({"refresh", "refresh_token"})
# Keycloak, Cognito, djangorestframework-simplejwt, Flask-JWT-Extended.
_KIND_CLAIMS = ("typ", "token_use", "token_type", "type")
# The typ claim of Keycloak's other tokens.
_OTHER_KINDS = frozenset(
    {"refresh", "offline", "logout", "serialized-id", "registrationaccesstoken", "initialaccesstoken"}
)


def require_access_token(issuer: Issuer, header: Mapping[str, Any] | None, members: Mapping[str, Any]) -> None:
    """Refuse what is not an access token. ``header`` is None for one that has none, since it is opaque.

    Raises:
        Rejected: ``wrong_token_type`` or ``id_token``; ``invalid_claim`` where a claim that tells the kind is no text.
    """
    is_at_jwt = header is not None and _require_type(issuer, header)
    kinds = {name: _kind(members, name) for name in _KIND_CLAIMS}
    for name, kind in kinds.items():
        if kind in _ID:
            raise Rejected(Reason.ID_TOKEN, f"claim {name} says that it is an ID token")
        if kind in _REFRESH:
            raise Rejected(Reason.WRONG_TOKEN_TYPE, f"claim {name} says that it is a refresh token")
    if kinds["typ"] in _OTHER_KINDS or "events" in members:
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "claim typ or events says that it is a refresh or logout token")
    for marker in issuer.id_token_markers:
        if marker in members:
            raise Rejected(Reason.ID_TOKEN, f"it has the claim {marker}")
    if not (is_at_jwt or issuer.allow_client_audience) and _is_for_the_client_alone(members):
        raise Rejected(Reason.ID_TOKEN, "its only audience is the client itself")


def _kind(members: Mapping[str, Any], name: str) -> str:
    """What a claim says of the token's kind; empty where it says nothing.

    ``type`` is no claim of OAuth's: only Flask-JWT-Extended tells the kind in it, and others may mean anything by it.
    """
    if name == "type" and not isinstance(members.get(name), str):
        return ""
    return optional_str(members, name).lower()


def _require_type(issuer: Issuer, header: Mapping[str, Any]) -> bool:
    """Whether the header's type says that it is an access token (RFC 9068)."""
    typ = header.get("typ", "JWT")
    kind = typ.lower() if isinstance(typ, str) else ""
    if kind not in (_AT_JWT if issuer.access_token_profile == "rfc9068" else _ACCEPTED_TYPES):
        raise Rejected(Reason.WRONG_TOKEN_TYPE, f"typ in the header is {quoted(typ)}")
    return kind in _AT_JWT


def _is_for_the_client_alone(members: Mapping[str, Any]) -> bool:
    audience = members.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    clients = [members[name] for name in ("azp", "client_id") if members.get(name)]
    return bool(audience) and all(each in clients for each in audiences)
