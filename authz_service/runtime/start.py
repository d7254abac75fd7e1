"""Starts to serve: reads the configuration, then serves in this process or replaces it with the supervisor.

The supervisor replaces the process image by exec, so it keeps none of the memory that reading a configuration takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from authz_service.config.places import host_port
from authz_service.config.sections import Section
from authz_service.core.errors import StartFailed
from authz_service.runtime import preflight
from authz_service.runtime.handover import Supervision, Worker, command_of

if TYPE_CHECKING:
    from authz_service.config.model import Settings


def run(file: Path, worker: str | None = None) -> None:
    """Serve by a configuration file until SIGTERM or SIGINT, with as many processes as it configures.

    ``worker`` is the encoded ``Worker`` where a supervisor started this process.

    Raises:
        ConfigError: when the configuration is rejected.
        StartFailed: when it cannot listen.
    """
    loaded = preflight.read(file)
    if worker is None and loaded.settings.server.workers > 1:
        _become_supervisor(file, loaded.settings)
    from authz_service.runtime import application

    application.run(file, loaded, None if worker is None else Worker.decode(worker))


def _become_supervisor(file: Path, settings: Settings) -> NoReturn:
    server = settings.server
    supervision = Supervision(
        str(file),
        server.workers,
        server.grpc_address,
        host_port(server.admin_address),
        settings.logging.level,
        settings.logging.format,
        {key: value for key, value in _written(server).items() if key in preflight.RESTART_ONLY},
    )
    command = command_of("authz_service.runtime.supervisor", supervision.encode())
    try:
        os.execv(command[0], command)  # noqa: S606 - our own program, without a shell
    except OSError as error:
        raise StartFailed(f"the supervisor cannot be started: {error.strerror}") from None


def _written(section: Section) -> dict[str, Any]:
    """The keys that have a value, with paths as a file has them."""
    return {key: _plain(value) for key, value in section.members() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, Section):
        return _written(value)
    return str(value) if isinstance(value, Path) else value
