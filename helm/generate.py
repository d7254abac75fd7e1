"""Generates the chart's schema as far as it follows from others, its table of values, and an example of each shape.

The output depends only on committed files, so a test can check that it is up to date. Helm's own engine renders the
examples, without a cluster.

    python helm/generate.py      (make chart)
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from authz_service.config.schema import schema

HELM = Path(__file__).parent
CHART = HELM / "authz-service"
APPLICATION = HELM / "examples" / "application"
SHAPES = ("service", "gateway")  # the application's chart renders the third one, sidecar


def files() -> dict[Path, str]:
    """Every generated file and its content."""
    rendered = {HELM / "examples" / f"{shape}.yaml": example(shape) for shape in SHAPES}
    rendered[HELM / "examples" / "sidecar.yaml"] = application()
    return {CHART / "values.schema.json": values_schema(), CHART / "README.md": readme(), **rendered}


def values_schema() -> str:
    """The chart's schema with the configuration's schema in it, so that Helm rejects a misspelled key.

    The descriptions are the comments of values.yaml. Those of values that are not in it are in the schema itself.
    Nothing in the configuration is required here, because the chart's own error messages name a remedy.
    """
    values = json.loads((CHART / "values.schema.json").read_text())
    configuration = schema()
    own = {name: section for name, section in values["$defs"].items() if name[0].islower()}
    values["$defs"] = own | configuration.pop("$defs")
    for key in ("$schema", "$id", "required"):
        del configuration[key]
    for key in ("issuers", "rules"):
        del configuration["properties"][key]["minItems"]
    values["properties"]["config"] = configuration
    for path, description in descriptions().items():
        member(values, path)["description"] = description
    return json.dumps(values, indent=2) + "\n"


def member(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The schema of a value."""
    for key in path:
        schema = schema["properties"][key]
    return schema


def descriptions() -> dict[tuple[str, ...], str]:
    """The comment directly above a key of values.yaml, for every key that has one."""
    found: dict[tuple[str, ...], str] = {}
    comment: list[str] = []
    path: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if text := re.fullmatch(r" *# ?(.*)", line):
            comment.append(text[1])
            continue
        if key := re.match(r"( *)([A-Za-z]+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                found[tuple(path)] = " ".join(comment)
        comment = []
    return found


def readme() -> str:
    """The README of the chart: its text as it is, and the table of values after the heading."""
    text = (CHART / "README.md").read_text()
    before, heading, _ = text.partition("## Values\n")
    return f"{before}{heading}\n{table_of_values()}"


def table_of_values() -> str:
    """Every value with its default and description; sections have a line of their own without a default."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    described = descriptions()
    rows = ["| value | default | description |", "|---|---|---|"]
    for path, description in described.items():
        default: Any = defaults
        for key in path:
            default = default[key]
        is_section = any(other[: len(path)] == path and other != path for other in described)
        shown = "" if is_section else f"`{_as_flow(default)}`"
        rows.append(f"| `{'.'.join(path)}` | {shown} | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _as_flow(value: Any) -> str:
    """A default in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("''", '""')


def example(shape: str) -> str:
    """A shape rendered with its values file, without the dashboard, which is thousands of lines in its own file."""
    values = yaml.safe_load((CHART / "values" / f"{shape}.yaml").read_text())
    values["monitoring"]["dashboard"] = {"enabled": False}
    return as_stream(render(CHART, values))


def application() -> str:
    """An application's chart, with this chart as its dependency."""
    with tempfile.TemporaryDirectory() as folder:
        return as_stream(render(with_dependency(APPLICATION, Path(folder)), {}))


def with_dependency(chart: Path, folder: Path) -> Path:
    """A copy of a chart with its dependency in charts/, as after `helm dependency update`."""
    copy = shutil.copytree(chart, folder / chart.name)
    shutil.copytree(CHART, copy / "charts" / CHART.name)
    return copy


def render(chart: Path, values: dict[str, Any], name: str = "authz", namespace: str = "authz") -> dict[str, str]:
    """Every manifest that `helm template` prints, by its template's path."""
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name=name, namespace=namespace)
    return {path: manifest for path, manifest in sorted(rendered.items()) if manifest.strip()}


def as_stream(rendered: dict[str, str]) -> str:
    """All manifests as one YAML stream, without the notes."""
    manifests = {path: each.strip().removeprefix("---\n") for path, each in rendered.items() if path.endswith(".yaml")}
    return "".join(f"---\n# Source: {path}\n{each}\n" for path, each in manifests.items())


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
        print(path.relative_to(HELM.parent))
