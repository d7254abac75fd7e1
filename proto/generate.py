#!/usr/bin/env python3
"""Generates code and descriptors from the protobuf declarations: ``python proto/generate.py [ROOT]``.

Both are in ``authz_service/_pb/`` and committed, so that installation needs no compiler. They are exactly what this
script generates from ``proto/``, from any working directory; a test compares them.

Only the messages in ``proto/authz_service/`` become Python code. It contains the version of the compiler, which is the
lower bound of ``protobuf`` in ``pyproject.toml``. ``services.binpb`` has the descriptors of the services, for server
reflection.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).resolve().parent
SERVICES = "authz_service/_pb/services.binpb"


def generate(root: Path) -> None:
    """Generate the message classes and their type stubs below ``root``, and the descriptors of the services."""
    _protoc(f"--python_out={root}", f"--pyi_out={root}", *_sources("authz_service"))
    services = ("authz_service/_pb/external_auth.proto", *_sources("grpc"))
    _protoc("--include_imports", f"--descriptor_set_out={root / SERVICES}", *services)


def _sources(folder: str) -> list[str]:
    return sorted(path.relative_to(PROTO).as_posix() for path in (PROTO / folder).rglob("*.proto"))


def _protoc(*arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *arguments]
    subprocess.run(command, cwd=PROTO, check=True)  # noqa: S603 (our own arguments, no shell)


if __name__ == "__main__":
    generate(Path(sys.argv[1] if sys.argv[1:] else PROTO.parent).resolve())
