"""What a reader of the chart package has: descriptions, a README, an icon, and no reference to files outside of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from generate import CHART, descriptions, render
from support.chart import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = CHART.parent.parent
DEFINITION = yaml.safe_load((CHART / "Chart.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
README = (CHART / "README.md").read_text()


def undescribed(schema: dict[str, Any], where: str) -> Iterator[str]:
    """The paths of properties without a description."""
    for key, member in schema.get("properties", {}).items():
        if not member.get("description"):
            yield f"{where}.{key}"
        yield from undescribed(member, f"{where}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from undescribed(schema[key], f"{where}.{key}")
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from undescribed(each, where)


def test_every_value_has_a_description() -> None:
    parts = {"values": SCHEMA, **SCHEMA["$defs"]}
    assert [place for name, part in parts.items() for place in undescribed(part, name)] == []


def test_the_readme_lists_every_value_once_with_its_default() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| ", README, re.MULTILINE)
    assert [name for name, _ in rows] == [".".join(path) for path in descriptions()]
    defaults = dict(rows)
    assert (defaults["replicas"], defaults["tls"], defaults["nameOverride"]) == ("`2`", "", '`""`')
    top = [key for key in SCHEMA["properties"] if key not in {"global", "enabled"}]
    assert {name for name, _ in rows if "." not in name} == set(top)


def test_the_readmes_values_are_accepted() -> None:
    (values,) = re.findall(r"```yaml\n(shape: .*?)```", README, re.DOTALL)
    assert in_order(render(CHART, yaml.safe_load(values)))


def test_the_chart_has_a_home_sources_and_an_icon() -> None:
    assert urlsplit(DEFINITION["home"]).scheme == "https"
    assert DEFINITION["sources"] == [DEFINITION["home"]]
    _, found, path = urlsplit(DEFINITION["icon"]).path.partition("/main/")
    assert found
    assert (REPOSITORY / path).read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"')


def test_a_release_replaces_the_place_of_the_repository() -> None:
    workflow = (REPOSITORY / ".github" / "workflows" / "release.yml").read_text()
    step = workflow[: workflow.index("helm package helm/authz-service")]
    assert "sed -i" in step
    # The templates replace it in the alerts and in the dashboard.
    rendered = {CHART / "alerts", CHART / "dashboards"}
    for path in CHART.rglob("*"):
        if path.is_file() and path.parent not in rendered | {CHART / "templates"} and "OWNER" in path.read_text():
            assert f"helm/authz-service/{path.name}" in step, path


# In NOTES.txt, the template authz-service.page makes an address of a page.
@pytest.mark.parametrize("file", ["README.md", "values.yaml", "values/sidecar.yaml", "templates/_validate-values.tpl"])
def test_a_text_of_the_package_refers_to_no_file_outside_of_it(file: str) -> None:
    assert re.findall(r"(?<![\w/])(?:docs|helm|examples)/[\w./-]+", (CHART / file).read_text()) == []
