"""What a block of YAML in a page is, by its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from authz_service.config.model import Issuer, Match, Require, RuleSettings, Settings
from generate import CHART
from support import manifests

if TYPE_CHECKING:
    from authz_service.config.sections import Section

_CONFIGURATION: Final = frozenset(Settings.declared)
_VALUES: Final = frozenset(yaml.safe_load((CHART / "values.yaml").read_text()))


def _keys(section: type[Section]) -> frozenset[str]:
    return frozenset(section.declared)


# The parts of a configuration, and of Envoy's. A block is the first whose keys it has.
CONFIGURATION_PARTS: Final[dict[str, frozenset[str]]] = {
    "settings": _CONFIGURATION,
    "issuer": _keys(Issuer),
    "rule": _keys(RuleSettings),
    "requirement": _keys(Require),
    "match": _keys(Match),
}
_MANAGER: Final = """
    access_log common_http_protocol_options forward_client_cert_details http2_protocol_options http_filters
    generate_request_id local_reply_config merge_slashes normalize_path path_with_escaped_slashes_action
    request_headers_timeout route_config set_current_client_cert_details stream_idle_timeout strip_any_host_port
    tracing upgrade_configs use_remote_address xff_num_trusted_hops
"""
_ENVOY_PARTS: Final[dict[str, frozenset[str]]] = {
    "resources": frozenset({"clusters"}),
    "manager": frozenset(_MANAGER.split()),
    "host": frozenset({"routes", "virtual_hosts"}),
    "route": frozenset({"typed_per_filter_config", "match", "route", "direct_response", "rate_limits"}),
}
_WHOLES: Final = {
    "static_resources": "bootstrap",
    "cases": "cases",
    "meshConfig": "mesh",
    "staticClients": "provider",  # of Dex
    "jobs": "provider",  # of GitHub
    "scrape_configs": "prometheus",
    "authz-service": "parent",  # the values of a chart that depends on ours
    "dependencies": "parent",  # such a chart itself
}


def kind_of(text: str) -> str:
    """What it is.

    Raises:
        AssertionError: when it is nothing known: give it the keys of something known, or add its kind and a proof.
    """
    documents: list[Any] = manifests.documents(text)
    if all("apiVersion" in each and "kind" in each for each in documents):
        return "objects"
    (document,) = documents
    if isinstance(document, list):
        keys = frozenset(document[0])
        kind = _kind_of_items(document[0], keys)
    else:
        keys = frozenset(document)
        kind = _kind_of_members(document, keys)
    assert kind, f"no kind of block has these keys: {', '.join(sorted(keys))}; see tests/support/block_kinds.py"
    return kind


def _kind_of_members(document: dict[str, Any], keys: frozenset[str]) -> str:
    for key in _WHOLES.keys() & keys:
        return _WHOLES[key]
    if keys == {"revocations"}:
        return "revocations"
    if all(isinstance(each, dict) and "script" in each for each in document.values()):
        return "provider"  # jobs of GitLab
    if "shape" in keys or (keys <= _VALUES and not (keys <= _CONFIGURATION and isinstance(document[min(keys)], list))):
        return "values"
    if {"issuers", "rules"} <= keys <= _CONFIGURATION:
        return "configuration"
    parts = CONFIGURATION_PARTS | _ENVOY_PARTS
    return next((place for place, known in parts.items() if keys <= known), "")


def _kind_of_items(first: dict[str, Any], keys: frozenset[str]) -> str:
    if str(first.get("name", "")).startswith("envoy.filters.http."):
        return "filters"
    if {"connect_timeout", "load_assignment"} & keys:
        return "clusters"
    if "issuer" in keys:
        return "issuers"
    if keys <= CONFIGURATION_PARTS["rule"] and "route" not in keys:
        return "rules"
    return "routes" if keys <= _ENVOY_PARTS["route"] else ""
