"""Reads a configuration file as a document, and writes problems with their places in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.config.document import EMPTY, TOO_LARGE, Document, Problem, Unreadable, parse, rendered
from authz_service.config.files import MAX_CONFIG_BYTES, FileTooLargeError
from authz_service.core.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The pipes that a shell makes for <(command), which have a writer. Opening any other pipe could block forever.
_OWN_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def parsed(path: Path, empty: str = EMPTY) -> tuple[bytes, Document]:
    """The content of a file, and the document that it is. ``empty`` is the problem of an empty file.

    Raises:
        ConfigError: when it cannot be read, or is no YAML mapping.
    """
    try:
        source = _read(path)
        return source, parse(source)
    except Unreadable as unreadable:
        problem = unreadable.problem
        raise ConfigError([located(path, problem._replace(text=empty) if problem.text == EMPTY else problem)]) from None


def lines(path: Path, document: Document, problems: Iterable[Problem], kind: str = "") -> list[str]:
    """The problems in the order of the file."""
    placed = [problem._replace(line=problem.line or document.line(problem.where)) for problem in problems]
    return [located(path, problem, kind) for problem in sorted(placed, key=lambda each: each.line)]


def _read(path: Path) -> bytes:
    try:
        if not str(path).startswith(_OWN_DESCRIPTORS):
            return files.read(path, MAX_CONFIG_BYTES)
        with path.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except FileTooLargeError:
        raise Unreadable(1, TOO_LARGE) from None
    except (OSError, ValueError) as error:
        raise Unreadable(1, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def located(path: Path, problem: Problem, kind: str = "") -> str:
    """A problem with its place, for a terminal."""
    where = f"{rendered(problem.where)}: " if problem.where else ""
    return printable(f"{path}:{problem.line}: {kind}{where}{problem.text}")
