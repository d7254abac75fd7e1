"""The chart, rendered by Helm's engine."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

from generate import CHART, render
from support.manifests import documents

Manifests = list[dict[str, Any]]
NAME = "authz-authz-service"


def shape(name: str) -> dict[str, Any]:
    """The values file of a shape."""
    values: dict[str, Any] = yaml.safe_load((CHART / "values" / f"{name}.yaml").read_text())
    return values


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values merged with changes, as with a second values file."""
    values = deepcopy(values)
    for key, change in changes.items():
        if change is None and key in values:
            del values[key]
        else:
            both = isinstance(change, dict) and isinstance(values.get(key), dict)
            values[key] = merged(values[key], change) if both else change
    return values


def manifests(name: str, changes: dict[str, Any] | None = None) -> Manifests:
    """The manifests of a shape with changed values."""
    return in_order(render(CHART, merged(shape(name), changes or {})))


def in_order(rendered: dict[str, str]) -> Manifests:
    """The objects of all templates."""
    return [each for path, stream in rendered.items() if path.endswith(".yaml") for each in documents(stream)]


def notes(name: str, changes: dict[str, Any] | None = None) -> str:
    """The notes after an installation."""
    return render(CHART, merged(shape(name), changes or {}))["authz-service/templates/NOTES.txt"]


def one(found: Manifests, kind: str, name: str = NAME) -> dict[str, Any]:
    """The object with this kind and name."""
    (only,) = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return only


def pods(found: Manifests) -> Manifests:
    """All pods, including those of pod templates."""
    templates = {"Deployment": lambda each: each["spec"]["template"], "Pod": lambda each: each}
    return [templates[each["kind"]](each) for each in found if each["kind"] in templates]


def containers(pod: dict[str, Any]) -> Manifests:
    """All containers of a pod, including init containers."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def container(pod: dict[str, Any], name: str = "authz-service") -> dict[str, Any]:
    """The container with this name."""
    (only,) = [each for each in containers(pod) if each["name"] == name]
    return only
