"""An active configuration over an authorizer of the test's choice."""

from __future__ import annotations

from typing import Any

from authz_service.config.model import Settings
from authz_service.runtime.assembly import ActiveConfig, assemble
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.metrics import Metrics

SETTINGS = Settings.read(
    {"issuers": [{"issuer": "https://issuer.example", "audiences": ["api"]}], "rules": [{"name": "everything"}]}
)


def active_config(
    authorizer: Any,
    decision_log: DecisionLog | None = None,
    *,
    check_deadline: float = 1.0,
    max_request_bytes: int = 1 << 20,
) -> ActiveConfig:
    """A configuration with this authorizer; the default logs no decisions."""
    return assemble(SETTINGS, (), Metrics(transport="asyncio"), now=0.0)._replace(
        authorizer=authorizer,
        decision_log=decision_log or DecisionLog("none"),
        check_deadline=check_deadline,
        max_request_bytes=max_request_bytes,
    )
