"""Querying the introspection servers that are responsible for one token.

Owns their order and what follows from their results. Synchronous but for ``NeedIntrospection.ready``, which waits and
decides nothing.

Invariants:
- Servers are queried one after the other, in file order, up to the first active response.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection.response import IntrospectionResponse, IntrospectionResult, conclude

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.claims import Claims, Identity, ValidatedToken
    from authz_service.tokens.attempt import Attempt
    from authz_service.tokens.introspection.introspector import IntrospectionRequest, Introspector

_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1


@dataclass(slots=True)
class NeedIntrospection:
    """The token cannot be validated before these servers were queried."""

    token: str = field(repr=False)
    digest: bytes
    servers: Sequence[Introspector]
    verified: Claims | None = None  # the claims of a JWT whose signature was verified
    joined: IntrospectionRequest | None = field(init=False, compare=False, repr=False)  # in flight at the first server
    results: list[IntrospectionResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        # ``ready`` runs in a later turn of the loop. A request that ends before then must not be sent again.
        self.joined = self.servers[0].request_for(self.digest)

    @property
    def what(self) -> str:
        """What is being waited for, for the log."""
        return f"introspection at {self.issuer}"

    @property
    def issuer(self) -> str:
        """The name of the issuer whose server is queried now, or was last."""
        return self.servers[min(len(self.results), len(self.servers) - 1)].issuer.label

    @property
    def identity(self) -> Identity | None:
        """The identity of the token, if its signature was verified."""
        return None if self.verified is None else self.verified.identity

    async def ready(self) -> None:
        """Query the servers up to the first active response. Never raises for a failed request."""
        joined = self.joined
        for server in self.servers:
            result = server.cached(self.digest, server.clock()) or await server.introspect(
                self.token, self.digest, self.verified, joined
            )
            joined = None
            self.results.append(result)
            if isinstance(result, IntrospectionResponse) and result.active:
                return


def query(
    token: str,
    digest: bytes,
    servers: Sequence[Introspector],
    now: float,
    attempt: Attempt,
    verified: Claims | None = None,
) -> ValidatedToken | NeedIntrospection:
    """A token that is active at one of these servers.

    ``verified`` are the claims of a JWT whose signature was verified, None for an opaque token.

    Raises:
        Rejected: if it is active at none, cannot be queried anymore, or has characters that no token has.
    """
    if attempt.results:
        return conclude(attempt.results)
    missing: list[Introspector] = []
    inactive: list[IntrospectionResponse] = []
    for server in servers:
        response = server.cached(digest, now)
        if response is None:
            missing.append(server)
        elif response.active:
            return response.token()
        else:
            inactive.append(response)
    if not missing:
        return conclude(inactive)
    if not _B64TOKEN.fullmatch(token):
        raise Rejected(Reason.MALFORMED_TOKEN, "neither a JWT nor a token of the characters of RFC 6750 section 2.1")
    if not attempt.introspect:
        raise Rejected(Reason.INTROSPECTION_UNAVAILABLE, "no introspection server was queried", retry_after=1)
    return NeedIntrospection(token, digest, missing, verified)
