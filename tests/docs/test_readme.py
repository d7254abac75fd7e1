"""The README is short, and what it shows works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import yaml

from authz_service.cli import main
from authz_service.demo.identity_provider import IdentityProvider
from support.documents import ROOT, blocks, section, tables
from support.echo import echo
from support.envoy import loopback, relocated, running_envoy
from support.sidecar_process import SidecarProcess
from support.tutorial_bootstrap import manager_of, tutorial_bootstrap

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

README = (ROOT / "README.md").read_text()
MAX_LINES = 150


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_its_configuration_is_valid_and_without_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(blocks(README, "yaml")[0].text)
    assert main(["check-config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: valid\n"


async def test_its_configuration_and_its_filter_protect_a_route_of_a_real_envoy(tmp_path: Path) -> None:
    config, envoy_filter = (yaml.safe_load(block.text) for block in blocks(README, "yaml"))
    bootstrap = tutorial_bootstrap()
    manager = manager_of(bootstrap)
    manager["http_filters"] = [*envoy_filter, manager["http_filters"][-1]]
    async with IdentityProvider() as provider, echo() as port:
        (issuer,) = config["issuers"]
        audience = issuer["audiences"][0]
        issuer["issuer"] = provider.issuer
        server = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"server": server}))
        async with SidecarProcess(tmp_path / "config.yaml", tmp_path / "log") as sidecar:
            (listening,) = sidecar.records("listening")
            address = envoy_filter[0]["typed_config"]["grpc_service"]["google_grpc"]
            assert address["target_uri"] == "127.0.0.1:9191"
            address["target_uri"] = f"127.0.0.1:{listening['grpc_port']}"
            relocated(bootstrap, {"api": loopback(port)})
            async with running_envoy(bootstrap, tmp_path) as envoy, aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{envoy.ports['http']}/v1/orders/7"
                tokens = {
                    "none": None,
                    "good": provider.access_token(scope="orders", aud=audience),
                    "scope": provider.access_token(scope="other", aud=audience),
                }
                statuses = {}
                for name, token in tokens.items():
                    headers = {"Authorization": f"Bearer {token}"} if token else {}
                    async with session.get(url, headers=headers) as response:
                        statuses[name] = response.status
    assert statuses == {"none": 401, "good": 200, "scope": 403}


def test_every_claim_names_a_page_and_its_proof() -> None:
    (claims,) = tables(section(README, "## What makes it different"))
    for claim, explained, proved in claims.rows:
        assert "](docs/" in explained, claim
        assert "](tests/" in proved or "](examples)" in proved, claim
