from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from support.configured_app import ConfigFolder

if TYPE_CHECKING:
    from pathlib import Path

Logged: TypeAlias = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Logged:
    """Returns the fields of each record with an event."""
    monkeypatch.setattr(logging.getLogger("authz"), "propagate", True)
    caplog.set_level(logging.INFO, "authz")
    return lambda event: [vars(record).get("fields", {}) for record in caplog.records if record.getMessage() == event]


@pytest.fixture
def config(tmp_path: Path) -> ConfigFolder:
    return ConfigFolder(tmp_path)
