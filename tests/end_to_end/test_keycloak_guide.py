"""The commands of docs/how-to/security-events.md, run against a real Keycloak."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from support.documents import blocks, page, section
from support.keycloak import Realm
from support.keycloak_mesh import running
from support.keycloak_server import Server, keycloak, run_kcadm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GUIDE = page("how-to/security-events")
_SETUP = section(_GUIDE, "## Set it up with Keycloak")
_TRIAL = section(_GUIDE, "## Try it")
_HOST = "https://sso.example.com"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak("that the commands for Keycloak's security events work") as server:
        yield server


async def test_the_commands_of_the_guide_set_security_events_up_and_send_one(server: Server, tmp_path: Path) -> None:
    async with Realm(server) as realm:
        name = realm.issuer.rpartition("/")[2]

        async def run(commands: str) -> str:
            commands = re.sub("(realms/|-r )shop", rf"\g<1>{name}", commands).replace(_HOST, server.url)
            return await asyncio.to_thread(run_kcadm, server, commands, tmp_path)

        (tmp_path / "secret").write_text("the receiver's secret")
        setup = [block.text for block in blocks(_SETUP, "sh")]
        assert len(setup) == 3
        printed = await run("".join(setup))
        stream = json.loads(printed[printed.index("{") :])
        (configuration,) = blocks(_SETUP, "yaml")
        events = yaml.safe_load(configuration.text)["issuers"][0]["security_events"]
        endpoint = stream["delivery"]["endpoint_url"]
        shown = re.sub("(?<=streams/)[0-9a-f-]+", stream["streamId"], events["poll_endpoint"])
        assert shown.replace(f"{_HOST}/realms/shop", realm.issuer) == endpoint
        changes = {"poll_endpoint": endpoint, "client_secret_file": "receiver-secret", "interval": "200ms"}
        (tmp_path / "receiver-secret").write_bytes((tmp_path / "secret").read_bytes())
        async with running(tmp_path, realm, security_events=events | changes) as mesh:
            token = await realm.access_token("web", "ann")
            assert await mesh.result(token) == (200, "ok")
            (event,) = [block.text for block in blocks(_TRIAL, "sh") if "kcadm.sh" in block.text]
            await run(event.replace("THE-USERS-ID", await realm.user_id("ann")))
            await mesh.until(token, "revoked")
