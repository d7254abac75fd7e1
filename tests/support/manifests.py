"""Validates manifests against the schemas of Kubernetes, and of the APIs that other projects add."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate import utils as kubernetes
from pydantic import ValidationError

OLDEST, NEWEST = "1.25", kubernetes.latest_version()
# APIs with a Python package of types. For others, tests/support/schemas has the schema.
_PACKAGES = {
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "networking.istio.io/v1": "cloudcoil.models.istio.networking.v1",
    "networking.istio.io/v1alpha3": "cloudcoil.models.istio.networking.v1alpha3",
    "security.istio.io/v1": "cloudcoil.models.istio.security.v1",
    "telemetry.istio.io/v1": "cloudcoil.models.istio.telemetry.v1",
}
_SCHEMAS = Path(__file__).parent / "schemas"
# By manifest and version: a change of one value leaves most objects equal.
_validated: dict[tuple[str, str], list[str]] = {}


def documents(stream: str) -> list[dict[str, Any]]:
    """The objects in a stream of YAML documents."""
    return [each for each in yaml.safe_load_all(stream) if each]


def problems(manifest: dict[str, Any], version: str = NEWEST) -> list[str]:
    """What the API server would reject or silently drop; empty for a valid manifest."""
    key = repr(manifest), version
    if key not in _validated:
        _validated[key] = _validate(manifest, version)
    return _validated[key]


def _validate(manifest: dict[str, Any], version: str) -> list[str]:
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    if manifest["apiVersion"] in _PACKAGES:
        found = _by_package(manifest)
    elif (_SCHEMAS / _file(manifest)).exists():
        found = _by_schema(manifest)
    else:
        found = _by_kubernetes(manifest, version)
    return [f"{name}: {problem}" for problem in found]


def _by_kubernetes(manifest: dict[str, Any], version: str) -> list[str]:
    try:
        kubernetes.validate(manifest, version, strict=True)
    except kubernetes.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes.SchemaNotFoundError as error:
        return [error.message]
    return []


def _by_package(manifest: dict[str, Any]) -> list[str]:
    try:
        model = getattr(import_module(_PACKAGES[manifest["apiVersion"]]), manifest["kind"])
        taken = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        return [str(error)]
    return list(_dropped(manifest, taken, ""))


def _dropped(given: Any, accepted: Any, path: str) -> list[str]:
    """The members that the types drop, as the API server does."""
    match given, accepted:
        case dict(), dict():
            lost = [f"{path}{key}: unknown" for key in given if key not in accepted]
            return lost + [
                each
                for key in given
                if key in accepted
                for each in _dropped(given[key], accepted[key], f"{path}{key}.")
            ]
        case list(), list():
            return [
                each
                for at, pair in enumerate(zip(given, accepted, strict=True))
                for each in _dropped(*pair, f"{path}{at}.")
            ]
        case _:
            return []


def _by_schema(manifest: dict[str, Any]) -> list[str]:
    errors = jsonschema.Draft202012Validator(_schema(_file(manifest))).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _file(manifest: dict[str, Any]) -> str:
    group = manifest["apiVersion"].partition("/")[0]
    return f"{manifest['kind'].lower()}.{group}.json"


@cache
def _schema(file: str) -> Any:
    return json.loads((_SCHEMAS / file).read_text())
