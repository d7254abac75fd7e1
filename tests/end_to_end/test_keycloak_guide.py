"""The commands of docs/how-to/revocation.md, run against a real Keycloak."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from support.documents import page
from support.keycloak import Realm
from support.keycloak_mesh import running
from support.keycloak_server import Server, keycloak, run_kcadm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GUIDE = page("how-to/revocation")
_HOST = "https://sso.example.com"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak("that the commands for Keycloak's security events work") as server:
        yield server


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a section of the guide."""
    (section,) = re.findall(rf"^(?:##|###) {heading}\n(.*?)^(?:##|###) ", _GUIDE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)


async def test_the_commands_of_the_guide_set_security_events_up_and_send_one(server: Server, tmp_path: Path) -> None:
    async with Realm(server) as realm:
        name = realm.issuer.rpartition("/")[2]

        async def run(commands: str) -> str:
            commands = re.sub("(realms/|-r )shop", rf"\g<1>{name}", commands).replace(_HOST, server.url)
            return await asyncio.to_thread(run_kcadm, server, commands, tmp_path)

        (tmp_path / "secret").write_text("the receiver's secret")
        setup = blocks("Setting it up with Keycloak", "sh")
        assert len(setup) == 3
        printed = await run("".join(setup))
        stream = json.loads(printed[printed.index("{") :])
        (configuration,) = blocks("Setting it up with Keycloak", "yaml")
        events = yaml.safe_load(configuration)["issuers"][0]["security_events"]
        endpoint = stream["delivery"]["endpoint_url"]
        shown = re.sub("(?<=streams/)[0-9a-f-]+", stream["streamId"], events["poll_endpoint"])
        assert shown.replace(f"{_HOST}/realms/shop", realm.issuer) == endpoint
        changes = {"poll_endpoint": endpoint, "client_secret_file": "receiver-secret", "interval": "200ms"}
        (tmp_path / "receiver-secret").write_bytes((tmp_path / "secret").read_bytes())
        async with running(tmp_path, realm, security_events=events | changes) as mesh:
            token = await realm.access_token("web", "ann")
            assert await mesh.result(token) == (200, "ok")
            (event,) = [each for each in blocks("Trying it", "sh") if "kcadm.sh" in each]
            await run(event.replace("THE-USERS-ID", await realm.user_id("ann")))
            await mesh.until(token, "revoked")
