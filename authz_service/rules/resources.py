"""Protected resources: which one a request belongs to, and the metadata that clients discover it by (RFC 9728).

Pure; compiled once from the settings. Nothing is derived from the request: a host that is not configured has no
resource, whatever its Host header says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from authz_service.config.resources import WELL_KNOWN, ResourceLocation, listed_issuers, nested, scopes_of, serving
from authz_service.core.decision import Answer
from authz_service.core.paths import SlashedPath
from authz_service.core.patterns import normalize_host
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz_service.config import model
    from authz_service.core.attributes import Attributes

_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Any website may read the metadata: its users' browsers run clients. The preflight covers the headers that clients add.
_HEADERS = (
    ("content-type", "application/json"),
    ("cache-control", "max-age=3600"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
    ("access-control-allow-headers", "*"),
)


class Resources:
    """All configured resources."""

    def __init__(self, settings: model.Settings) -> None:
        self._by_host: dict[str, list[ResourceLocation]] = {}
        self._metadata: dict[tuple[str, tuple[str, ...]], Answer] = {}
        locations = [ResourceLocation.of(resource.resource) for resource in settings.resources]
        for resource, location in zip(settings.resources, locations, strict=True):
            rules = serving(location, nested(location, locations), settings.rules)
            document = json.dumps(_document(resource, rules, settings))
            answer = Answer(Reason.RESOURCE_METADATA, document, _HEADERS)
            self._by_host.setdefault(location.host, []).append(location)
            self._metadata[location.host, location.metadata_path] = answer
        for locations in self._by_host.values():
            locations.sort(key=lambda location: len(location.segments), reverse=True)

    def __bool__(self) -> bool:
        return bool(self._by_host)

    def answer(self, attributes: Attributes, path: Sequence[str]) -> Answer | None:
        """The metadata, if the request is for that of a configured resource. ``path`` are the decoded segments."""
        if tuple(path[:2]) != WELL_KNOWN or attributes.method not in _METHODS or isinstance(path, SlashedPath):
            return None
        return self._metadata.get((normalize_host(attributes.host), tuple(path)))

    def metadata_url(self, host: str, path: Sequence[str]) -> str | None:
        """The URL of the metadata of the resource that a request with this host and path belongs to."""
        decoded = path.decoded if isinstance(path, SlashedPath) else path
        for location in self._by_host.get(normalize_host(host), ()):
            if location.contains(decoded):
                return location.metadata_url
        return None


def _document(
    resource: model.ResourceSettings, rules: Sequence[model.RuleSettings], settings: model.Settings
) -> dict[str, Any]:
    """The metadata of a resource that these rules serve (RFC 9728 section 2)."""
    scopes = list(scopes_of(rules)) if resource.scopes is None else list(resource.scopes)
    members: dict[str, Any] = {
        "resource": resource.resource,
        "authorization_servers": [issuer.issuer for issuer in listed_issuers(resource, settings.issuers)],
        "scopes_supported": scopes or None,
        "bearer_methods_supported": ["header"],
        "resource_name": resource.name,
        "resource_documentation": resource.documentation,
    }
    proofs = _required_proofs(rules)
    named = [rule for rule in settings.rules if rule.policy is not None and rule.access != "public"]
    if settings.dpop is not None or "dpop" in proofs:
        members["dpop_signing_alg_values_supported"] = list(settings.dpop_or_default.algorithms)
    if proofs and {*proofs, *_required_proofs(named)} == {"dpop"}:  # a route may select any of these for this path
        members["dpop_bound_access_tokens_required"] = True
    if "mtls" in settings.written or "mtls" in proofs:
        members["tls_client_certificate_bound_access_tokens"] = True
    return {name: value for name, value in members.items() if value is not None}


def _required_proofs(rules: Iterable[model.RuleSettings]) -> list[str | None]:
    """What each way to meet each rule needs to be proven."""
    requires = (rule.require for rule in rules)
    return [
        require.proof if require.proof is not None else part.proof
        for require in requires
        for part in require.any_of or (require,)
    ]
