"""The programs of Prometheus, for whoever tests with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.prometheus import programs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def prometheus_programs() -> Path:
    found = programs()
    if found is None:
        pytest.skip(
            "NOT PROVED, since this machine has neither Prometheus nor Debian's packages: that every panel's query "
            "returns data, and that every alert fires when it should and not before."
        )
    return found
