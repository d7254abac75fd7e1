"""Where protected resources are, and which rules and issuers serve them (RFC 9728).

Pure. ``rules.resources`` compiles the same for requests.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from authz_service.config.values import is_url
from authz_service.core.paths import split
from authz_service.core.patterns import CAPTURE, PathPattern, common, covering, normalize_host, overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz_service.config.model import Issuer, Match, ResourceSettings, RuleSettings

WELL_KNOWN = (".well-known", "oauth-protected-resource")  # segments; RFC 9728 section 3


class ResourceLocation(NamedTuple):
    """Where a resource is, and where its metadata is."""

    host: str  # in lower case, without port
    segments: tuple[str, ...]  # of its path, decoded; a slash at the end does not count
    metadata_path: tuple[str, ...]
    metadata_url: str

    @classmethod
    def of(cls, resource: str) -> ResourceLocation:
        """The location of the resource with this identifier."""
        parts = urlsplit(resource)
        path = parts.path if parts.path != "/" else ""  # RFC 9728 section 3.1
        segments = split(path) if path else ()
        return cls(
            normalize_host(parts.netloc),
            segments[:-1] if segments and not segments[-1] else segments,
            WELL_KNOWN + segments,
            f"{parts.scheme}://{parts.netloc}/{'/'.join(WELL_KNOWN)}{path}",
        )

    def contains(self, path: Sequence[str]) -> bool:
        """Whether a path is at or under the resource's."""
        return tuple(path[: len(self.segments)]) == self.segments

    def is_above(self, other: ResourceLocation) -> bool:
        """Whether the other resource is under this one's path. Requests to it belong to it alone."""
        return self.host == other.host and self.segments != other.segments and self.contains(other.segments)

    @property
    def everything(self) -> PathPattern:
        """The paths at and under the resource's."""
        return PathPattern("", self.segments, is_prefix=True, captures={}, has_suffixes=False)

    @property
    def itself(self) -> PathPattern:
        """The resource's own path."""
        return PathPattern("", self.segments or ("",), is_prefix=False, captures={}, has_suffixes=False)

    def may_serve(self, match: Match, under: Sequence[PathPattern]) -> bool:
        """Whether some request to the resource matches a rule's host and path; those ``under`` it are another's."""
        if match.hosts is not None and not any(host.matches(self.host) for host in match.hosts):
            return False
        own = self.everything
        shared = (common(own, pattern) for pattern in match.path_patterns if overlap(own, pattern))
        return any(covering(each, under) is None for each in shared)


def listed_issuers(resource: ResourceSettings, issuers: Sequence[Issuer]) -> list[Issuer]:
    """The issuers that the metadata of a resource lists: those that have one URL as their identifier."""
    named = [issuer for issuer in issuers if resource.issuers is None or issuer.label in resource.issuers]
    return [issuer for issuer in named if can_be_listed(issuer)]


def can_be_listed(issuer: Issuer) -> bool:
    """Whether the issuer has one URL as its identifier."""
    return issuer.template is None and is_url(issuer.issuer)


def nested(location: ResourceLocation, locations: Iterable[ResourceLocation]) -> list[PathPattern]:
    """The paths under a resource's that belong to others of these resources."""
    return [other.everything for other in locations if location.is_above(other)]


def serving(
    location: ResourceLocation, under: Sequence[PathPattern], rules: Sequence[RuleSettings]
) -> list[RuleSettings]:
    """The rules by which requests to a resource need a token; those ``under`` its path belong to another.

    Rules that a route names have no host and path.
    """
    return [
        rule
        for rule in rules
        if rule.policy is None and rule.access != "public" and location.may_serve(rule.match, under)
    ]


def scopes_of(rules: Sequence[RuleSettings]) -> Iterator[str]:
    """Every scope that these rules require, once each. One that has a capture of the path is not one scope."""
    parts = itertools.chain.from_iterable(rule.require.parts() for rule in rules)
    named = (scope for part in parts for scope in (*part.scopes.all, *part.scopes.any))
    return (scope for scope in dict.fromkeys(named) if not CAPTURE.search(scope))
