"""What follows from other files: the configuration's part of the chart's schema, and a rendered example of each shape.

Law: what it writes can be written again from what is committed, so a check can tell whether that was forgotten.
It renders by Helm's own engine, without a cluster.

    python helm/generate.py      (make chart)
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from authz_service.config.load import schema

HELM = Path(__file__).parent
CHART = HELM / "authz-service"
APPLICATION = HELM / "examples" / "application"
SHAPES = ("service", "gateway")  # the third one, sidecar, is rendered by the application's chart


def files() -> dict[Path, str]:
    """Every generated file, and what must stand in it."""
    rendered = {HELM / "examples" / f"{shape}.yaml": example(shape) for shape in SHAPES}
    rendered[HELM / "examples" / "sidecar.yaml"] = application()
    return {CHART / "values.schema.json": values_schema(), **rendered}


def values_schema() -> str:
    """The chart's schema with the configuration's own in it: a misspelt key is found before anything is installed.

    What is required there is not required here: the chart asks for it itself, with a remedy.
    """
    values = json.loads((CHART / "values.schema.json").read_text())
    configuration = schema()
    ours = {name: section for name, section in values["$defs"].items() if name[0].islower()}
    values["$defs"] = ours | configuration.pop("$defs")
    for key in ("$schema", "required"):
        del configuration[key]
    for key in ("issuers", "rules"):
        del configuration["properties"][key]["minItems"]
    values["properties"]["config"] = configuration
    return json.dumps(values, indent=2) + "\n"


def example(shape: str) -> str:
    """A shape as its values file has it, but for the dashboard: thousands of lines, which have a file of their own."""
    values = yaml.safe_load((CHART / "values" / f"{shape}.yaml").read_text())
    values["monitoring"]["dashboard"] = {"enabled": False}
    return as_text(render(CHART, values))


def application() -> str:
    """An application's own chart, with this one as its dependency."""
    with tempfile.TemporaryDirectory() as folder:
        return as_text(render(with_dependency(APPLICATION, Path(folder)), {}))


def with_dependency(chart: Path, folder: Path) -> Path:
    """A copy of a chart in which its dependency is in place, as `helm dependency update` puts it there."""
    copy = shutil.copytree(chart, folder / chart.name)
    shutil.copytree(CHART, copy / "charts" / CHART.name)
    return copy


def render(chart: Path, values: dict[str, Any], name: str = "authz") -> dict[str, str]:
    """Every manifest that `helm template` would print, by the template that it comes from."""
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name=name, namespace="authz")
    return {path: text for path, text in sorted(rendered.items()) if text.strip()}


def as_text(rendered: dict[str, str]) -> str:
    """One stream of documents. The notes are for people, and left out."""
    manifests = {path: text.strip().removeprefix("---\n") for path, text in rendered.items() if path.endswith(".yaml")}
    return "".join(f"---\n# Source: {path}\n{text}\n" for path, text in manifests.items())


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
        print(path.relative_to(HELM.parent))
