"""The validated claims of one access token.

Law: a frozen value. It exists only once the signature was verified and the claims were validated against the issuer's
settings; whether they suffice for a request is the rule's question, asked anew for each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


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
