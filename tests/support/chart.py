"""The chart as Helm's own engine renders it."""

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
    """Values with some changed, as a second values file changes them."""
    values = deepcopy(values)
    for key, change in changes.items():
        if change is None and key in values:
            del values[key]
        else:
            both = isinstance(change, dict) and isinstance(values.get(key), dict)
            values[key] = merged(values[key], change) if both else change
    return values


def manifests(name: str, changes: dict[str, Any] | None = None) -> Manifests:
    """What a shape with some values changed becomes."""
    return in_order(render(CHART, merged(shape(name), changes or {})))


def in_order(texts: dict[str, str]) -> Manifests:
    """The objects of every template."""
    return [each for path, text in texts.items() if path.endswith(".yaml") for each in documents(text)]


def notes(name: str, changes: dict[str, Any] | None = None) -> str:
    """What Helm says after an installation."""
    return render(CHART, merged(shape(name), changes or {}))["authz-service/templates/NOTES.txt"]


def one(found: Manifests, kind: str, name: str = NAME) -> dict[str, Any]:
    """The object of a kind and name."""
    (only,) = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return only


def pods(found: Manifests) -> Manifests:
    """Every pod and pod template, as a pod."""
    templates = {"Deployment": lambda each: each["spec"]["template"], "Pod": lambda each: each}
    return [templates[each["kind"]](each) for each in found if each["kind"] in templates]


def containers(pod: dict[str, Any]) -> Manifests:
    """Every container of a pod, those that start before the others too."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def container(pod: dict[str, Any], name: str = "authz-service") -> dict[str, Any]:
    """The container of that name."""
    (only,) = [each for each in containers(pod) if each["name"] == name]
    return only
