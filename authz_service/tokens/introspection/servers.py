"""The configured introspection servers, by the issuers that a request's rule accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.tokens.introspection.introspector import Introspector


class Servers:
    """All configured introspection servers, in file order."""

    def __init__(self, introspectors: Sequence[Introspector]) -> None:
        self._all = tuple(introspectors)
        self._by_issuers: dict[frozenset[str], tuple[Introspector, ...]] = {}  # one entry a rule at most
        self._for_jwts = {each.issuer.label: each for each in introspectors if each.settings.mode == "always"}

    def of_issuers(self, issuers: frozenset[str] | None) -> tuple[Introspector, ...]:
        """The servers of the issuers with these names; None is all."""
        if issuers is None or not self._all:
            return self._all
        servers = self._by_issuers.get(issuers)
        if servers is None:
            servers = tuple(each for each in self._all if each.issuer.label in issuers)
            self._by_issuers[issuers] = servers
        return servers

    def for_jwts_of(self, issuer: str) -> Introspector | None:
        """The server that has to confirm verified JWTs of the issuer with this name (``mode: always``)."""
        return self._for_jwts.get(issuer)
