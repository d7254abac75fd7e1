"""The settings of a file that may have problems, for the checks between several keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from authz_service.config.kinds import Where
    from authz_service.config.model import DpopSettings, Issuer, Logging, ResourceSettings, RuleSettings
    from authz_service.config.server import Server


class Draft(NamedTuple):
    """The part of the settings that could be read. Issuers, rules and resources are keyed by their index."""

    server: Server | None
    issuers: Mapping[int, Issuer]
    rules: Mapping[int, RuleSettings]
    headers: Collection[str]  # the names in upstream.headers, as written
    scope_implies: Mapping[str, Sequence[str]]
    dpop: DpopSettings | None
    resources: Mapping[int, ResourceSettings]
    logging: Logging | None
    unread: frozenset[Where]  # keys in the file that could not be read; the draft has their defaults
    around_unread: frozenset[Where]  # every place that has one of them in it

    def has(self, *places: Where) -> bool:
        """Whether all of these keys could be read, with everything in and around them."""
        return not any(
            place in self.around_unread or any(place[:length] in self.unread for length in range(len(place) + 1))
            for place in places
        )


def around(places: Iterable[Where]) -> frozenset[Where]:
    """Every place that has one of these in it."""
    return frozenset(place[:length] for place in places for length in range(len(place)))
