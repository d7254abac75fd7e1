"""Runs one target under libFuzzer, which ends the process: ``python -m fuzz.guided MODULE ARGUMENT...``."""

from __future__ import annotations

import importlib
import sys

import atheris

# The program and its oracles: an oracle that takes another branch is news as well.
INSTRUMENTED = ["authz_service", "fuzz", "support"]


def main(module: str, arguments: list[str]) -> None:
    """Try inputs until a limit in libFuzzer's arguments, or until one fails."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(module)

    def try_input(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *arguments], try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
