"""A configuration file becomes ``Settings``, or one list of everything that is wrong with it.

Law: three stages, parse, validate, freeze, and no stage hides the problems of the next: what could not be read is left
out, and the rest is still looked at as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from authz_service.config import messages, references
from authz_service.config.document import LARGEST, Document, Problem, Unreadable, Where, parse, rendered
from authz_service.config.model import Issuer, Rule, Section, Server, Settings
from authz_service.config.references import Draft
from authz_service.config.schema import schema
from authz_service.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

__all__ = ["load", "schema"]

# Required keys that are missing or could not be read stand like this in a draft, and are never looked at there.
_STAND_INS: Mapping[type[Section], Mapping[str, str]] = {
    Issuer: {"issuer": "https://unread.invalid"},
    Rule: {"name": "unread"},
}
# Required keys of sections within an issuer.
_REQUIRED: tuple[Where, ...] = (("introspection", "client_id"),)
_Part = TypeVar("_Part", bound=Section)


def load(path: Path, try_out: Callable[[Settings], Iterable[Problem]] = lambda _settings: ()) -> Settings:
    """Read a configuration file. Relative paths in it are relative to its folder.

    ``try_out`` may find further problems in settings that are otherwise good: those that take more than reading.

    Raises:
        ConfigError: with every problem, sorted by line, each as ``FILE:LINE: path.to.key: what is wrong``.
    """
    try:
        document = parse(_read(path))
    except Unreadable as unreadable:
        raise ConfigError([_line(path, unreadable.problem)]) from None
    settings, problems = _validate(document, path.parent)
    if settings is not None and not problems:
        problems = list(try_out(settings))
    if problems or settings is None:
        located = [problem._replace(line=problem.line or document.line(problem.where)) for problem in problems]
        raise ConfigError([_line(path, problem) for problem in sorted(located, key=lambda each: each.line)])
    return settings


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(1, f"can not be read: {getattr(error, 'strerror', None) or error}") from None


def _line(path: Path, problem: Problem) -> str:
    where = f"{rendered(problem.where)}: " if problem.where else ""
    return f"{path}:{problem.line}: {where}{problem.text}"


def _validate(document: Document, folder: Path) -> tuple[Settings | None, list[Problem]]:
    problems = list(document.problems)
    settings = None
    try:
        settings = Settings.model_validate(document.value, context=folder)
    except ValidationError as error:
        problems += messages.problems(error, document)
    problems += references.problems(_draft(document.value, folder, problems))
    return settings, problems


def _draft(value: Mapping[str, Any], folder: Path, problems: Iterable[Problem]) -> Draft:
    """What is left of the settings without what has a problem."""
    unread = frozenset(_unread(problem.where) for problem in problems)

    def parts(section: type[_Part], key: str) -> dict[int, _Part]:
        items = value.get(key)
        numbered = enumerate(items if isinstance(items, list) else ())
        read = {place: _part(section, item, (key, place), unread, folder) for place, item in numbered}
        return {place: part for place, part in read.items() if part is not None}

    upstream = value.get("upstream")
    headers = upstream.get("headers") if isinstance(upstream, dict) else None
    return Draft(
        server=_part(Server, value.get("server", {}), ("server",), unread | {("server", "tls")}, folder),
        issuers=parts(Issuer, "issuers"),
        rules=parts(Rule, "rules"),
        headers=headers if isinstance(headers, dict) else (),
        unread=unread,
    )


def _unread(where: Where) -> Where:
    """The key to leave out for a problem at a place: lists lose no items, or the places of the others would move.

    A section without a key that it requires is left out as a whole.
    """
    if where[:1] == ("issuers",) and where[2:] in _REQUIRED:
        return where[:-1]
    while len(where) > 2 and isinstance(where[-1], int):  # noqa: PLR2004 - an issuer or a rule is left out itself
        where = where[:-1]
    return where


def _part(section: type[_Part], value: Any, where: Where, unread: frozenset[Where], folder: Path) -> _Part | None:
    if not isinstance(value, dict):
        return None
    try:
        return section.model_validate(_STAND_INS.get(section, {}) | _without(value, where, unread), context=folder)
    except ValidationError:  # once the rest is left out: a file that has gone meanwhile
        return None


def _without(value: Any, where: Where, unread: frozenset[Where]) -> Any:
    match value:
        case dict():
            members = ((key, (*where, key), member) for key, member in value.items())
            return {key: _without(member, place, unread) for key, place, member in members if place not in unread}
        case list():
            return [_without(item, (*where, place), unread) for place, item in enumerate(value)]
        case _:
            return value
