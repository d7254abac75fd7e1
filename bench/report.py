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
_BAR, _WIDTH, _LABEL = 22, 420, 190


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


def write(parts: dict[str, str], rows: Sequence[Row]) -> None:
    """Replace the content between the markers, and draw the chart."""
    document = DOCUMENT.read_text()
    for name, content in parts.items():
        marked = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marked.search(document):
            raise AssertionError(f"{DOCUMENT.name} has no marker for {name}")
        document = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", document)  # type: ignore[misc]
    DOCUMENT.write_text(document)
    CHART.write_text(chart([row for row in rows if row.in_flight == 16]))  # noqa: PLR2004


def chart(rows: Sequence[Row]) -> str:
    """A bar chart of the requests per second."""
    maximum = max(row.load.rate for row in rows)
    height = _BAR * (len(rows) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _WIDTH + 90}" height="{height}">',
        "<style>text { font: 13px sans-serif }</style>",
        f'<rect width="100%" height="{height}" fill="white"/>',
        f'<text x="{_LABEL}" y="15" fill="#444">requests per second, 16 in flight</text>',
    ]
    for number, row in enumerate(rows, 1):
        top, width = number * _BAR, row.load.rate / maximum * _WIDTH
        color = "#2f6f4f" if "asyncio" in row.name else "#8a8f98"
        lines += [
            f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{row.name}</text>',
            f'<rect x="{_LABEL}" y="{top + 3}" width="{width:.0f}" height="{_BAR - 6}" fill="{color}"/>',
            f'<text x="{_LABEL + width + 6:.0f}" y="{top + 15}">{row.load.rate:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
