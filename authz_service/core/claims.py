"""The validated claims of one access token.

They exist only once the signature was verified, or the introspection server responded, and they were validated against
the issuer's settings. Whether they suffice is up to each request's rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from sys import getsizeof
from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.footprint import STRING, footprint
from authz_service.core.response_cache import ResponseCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.core.confirmation import Confirmation


# Bytes of the objects whose values are not counted: the token, its claims, its response cache and account, its cache
# entry, and their places in that cache's dictionaries, which are up to two thirds empty.
_OVERHEAD = 512
_PROOF_KEY = 3584  # bytes of the confirmation, and of a parsed key, mostly OpenSSL's


class Identity(NamedTuple):
    """The subject and the client of a verified token, valid or not; "" where it names none."""

    issuer: str  # the issuer's name in the configuration
    subject: str
    client_id: str


class UnverifiedIdentity(NamedTuple):
    """The origin that a token claims whose signature was not verified. For the log only."""

    issuer: object  # the value of ``iss``, which may be anything
    kid: str | None


class Claims(NamedTuple):
    """An access token's claims, by the names of the configuration."""

    issuer: str  # the issuer's name in the configuration, not its URL
    subject: str  # "" if there is none
    client_id: str  # the first client claim present; "" if there is none
    audiences: frozenset[str]
    scopes: frozenset[str]
    scope: str  # the scopes as one string: sorted, separated by spaces
    raw: Mapping[str, Any]  # every claim, as in the token
    confirmation: Confirmation | None = None  # what the sender must prove; None for a bearer token
    kid: str | None = None  # of the key that verified the token

    @property
    def identity(self) -> Identity:
        """The part that identifies whose token it is."""
        return Identity(self.issuer, self.subject, self.client_id)

    def footprint(self) -> int:
        """Bytes in a cache, without the token's responses."""
        # The subject, the client and the audiences are objects in ``raw``; the scopes are in ``scope`` once more.
        sets = getsizeof(self.audiences) + getsizeof(self.scopes)
        scopes = 2 * len(self.scope) + (len(self.scopes) + 1) * STRING
        has_proof_key = self.confirmation is not None and self.confirmation.jkt is not None
        return _OVERHEAD + sets + scopes + footprint(self.raw) + (_PROOF_KEY if has_proof_key else 0)


@dataclass(slots=True)
class ValidatedToken:
    """An access token's claims, and what was prepared for its next request."""

    claims: Claims
    used: bool = field(default=False, compare=False, repr=False)  # for a request that was let through
    proof_key: Any = field(default=None, compare=False, repr=False)  # of the last valid DPoP proof
    responses: ResponseCache = field(default_factory=ResponseCache, compare=False, repr=False)
