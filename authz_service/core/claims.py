"""The validated claims of one access token.

Law: a frozen value. It exists only once the signature was verified and the claims were validated against the issuer's
settings; whether they suffice for a request is the rule's question, asked anew for each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from authz_service.core.bounded import Account
from authz_service.core.footprint import footprint

if TYPE_CHECKING:
    from collections.abc import Mapping


# Bytes of the objects themselves, where a value in them has none of its own to count: the claims, their account, what
# keeps them in a cache, and their places in its dictionaries, which are up to two thirds empty.
_OVERHEAD = 512


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says, in the words of the configuration."""

    issuer: str  # the issuer's name in the configuration, not its URL
    subject: str  # "" where the token names none
    client_id: str  # the first client claim present; "" where the token names none
    audiences: frozenset[str]
    scopes: frozenset[str]
    scope: str  # the scopes as one text: sorted, separated by spaces
    members: Mapping[str, Any]  # every claim as it stands in the token
    # What else is made of them, by what it is made for: so it is made once for a token that is seen again.
    remembered: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    account: Account = field(default_factory=Account, compare=False, repr=False)  # of what is remembered

    def footprint(self) -> int:
        """Bytes that they take in a cache, without what is remembered."""
        values = (self.subject, self.client_id, self.audiences, self.scopes, self.scope, self.members)
        return _OVERHEAD + footprint(values)
