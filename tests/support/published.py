"""What an issuer publishes about itself, as ``init`` reads it."""

from __future__ import annotations

from typing import Final

from authz_service.initial_config.published import Published

EVERYTHING: Final = Published(
    issuer="https://idp.example.com/",
    jwks_uri="https://idp.example.com/jwks",
    algorithms=("RS256", "ES256"),
    scopes=("openid", "read:orders", "write:orders"),
    auth_method="client_secret_basic",
    dpop_algorithms=("ES256", "EdDSA"),
    binds_to_certificates=True,
    polls_events=True,
    problem="",
)
