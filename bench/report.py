"""The results as text, as Markdown, and as a chart.

In docs/understand/performance.md, it replaces only the content between the markers.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import Load, median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.footprint import Memory, Time
    from bench.growth import Growth

DOCUMENT = Path(__file__).parents[1] / "docs" / "understand" / "performance.md"
CHART = DOCUMENT.with_suffix(".svg")
# The heads of the tables.
LOADS = "| | in flight | requests/s (range) | p50 ms | p99 ms | CPU µs per request | context switches per request |"
TIMES, MEMORY = "| | ms | times the first |", "| | resident, MiB | of it anonymous, MiB |"
GROWTH = "| | few | many | ratio |"
# The groups of the chart: the table, the title, and the rows with their labels.
_CHARTED = (
    (
        "envoy",
        "Requests per second through Envoy",
        {
            "no filter": "no authorization",
            "jwt_authn, cache": "jwt_authn with its cache",
            "jwt_authn": "jwt_authn",
            "ext_authz, asyncio": "authz-service",
        },
    ),
    (
        "transports",
        "Decisions per second, called directly",
        {"asyncio, full Check": "authz-service", "grpcio, full Check": "authz-service on grpcio"},
    ),
)
_MARGIN, _LABELS, _BARS, _BAR = 16, 215, 330, 28  # pixels; a bar's height includes the space to the next one
_STYLE = (
    "text{font:16px system-ui,sans-serif;fill:#0a0f25}.title{font-weight:bold}"
    ".background{fill:#ffffff}.ours{fill:#00796b}.other{fill:#aab4c0}"
    "@media (prefers-color-scheme:dark)"
    "{text{fill:#e7ecf1}.background{fill:#14181d}.ours{fill:#5fd0bd}.other{fill:#6b7785}}"
)


@dataclass(frozen=True)
class Row:
    """One subject under one load."""

    name: str
    in_flight: int
    loads: list[Load]

    @property
    def load(self) -> Load:
        """The median."""
        return median(self.loads)

    def __str__(self) -> str:
        load = self.load
        return (
            f"  {self.in_flight:3d} in flight  {self.name:22s} {load.rate:7.0f} requests/s"
            f"   p50 {load.p50 / 1000:6.2f} ms   p99 {load.p99 / 1000:6.2f} ms"
            f"   CPU {load.cpu:5.0f} µs   {load.switches:5.2f} switches per request"
        )

    def markdown(self) -> str:
        """A row of the table."""
        load, rates = self.load, sorted(each.rate for each in self.loads)
        return (
            f"| {self.name} | {self.in_flight} | {load.rate:,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
            f" | {load.p50 / 1000:.2f} | {load.p99 / 1000:.2f} | {load.cpu:.0f} | {load.switches:.2f} |"
        )


def table(head: str, rows: Sequence[Row | Time | Memory | Growth]) -> str:
    """A Markdown table."""
    return "\n".join([head, "|---" * head.count("|", 1) + "|", *(row.markdown() for row in rows)])


def machine() -> str:
    """A description of the machine."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def write(parts: dict[str, str]) -> None:
    """Replace the content between the markers, and draw the chart."""
    document = DOCUMENT.read_text()
    for name, content in parts.items():
        marked = _marked(name)
        if not marked.search(document):
            raise AssertionError(f"{DOCUMENT.name} has no marker for {name}")
        document = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[3]}", document)  # type: ignore[misc]
    DOCUMENT.write_text(document)
    CHART.write_text(chart(document))


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- bench: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def chart(document: str) -> str:
    """A bar chart of the requests per second in the document's tables. Bars within one group can be compared."""
    rows, top = [], 0
    for table_name, title, labels in _CHARTED:
        rates = _rates(document, table_name)
        maximum = max(rates[name] for name in labels)
        rows.append(f'<text class="title" x="{_MARGIN}" y="{top + 30}">{title}</text>')
        top += 40
        for name, label in labels.items():
            rate, kind = rates[name], "ours" if "authz-service" in label else "other"
            width, bar = round(rate / maximum * _BARS), _BAR - 6
            rows += [
                f'<text x="{_MARGIN}" y="{top + 19}">{label}</text>',
                f'<rect class="{kind}" x="{_LABELS}" y="{top + 3}" width="{width}" height="{bar}" rx="3"/>',
                f'<text x="{_LABELS + width + 7}" y="{top + 19}">{rate:,}</text>',
            ]
            top += _BAR
    width, height = _LABELS + _BARS + 80, top + _MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    background = f'<rect class="background" width="{width}" height="{height}" rx="12"/>'
    note = "<!-- Drawn by `make bench WRITE=1` from the tables of performance.md -->"
    return "\n".join([note, head, f"<style>{_STYLE}</style>", background, *rows, "</svg>", ""])


def _rates(document: str, name: str) -> dict[str, int]:
    """The requests per second with 16 in flight, by the row's name."""
    content = _marked(name).search(document)
    if content is None:
        raise AssertionError(f"the document has no marker for {name}")
    rows = re.findall(r"^\| ([^|]+) \| 16 \| ([0-9,]+) ", content[2], re.MULTILINE)
    return {row: int(rate.replace(",", "")) for row, rate in rows}
