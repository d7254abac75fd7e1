"""Go programs for tests: each is built once, from a pinned version, next to the tests.

Go verifies its downloads against the public checksum database.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from support.missing import program

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
VALE = "github.com/errata-ai/vale/v3/cmd/vale@v3.15.2"  # later versions have another module path
_FOLDER = Path(__file__).parent.parent / ".go"
_BUILD_TIMEOUT = 300.0


def built(module: str, promise: str) -> str:
    """The path of the built program; without Go, ``promise`` is not proved."""
    path, _, version = module.partition("@")
    target = _FOLDER / f"{Path(path).name}-{version}"  # a new version is a new file
    go = program("go", promise)
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building
        if not target.exists():
            _build(go, module, target)
    return str(target)


def built_from(source: Path, promise: str) -> str:
    """As ``built``, for a program of ours in a folder with its locked modules."""
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(source.iterdir()))).hexdigest()[:16]
    target = _FOLDER / f"{source.name}-{digest}"
    go = program("go", promise)
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(go, ".", target, source)
    return str(target)


def _build(go: str, module: str, target: Path, source: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        environment = os.environ | {"GOBIN": folder, "GOFLAGS": "-modcacherw"}
        command = [go, "install", module]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_BUILD_TIMEOUT, env=environment, cwd=source
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (binary,) = Path(folder).iterdir()
        binary.replace(target)  # atomic, even if the build is interrupted
