"""A configuration file becomes ``Settings``, or one list of everything that is wrong with it.

Law: three stages, parse, validate, freeze, and no stage hides the problems of the next: what could not be read is left
out, and the rest is still looked at as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import ValidationError

from authz_service.config import files, messages, references
from authz_service.config.document import TOO_LARGE, Document, Problem, Unreadable, Where, parse, rendered
from authz_service.config.files import MAX_CONFIG_BYTES, FileTooLargeError
from authz_service.config.model import Issuer, RuleSettings, Section, Server, Settings
from authz_service.config.references import Draft
from authz_service.config.schema import schema
from authz_service.config.warnings import warnings
from authz_service.core.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

__all__ = ["load", "load_as", "load_with_warnings", "schema", "server_of"]

# What a shell makes of <(command), to which somebody writes. Another pipe would be waited for, perhaps for ever.
_OWN_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
# Required keys that are missing or could not be read stand like this in a draft, and are never looked at there.
_STAND_INS: Mapping[type[Section], Mapping[str, str]] = {
    Issuer: {"issuer": "https://unread.invalid"},
    RuleSettings: {"name": "unread"},
}
# Mappings of a rule that are left out as a whole: without the member that is wrong they would be empty, or less strict.
_NEVER_EMPTY = frozenset({("require", "claims"), ("match", "headers")})
# Required keys of sections within an issuer.
_REQUIRED: tuple[Where, ...] = (("introspection", "client_id"),)
_Part = TypeVar("_Part", bound=Section)
TryOut: TypeAlias = "Callable[[Settings], Iterable[Problem]]"


def load(path: Path, try_out: TryOut = lambda _settings: (), *, look_at_files: bool = True) -> Settings:
    """Read a configuration file. Relative paths in it are relative to its folder.

    ``try_out`` may find further problems in settings that are otherwise good: those that take more than reading.
    Without ``look_at_files`` the files that it names need not be there.

    Raises:
        ConfigError: with every problem, sorted by line, each as ``FILE:LINE: path.to.key: what is wrong``.
    """
    return _load(path, try_out, path.parent if look_at_files else None)[0]


def load_as(section: type[_Part], path: Path, look_over: Callable[[_Part], Iterable[Problem]]) -> _Part:
    """Read a file of another kind by the same rules: every problem at once, each with its line.

    ``look_over`` may find further problems in what is otherwise good.

    Raises:
        ConfigError: as ``load``.
    """
    document = _parsed(path)
    try:
        part = section.model_validate(document.value)
    except ValidationError as error:
        found = [*document.problems, *messages.problems(error, document, section)]
        raise ConfigError(_lines(path, document, found)) from None
    if problems := [*document.problems, *look_over(part)]:
        raise ConfigError(_lines(path, document, problems))
    return part


def load_with_warnings(path: Path, try_out: TryOut) -> tuple[Settings, tuple[str, ...]]:
    """As ``load``, with what is legal and dangerous: ``FILE:LINE: warning: path.to.key: what may happen``.

    Raises:
        ConfigError: as ``load``.
    """
    settings, document = _load(path, try_out, path.parent)
    return settings, tuple(_lines(path, document, warnings(settings), "warning: "))


def server_of(path: Path) -> Server:
    """The ``server`` section alone, whatever may be wrong with the others.

    Raises:
        ConfigError: when that section cannot be read.
    """
    document = _parsed(path)
    problems = [problem for problem in _validate(document, path.parent)[1] if problem.where[:1] == ("server",)]
    if problems:
        raise ConfigError(_lines(path, document, problems))
    return Server.model_validate(document.value.get("server", {}), context=path.parent)


def _load(path: Path, try_out: TryOut, folder: Path | None) -> tuple[Settings, Document]:
    document = _parsed(path)
    settings, problems = _validate(document, folder)
    if settings is not None and not problems:
        problems = list(try_out(settings))
    if problems or settings is None:
        raise ConfigError(_lines(path, document, problems))
    return settings, document


def _parsed(path: Path) -> Document:
    try:
        return parse(_read(path))
    except Unreadable as unreadable:
        raise ConfigError([_line(path, unreadable.problem)]) from None


def _lines(path: Path, document: Document, problems: Iterable[Problem], kind: str = "") -> list[str]:
    """The problems in the order of the file."""
    located = [problem._replace(line=problem.line or document.line(problem.where)) for problem in problems]
    return [_line(path, problem, kind) for problem in sorted(located, key=lambda each: each.line)]


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


def _line(path: Path, problem: Problem, kind: str = "") -> str:
    where = f"{rendered(problem.where)}: " if problem.where else ""
    return printable(f"{path}:{problem.line}: {kind}{where}{problem.text}")


def _validate(document: Document, folder: Path | None) -> tuple[Settings | None, list[Problem]]:
    problems = list(document.problems)
    settings = None
    try:
        settings = Settings.model_validate(document.value, context=folder)
    except ValidationError as error:
        problems += messages.problems(error, document)
    if settings is None or problems:
        draft = _draft(document.value, folder, problems)
    else:
        draft = _whole(settings, document.value)
    problems += references.problems(draft)
    return settings, problems


def _whole(settings: Settings, value: Mapping[str, Any]) -> Draft:
    """The draft of settings without a problem, which nothing has to be read again for."""
    return Draft(
        server=settings.server,
        issuers=dict(enumerate(settings.issuers)),
        rules=dict(enumerate(settings.rules)),
        headers=_upstream_headers(value),
        unread=frozenset(),
    )


def _upstream_headers(value: Mapping[str, Any]) -> Collection[str]:
    upstream = value.get("upstream")
    headers = upstream.get("headers") if isinstance(upstream, dict) else None
    return headers if isinstance(headers, dict) else ()


def _draft(value: Mapping[str, Any], folder: Path | None, problems: Iterable[Problem]) -> Draft:
    """What is left of the settings without what has a problem."""
    unread = frozenset(_unread(problem.where) for problem in problems)

    def parts(section: type[_Part], key: str) -> dict[int, _Part]:
        items = value.get(key)
        numbered = enumerate(items if isinstance(items, list) else ())
        read = {place: _part(section, item, (key, place), unread, folder) for place, item in numbered}
        return {place: part for place, part in read.items() if part is not None}

    return Draft(
        server=_part(Server, value.get("server", {}), ("server",), unread | {("server", "tls")}, folder),
        issuers=parts(Issuer, "issuers"),
        rules=parts(RuleSettings, "rules"),
        headers=_upstream_headers(value),
        unread=unread,
    )


def _unread(where: Where) -> Where:
    """The key to leave out for a problem at a place: lists lose no items, or the places of the others would move.

    A section without a key that it requires is left out as a whole.
    """
    if where[2:4] in _NEVER_EMPTY:
        return where[:4]
    if where[:1] == ("issuers",) and where[2:] in _REQUIRED:
        return where[:-1]
    while len(where) > 2 and isinstance(where[-1], int):  # noqa: PLR2004 - an issuer or a rule is left out itself
        where = where[:-1]
    return where


def _part(
    section: type[_Part], value: Any, where: Where, unread: frozenset[Where], folder: Path | None
) -> _Part | None:
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
