"""A program with a fault that is found only by following how far each input gets."""

from __future__ import annotations

MESSAGE = b"jwt!"


class Planted(Exception):  # noqa: N818 - a fault, not an error
    """The fault."""


def run(data: bytes) -> None:
    # Not a loop: each comparison is a branch of its own.
    if len(data) >= len(MESSAGE) and data[0] == MESSAGE[0]:  # noqa: SIM102
        if data[1] == MESSAGE[1]:  # noqa: SIM102
            if data[2] == MESSAGE[2]:  # noqa: SIM102
                if data[3] == MESSAGE[3]:
                    raise Planted
