#!/usr/bin/env python3
"""Generates the Python code of the protobuf declarations: ``python proto/generate.py [ROOT]``.

The code in ``authz_service/_pb/`` is committed, so that installation needs no compiler. It is exactly what this script
generates from ``proto/``, from any working directory; a test compares them. The generated code contains the version of
the compiler, which is the lower bound of ``protobuf`` in ``pyproject.toml``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).resolve().parent


def generate(root: Path) -> None:
    """Generate the message classes and their type stubs below ``root``. Check is registered by name, without stubs."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run(  # noqa: S603 (our own arguments, no shell)
        [*protoc, "--proto_path=.", f"--python_out={root}", f"--pyi_out={root}", *sources], cwd=PROTO, check=True
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1] if sys.argv[1:] else PROTO.parent).resolve())
