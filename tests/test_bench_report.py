"""The chart of `make bench` shows the figures of the page's tables."""

from __future__ import annotations

from bench import report


def test_the_chart_has_the_figures_of_the_tables() -> None:
    assert report.CHART.read_text() == report.chart(report.DOCUMENT.read_text()), (
        "draw it: .venv/bin/python -c 'from bench.report import write; write({})'"
    )
