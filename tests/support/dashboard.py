"""The JSON of the dashboard."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generate import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = CHART / "dashboards" / "authz-service.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
ROWS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
# A collapsed row contains its panels.
PANELS: list[dict[str, Any]] = [
    panel for each in DASHBOARD["panels"] for panel in each.get("panels", [each]) or [] if panel["type"] != "row"
]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}


@dataclass(frozen=True)
class Query:
    """A query of a panel or an annotation."""

    title: str
    expr: str
    legend: str = ""
    instant: bool = False

    def __str__(self) -> str:
        return self.title

    def substituted(self, **variables: str) -> str:
        """The expression with Grafana's variables replaced."""
        expr = self.expr
        for name, value in {"__rate_interval": "30s", "__range": "5m", **variables}.items():
            expr = re.sub(rf"\${name}\b", value, expr)
        assert "$" not in expr, expr
        return expr


def _queries() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel["targets"]:
            title = f"{panel['title']} {target['refId']}"
            yield Query(title, target["expr"], target["legendFormat"], target["instant"])
    for each in DASHBOARD["annotations"]["list"]:
        if "expr" in each:
            yield Query(each["name"], each["expr"], each["textFormat"])


QUERIES = list(_queries())


def choices(**chosen: str) -> dict[str, str]:
    """The values of the variables in a query: the chosen value, or all."""
    return {name: chosen.get(name) or each["allValue"] for name, each in VARIABLES.items() if each["type"] == "query"}
