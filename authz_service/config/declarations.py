"""Looks up what a pydantic model declares at a place of a file: the sections, keys and types there."""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz_service.config.document import Where

INDEX: Final = 0  # of an item: all items of a list are declared alike
ANY_KEY: Final = "*"  # of a mapping with keys of the user's own


def declared(where: Where, root: type[BaseModel]) -> tuple[Any, ...]:
    """The declarations at a place: fields of sections, or types of items."""
    found: tuple[Any, ...] = (root,)
    for part in where:
        found = tuple(inner for kind in flattened(found) for inner in inside(kind, part))
    return found


def flattened(declarations: Iterable[Any]) -> tuple[Any, ...]:
    """What declarations accept: the alternative types and their metadata."""
    return tuple(kind for each in declarations for kind in flat(each))


def flat(declaration: Any) -> Iterator[Any]:
    """The alternative types and the metadata of one declaration."""
    if isinstance(declaration, FieldInfo):
        yield from flat(declaration.annotation)
        yield from declaration.metadata
    elif get_origin(declaration) in {Annotated, Union, UnionType}:
        for part in get_args(declaration):
            yield from flat(part)
    else:
        yield declaration


def inside(kind: Any, part: str | int) -> Iterator[Any]:
    """What is declared under a key, or at an index of a list."""
    if is_section(kind):
        yield from (field for name, field in fields(kind) if part == name)
    elif get_origin(kind) is tuple:
        yield get_args(kind)[0]
    elif get_origin(kind) is dict:
        yield get_args(kind)[1]


def fields(kind: Any) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section with their declarations; none of anything else."""
    if is_section(kind):
        yield from ((field.alias or name, field) for name, field in kind.model_fields.items())


def is_section(kind: Any) -> bool:
    """Whether a type is a section of a file."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def sections(declaration: Any, where: Where = ()) -> Iterator[tuple[Where, type[BaseModel]]]:
    """Every section with its place, outer ones first. Places have ``INDEX`` and ``ANY_KEY``."""
    for kind in flat(declaration):
        if is_section(kind):
            yield where, kind
            for name, field in fields(kind):
                yield from sections(field, (*where, name))
        elif get_origin(kind) is tuple:
            yield from sections(get_args(kind)[0], (*where, INDEX))
        elif get_origin(kind) is dict:
            yield from sections(get_args(kind)[1], (*where, ANY_KEY))
