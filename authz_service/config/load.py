"""Reads a configuration file into ``Settings``, or reports everything that is wrong with it.

Three stages: parse, validate, freeze. No stage hides the problems of the next: what could not be read is left out, and
the remainder is still checked as a whole.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from authz_service.config import consistency, messages
from authz_service.config.draft import Draft, around
from authz_service.config.kinds import Invalid, Many, Members, Where
from authz_service.config.model import (
    DpopSettings,
    Issuer,
    Logging,
    ResourceSettings,
    RuleSettings,
    Settings,
)
from authz_service.config.sections import Section, sections_within
from authz_service.config.server import Server
from authz_service.config.source import lines, parsed
from authz_service.config.values import STRING
from authz_service.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from authz_service.config.document import Document, Problem

# Values for required keys that are missing or could not be read. Nothing uses them in a draft.
_STAND_INS: Mapping[type[Section], Mapping[str, str]] = {
    Issuer: {"issuer": "https://unread.invalid"},
    RuleSettings: {"name": "unread"},
    ResourceSettings: {"resource": "https://unread.invalid"},
}
# Mappings of a rule that are left out as a whole: without the faulty member they would be empty, or less strict.
_NEVER_EMPTY = frozenset({("require", "claims"), ("require", "any_of"), ("match", "headers")})
_SCOPE_IMPLIES = Members(STRING, Many(STRING))
_Part = TypeVar("_Part", bound=Section)
TryOut: TypeAlias = "Callable[[Settings], Iterable[Problem]]"


def load(path: Path, try_out: TryOut = lambda _settings: (), *, look_at_files: bool = True) -> Settings:
    """Read a configuration file. Relative paths in it are relative to its folder.

    ``try_out`` finds further problems in settings that are valid otherwise. Without ``look_at_files``, the files that
    the configuration names need not exist.

    Raises:
        ConfigError: with every problem, sorted by line, each as ``FILE:LINE: path.to.key: what is wrong``.
    """
    return load_with_source(path, try_out, look_at_files=look_at_files)[0]


def load_with_source(
    path: Path, try_out: TryOut = lambda _settings: (), *, look_at_files: bool = True
) -> tuple[Settings, bytes]:
    """As ``load``, with the content of the file, in which ``warnings`` finds the lines of its findings.

    Raises:
        ConfigError: as ``load``.
    """
    source, document = parsed(path)
    settings, problems = _validate(document, path.parent if look_at_files else None)
    if settings is not None and not problems:
        problems = list(try_out(settings))
    if problems or settings is None:
        raise ConfigError(lines(path, document, problems))
    return settings, source


def load_as(section: type[_Part], path: Path, look_over: Callable[[_Part], Iterable[Problem]]) -> _Part:
    """Read a file of another kind with the same rules: every problem at once, each with its line.

    ``look_over`` finds further problems in a file that is valid otherwise.

    Raises:
        ConfigError: as ``load``.
    """
    _, document = parsed(path, f"is empty: it needs at least {' and '.join(section.declared)} ([] for none)")
    try:
        part = section.read(document.value)
    except Invalid as invalid:
        found = [*document.problems, *messages.problems(invalid, document, section)]
        raise ConfigError(lines(path, document, found)) from None
    if problems := [*document.problems, *look_over(part)]:
        raise ConfigError(lines(path, document, problems))
    return part


def _validate(document: Document, folder: Path | None) -> tuple[Settings | None, list[Problem]]:
    problems = list(document.problems)
    settings = None
    try:
        settings = Settings.read(document.value, folder)
    except Invalid as invalid:
        problems += messages.problems(invalid, document)
    if settings is None or problems:
        draft = _draft(document.value, folder, problems)
    else:
        draft = _whole(settings, document.value)
    problems += consistency.problems(draft)
    return settings, problems


def _whole(settings: Settings, value: Mapping[str, Any]) -> Draft:
    """The draft of settings without a problem; nothing is validated again."""
    return Draft(
        server=settings.server,
        issuers=dict(enumerate(settings.issuers)),
        rules=dict(enumerate(settings.rules)),
        headers=_upstream_headers(value),
        scope_implies=settings.scope_implies,
        dpop=settings.dpop,
        resources=dict(enumerate(settings.resources)),
        logging=settings.logging,
        unread=frozenset(),
        around_unread=frozenset(),
    )


def _upstream_headers(value: Mapping[str, Any]) -> Collection[str]:
    upstream = value.get("upstream")
    headers = upstream.get("headers") if isinstance(upstream, dict) else None
    return headers if isinstance(headers, dict) else ()


def _scope_implies(value: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """The part of scope_implies that could be read."""
    try:
        return _SCOPE_IMPLIES.read(value.get("scope_implies", {}))
    except Invalid:
        return {}


def _draft(value: Mapping[str, Any], folder: Path | None, problems: Iterable[Problem]) -> Draft:
    """The settings without the keys that have a problem."""
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
        scope_implies=_scope_implies(value),
        dpop=_part(DpopSettings, value.get("dpop"), ("dpop",), unread, folder),
        resources=parts(ResourceSettings, "resources"),
        logging=_part(Logging, value.get("logging"), ("logging",), unread, folder),
        unread=unread,
        around_unread=around(unread),
    )


def _unread(where: Where) -> Where:
    """The key to leave out for a problem at a place.

    Lists lose no items, since that would shift the indexes of the others. A section without a required key is left out
    as a whole.
    """
    if where[2:4] in _NEVER_EMPTY:
        return where[:4]
    if where[:1] == ("issuers",) and where[2:] in _required_of_issuers():
        return where[:-1]
    while len(where) > 2 and isinstance(where[-1], int):  # noqa: PLR2004 - the length of the place of an issuer or a rule
        where = where[:-1]
    return where


@cache
def _required_of_issuers() -> frozenset[Where]:
    """The required keys of sections within an issuer."""
    return frozenset(
        (*where, key) for where, section in sections_within(Issuer) if where for key in section.required_keys
    )


def _part(
    section: type[_Part], value: Any, where: Where, unread: frozenset[Where], folder: Path | None
) -> _Part | None:
    if not isinstance(value, dict):
        return None
    try:
        return section.read(_STAND_INS.get(section, {}) | _without(value, where, unread), folder)
    except Invalid:  # although the faulty keys are left out: a file that vanished meanwhile
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
