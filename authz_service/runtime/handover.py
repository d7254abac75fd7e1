"""The parameters that a process passes to the one that it starts, on the command line.

The process that has read the configuration replaces itself with the supervisor, which starts the workers. The
supervisor needs no configuration model, so the settings of the server pass through it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple

from authz_service.transport.addresses import SharedAddress

_Json = dict[str, Any]


class Supervision(NamedTuple):
    """What the supervisor needs of a configuration."""

    file: str
    workers: int
    grpc_address: str
    admin_address: tuple[str, int]
    log_level: str
    log_format: str
    server: _Json  # for the workers: the settings that only a restart changes

    def encode(self) -> str:
        """These parameters as a command-line argument."""
        return json.dumps(self)

    @classmethod
    def decode(cls, argument: str) -> Supervision:
        """The parameters of such an argument."""
        file, workers, grpc_address, (host, port), *others = json.loads(argument)
        return cls(file, workers, grpc_address, (host, port), *others)


class Worker(NamedTuple):
    """What a worker needs of its supervisor."""

    number: int  # from 1
    channel: int  # descriptor of the worker's end
    server: _Json  # as in Supervision
    shared: SharedAddress

    def encode(self) -> str:
        """These parameters as a command-line argument."""
        return json.dumps(self)

    @classmethod
    def decode(cls, argument: str) -> Worker:
        """The parameters of such an argument."""
        number, channel, server, shared = json.loads(argument)
        return cls(number, channel, server, SharedAddress(*shared))


def command_of(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in another process, as isolated as this one.

    It imports from the working directory, the environment's and the user's folders only if this process does so too.
    """
    flags = {
        "-P": not _imports_from_the_working_directory(),
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
    }
    return [sys.executable, *(option for option, chosen in flags.items() if chosen), "-m", module, *arguments]


def _imports_from_the_working_directory() -> bool:
    try:
        return os.getcwd() in sys.path  # noqa: PTH109 - pathlib would be loaded for it
    except OSError:  # it was removed, as that of a release which a newer one has replaced
        return False
