"""The claims of a token as the tests of security events need them."""

from __future__ import annotations

from authz_service.core.claims import Claims
from support.trust import ISSUER


def claims_of(subject: str, issued_at: float) -> Claims:
    """The claims of a user's token that was issued at this time."""
    return Claims(
        issuer="main",
        subject=subject,
        client_id="app",
        audiences=frozenset(),
        scopes=frozenset(),
        scope="",
        raw={"iss": ISSUER, "iat": issued_at},
    )
