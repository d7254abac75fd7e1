"""Reads the ``server`` section of a configuration file alone, for a probe that runs every few seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config.kinds import Invalid
from authz_service.config.server import Server
from authz_service.config.source import lines, parsed
from authz_service.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz_service.config.document import Document, Problem

_KEY = "server"


def server_of(path: Path) -> Server:
    """The ``server`` section, whatever is wrong with the others, or between its keys.

    Raises:
        ConfigError: when that section cannot be read.
    """
    _, document = parsed(path)
    problems = [problem for problem in document.problems if problem.where[:1] == (_KEY,)]
    server = None
    try:
        server = Server.read(document.value.get(_KEY, {}), path.parent)
    except Invalid as invalid:
        problems += _problems(invalid, document)
    if problems or server is None:
        raise ConfigError(lines(path, document, problems))
    return server


def _problems(invalid: Invalid, document: Document) -> Iterator[Problem]:
    from authz_service.config import messages

    return messages.problems(Invalid([each._replace(where=(_KEY, *each.where)) for each in invalid.findings]), document)
