"""The page on several cores: what check-config requires of workers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from support.chart import merged
from support.documents import blocks, page

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("how-to/several-cores")
EVENTS = {
    "poll_endpoint": "https://idp.example.com/ssf/poll",
    "audience": "https://api.example.com/",
    "client_id": "authz",
    "client_secret_file": "secret",
}


def configuration() -> dict[str, Any]:
    (block,) = blocks(PAGE, "yaml", "config.yaml")
    found: dict[str, Any] = yaml.safe_load(block.text)
    return found


@pytest.mark.parametrize(
    ("changes", "issuer", "status", "printed"),
    [
        ({"server": {"grpc_address": "unix:/run/a.sock", "transport": "grpcio"}}, {}, 1, "grpcio cannot share a unix"),
        ({}, {"security_events": EVENTS}, 1, "security_events.snapshot_file: is required"),
        ({"dpop": {"nonce": "required"}}, {}, 0, "does not accept the nonces of the others"),
    ],
)
def test_check_config_reports_what_workers_cannot_share(
    changes: dict[str, Any],
    issuer: dict[str, Any],
    status: int,
    printed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = merged(configuration(), changes)
    settings["issuers"][0] |= issuer
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check-config", "--without-files", str(tmp_path / "config.yaml")]) == status
    assert printed in capsys.readouterr().out


def test_the_named_number_of_workers_is_that_of_the_configuration() -> None:
    named = {int(number) for number in re.findall(r'"workers": (\d+)', PAGE)}
    assert named == {configuration()["server"]["workers"]}
