"""The page of the chart's values, from its values.yaml and its schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import yaml

from docs_tools.yaml_text import flow
from generate import CHART, descriptions, member

if TYPE_CHECKING:
    from collections.abc import Iterator

    Path = tuple[str, ...]

_HEAD: Final = """\
# Chart values

Every value of the Helm chart with its type, its default and what it does. This page is generated from the chart.

[The chart](../how-to/chart.md) explains how to use them, and [Kubernetes](../start/kubernetes.md) leads from an empty
namespace to a protected route. `config` takes the whole [configuration](configuration.md) of authz-service.
Helm rejects a misspelled value before it installs anything.
"""
_GROUPS: Final = {
    "Shape and names": ("shape", "nameOverride", "fullnameOverride", "commonLabels"),
    "Container image": ("image", "imagePullSecrets"),
    "Configuration and files": (
        "config",
        "existingConfigMap",
        "checkConfig",
        "secrets",
        "stateVolume",
        "rolloutOnConfigChange",
    ),
    "Certificate": ("tls",),
    "Pods": (
        *("resources", "probes", "lifecycle", "terminationGracePeriodSeconds", "user", "serviceAccount"),
        *("podLabels", "podAnnotations", "priorityClassName", "dnsPolicy", "dnsConfig", "hostAliases"),
    ),
    "Deployment and scaling": (
        *("replicas", "strategy", "revisionHistoryLimit", "deploymentAnnotations", "autoscaling"),
        *("podDisruptionBudget", "topologySpread", "nodeSelector", "tolerations", "affinity"),
    ),
    "Services and network": ("service", "allowAnyClient", "networkPolicy"),
    "Metrics and alerts": ("monitoring",),
    "Shape sidecar": ("sidecar",),
    "Shape gateway": ("gateway",),
    "Additions": (
        *("extraEnv", "extraVolumes", "extraVolumeMounts", "extraInitContainers", "extraContainers", "extraObjects"),
    ),
    "Tests of a release": ("test",),
}
_REFERENCES: Final = {
    "labels": "mapping of strings",
    "annotations": "mapping of strings",
    "resources": "resources of a container",
    "probe": "probe or `null`",
    "peers": "list of peers, or `null`",
    "amount": "number or percentage",
}
_TYPES: Final = {
    "string": "string",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "number": "number",
    "object": "mapping",
    "null": "`null`",
}


def page() -> str:
    """The page."""
    described = descriptions()
    grouped = [name for names in _GROUPS.values() for name in names]
    if sorted(grouped) != sorted({path[0] for path in described}):
        raise AssertionError(f"each value needs one group: {set(grouped) ^ {path[0] for path in described}}")
    return "\n".join([_HEAD, *(line for title in _GROUPS for line in _group(title, described))]).rstrip() + "\n"


def _group(title: str, described: dict[Path, str]) -> Iterator[str]:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    yield f"## {title}\n"
    for name in _GROUPS[title]:
        for path, description in described.items():
            if path[0] != name:
                continue
            default: Any = defaults
            for key in path:
                default = default[key]
            is_section = any(other[: len(path)] == path and other != path for other in described)
            words = "section" if is_section else _type(member(schema, path))
            words = words if words.startswith("`") else f"{words[0].upper()}{words[1:]}"
            yield f"### `{'.'.join(path)}`\n"
            yield f"{words}.\n" if is_section else f"{words}. Default: `{flow(default)}`.\n"
            yield f"{description}\n"


def _type(schema: dict[str, Any]) -> str:  # noqa: PLR0911 - a case for each form
    match schema:
        case {"$ref": reference}:
            return _REFERENCES[reference.rpartition("/")[2]]
        case {"enum": choices}:
            return ", ".join(f"`{flow(choice)}`" for choice in choices)
        case {"anyOf": branches}:
            return " or ".join(map(_type, branches))
        case {"type": list() as types}:
            return " or ".join(_type(schema | {"type": each}) for each in types)
        case {"type": "array", "items": items}:
            return f"list of {_several(items)}"
        case {"type": "string", "pattern": pattern} if "ms|s|m|h" in pattern or pattern.endswith("s$"):
            return "duration"
        case _:
            return _TYPES[schema["type"]]


def _several(items: dict[str, Any]) -> str:
    match items:
        case {"enum": choices}:
            return ", ".join(f"`{flow(choice)}`" for choice in choices)
        case {"type": "object"}:
            return "mappings"
        case {"type": "string"}:
            return "strings"
        case {"type": "integer"}:
            return "whole numbers"
        case _:
            return "values"
