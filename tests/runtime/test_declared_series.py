"""Series of decisions exist with the value 0 from the start, if the configuration can lead to them."""

from __future__ import annotations

from typing import Any

import pytest

from authz_service.config.model import Settings
from authz_service.runtime.assembly import assemble, declare_series
from authz_service.telemetry.metrics import Metrics
from support.samples import sample_value
from support.trust import ISSUER, NOW, LocalValidator


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"resources": [{"resource": "https://api.example"}]}, {"decision": "answer", "reason": "resource_metadata"}),
        ({"cors_preflight": "allow"}, {"decision": "allow", "reason": "preflight"}),
    ],
    ids=["resources", "cors_preflight"],
)
def test_decisions_without_a_rule_that_the_configuration_makes_possible(
    changes: dict[str, Any], labels: dict[str, str]
) -> None:
    configuration = {"issuers": [{"issuer": ISSUER, "name": "main", "audiences": ["api"]}], "rules": [{"name": "r"}]}
    found = []
    for settings in map(Settings.read, (configuration, configuration | changes)):
        metrics = Metrics(transport="asyncio")
        declare_series(assemble(settings, LocalValidator().issuers, metrics, now=NOW), metrics)
        everywhere = labels | {"rule": "-", "mode": "enforce"}
        found.append(sample_value(metrics, "authz_checks_total", everywhere))
    assert found == [None, 0]
