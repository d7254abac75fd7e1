"""Node.js and oidc-provider, installed once for whoever tests against them."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess

import pytest

from support.missing import not_proved, program
from support.oidc_provider import FOLDER, RELEASES, RESPONSE_TIMEOUT

_PROMISE = (
    "that tokens of a real identity provider ({}) are told apart, verified in each algorithm, refused once their key "
    "is gone, and asked about where they are opaque"
)
_INSTALL = 300.0  # seconds until it is given up


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js, and beside provider.mjs what package-lock.json lists: installed once, and again when that changes."""
    node, npm = (program(name, _PROMISE.format(" and ".join(RELEASES))) for name in ("node", "npm"))
    stamp = FOLDER / "node_modules" / ".installed"
    with (FOLDER / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be installing
        wanted = hashlib.sha256(lock.read()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            command = [npm, "ci"]
            done = subprocess.run(command, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=_INSTALL)
            assert done.returncode == 0, done.stdout + done.stderr
            stamp.write_text(wanted)
    return node


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, node: str) -> str:
    release: str = request.param
    recent = [node, "-e", "process.exit(typeof URL.parse === 'function' ? 0 : 1)"]  # or the current release cannot run
    if release == "oidc-provider" and subprocess.run(recent, check=False, timeout=RESPONSE_TIMEOUT).returncode:
        not_proved(_PROMISE.format(release), missing="Node.js 22 or newer")
    return release
