"""Node.js and the packages of package-lock.json files, installed once for all tests."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from support import mcp
from support.missing import not_proved, program
from support.node import RESPONSE_TIMEOUT
from support.oauth_client import OAuthClient
from support.oidc_provider import FOLDER, RELEASES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_PROMISE = (
    "that tokens of a real identity provider ({}) are classified, verified in each algorithm, denied once "
    "their key is removed, and introspected if they are opaque"
)
_BOUND_PROMISE = (
    "that tokens which a real identity provider binds to a key or a certificate are accepted from their owner, a real "
    "client, and from no thief"
)
_MCP_PROMISE = (
    "that the clients of the MCP SDK find the authorization server of an MCP server, log in, and get the scope that a "
    "tool requires"
)
_CONFORMANCE_PROMISE = "that an MCP server conforms behind Envoy and the sidecar as much as without them"
_INSTALL_TIMEOUT = 300.0


def installed(folder: Path, promise: str) -> str:
    """Node.js, after an installation of the packages in the folder's package-lock.json when that file changes."""
    node, npm = (program(name, promise) for name in ("node", "npm"))
    stamp = folder / "node_modules" / ".installed"
    with (folder / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be installing
        digest = hashlib.sha256(lock.read()).hexdigest()
        if not stamp.exists() or stamp.read_text() != digest:
            command = [npm, "ci"]
            done = subprocess.run(
                command, cwd=folder, check=False, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT
            )
            assert done.returncode == 0, done.stdout + done.stderr
            stamp.write_text(digest)
    return node


@pytest.fixture(scope="module")
def node() -> str:
    return installed(FOLDER, _PROMISE.format(" and ".join(RELEASES)))


def require_web_crypto(node: str, promise: str) -> None:
    command = [node, "-e", "process.exit(typeof CryptoKey === 'function' ? 0 : 1)"]
    if subprocess.run(command, check=False, timeout=RESPONSE_TIMEOUT).returncode:
        not_proved(promise, missing="Node.js 20 or newer")


@pytest.fixture(scope="module")
def node_with_web_crypto(node: str) -> str:
    require_web_crypto(node, _BOUND_PROMISE)
    return node


@pytest.fixture(scope="module")
def mcp_packages() -> None:
    require_web_crypto(installed(mcp.FOLDER, _MCP_PROMISE), _MCP_PROMISE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(node_with_web_crypto: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OAuthClient]:
    """The client of npm."""
    assert node_with_web_crypto
    async with OAuthClient(tmp_path_factory.mktemp("client") / "client.log") as client:
        yield client


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, node: str) -> str:
    release: str = request.param
    recent = [node, "-e", "process.exit(typeof URL.parse === 'function' ? 0 : 1)"]  # required by the current release
    if release == "oidc-provider" and subprocess.run(recent, check=False, timeout=RESPONSE_TIMEOUT).returncode:
        not_proved(_PROMISE.format(release), missing="Node.js 22 or newer")
    return release


@pytest.fixture(scope="module")
def conformance() -> list[str]:
    """The command of MCP's conformance suite. It requires Node.js 22, which is one of its packages on Linux."""
    node = installed(mcp.CONFORMANCE_FOLDER, _CONFORMANCE_PROMISE)
    packaged = mcp.CONFORMANCE_FOLDER / "node_modules" / ".bin" / "node"
    command = str(packaged) if packaged.exists() else node
    recent = [command, "-e", "process.exit(require('fs').globSync ? 0 : 1)"]
    if subprocess.run(recent, check=False, timeout=RESPONSE_TIMEOUT).returncode:
        not_proved(_CONFORMANCE_PROMISE, missing="Node.js 22 or newer")
    return [command, str(mcp.CONFORMANCE_FOLDER / "node_modules/@modelcontextprotocol/conformance/dist/index.js")]
