"""The programs of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.missing import not_proved
from support.prometheus import programs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def prometheus_programs() -> Path:
    found = programs()
    if found is None:
        not_proved(
            "that every panel's query returns data, and that every alert fires when it should and not before",
            missing="Prometheus, and Debian's packages to take it from",
        )
    return found
