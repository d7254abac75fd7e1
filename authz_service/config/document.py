"""Parses YAML into plain values with line numbers.

Accepts what has exactly one reading, with JSON's types: strings, numbers as JSON writes them, booleans, null, lists,
and mappings with string keys. A value that two versions of YAML read differently is a problem, not a guess. Anchors,
aliases and merge keys (``<<``) are followed; the size of the result is bounded while it grows.

Size and control characters are checked before the parser runs. The parser delivers events, not its tree, which libyaml
composes recursively, and reads no further once they exceed the maximum depth. Where it stops, ``layout`` and ``syntax``
explain why, since the limits and messages of a parser change with its version.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from yaml.resolver import Resolver

from authz_service.config.files import MAX_CONFIG_BYTES
from authz_service.core.scalars import has_surrogate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from authz_service.config.kinds import Where

_MAX_DEPTH = 32  # levels; the settings themselves nest eight deep
_MAX_VALUES = 100_000  # after aliases are followed; a file of the maximum size rarely has more

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where the wheel has it: ten times faster
# YAML 1.1 section 5.1. Surrogates are not UTF-8, and compiling a class with characters beyond 255 takes a millisecond.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]|\ufffe|\uffff")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(\.[0-9]+)?")
_BOOLEANS = yaml.SafeLoader.bool_values
_PLAIN_KEY = re.compile(r"[\w-]{1,60}", re.ASCII)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_STRING = f"{_TAG}str"
_STRING_TAGS = frozenset({_STRING, f"{_TAG}timestamp", f"{_TAG}value"})  # a date and a lone = remain strings
_RESOLVERS = Resolver.yaml_implicit_resolvers  # by first character
TOO_LARGE = f"is larger than {MAX_CONFIG_BYTES >> 20} MiB, the maximum size of a configuration"
_TOO_DEEP = f"is nested deeper than {_MAX_DEPTH} levels"
EMPTY = "is empty: it needs at least issuers and rules"
_TOO_MANY_VALUES = f"has more than {_MAX_VALUES} values once its aliases are followed: write fewer"


class Problem(NamedTuple):
    """What is wrong at one place, and what would be right."""

    where: Where
    text: str
    line: int = 0  # 0: the line of ``where``


class Unreadable(Exception):  # noqa: N818 - it reads as a property of the file
    """The file as a whole cannot be read; ``problem`` has the reason and the line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem((), text, line)


class Document:
    """A mapping of plain values, with the line of each."""

    def __init__(self, root: _Mapping) -> None:
        """Convert a tree of nodes.

        Raises:
            Unreadable: if it has too many values.
        """
        reader = _Reader()
        self.value: dict[str, Any] = reader.document(root)
        self.problems = tuple(reader.problems)  # duplicate keys, keys that are not strings, values with an unknown tag
        self._root = root

    @cached_property
    def _nodes(self) -> Mapping[Where, _Located]:
        """What is at each place. Only a file with problems or warnings needs it."""
        nodes: dict[Where, _Located] = {}
        _Reader(nodes).document(self._root)
        return nodes

    def written(self, where: Where) -> str:
        """A scalar, as written; empty if there is none at a place."""
        node = self._nodes.get(where)
        return node.node.text if node is not None and isinstance(node.node, _Scalar) else ""

    def line(self, where: Where) -> int:
        """The line of a place, or of the nearest one around it."""
        while where not in self._nodes:
            where = where[:-1]
        return self._nodes[where].line


def rendered(where: Where) -> str:
    """A place in the form ``rules[0].require.scopes``."""
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if _PLAIN_KEY.fullmatch(part) else f"[{part[:60]!r}]"
        for part in where
    )
    return text.removeprefix(".")


def parse(data: bytes) -> Document:
    """Parse the bytes of a configuration file.

    Raises:
        Unreadable: if they are not one YAML mapping within the limits.
    """
    text = _decoded(data)
    try:
        root = _Composer(text).document()
    except (Unreadable, yaml.YAMLError, ValueError, OverflowError) as error:
        raise _explained(error, text) from None
    if isinstance(root, _Mapping):
        return Document(root)
    if isinstance(root, _Scalar) and not root.text:
        raise Unreadable(1, EMPTY)  # its line is after the last one
    raise Unreadable(root.line, "must be a mapping: lines of the form `key: value`")


def _decoded(data: bytes) -> str:
    if len(data) > MAX_CONFIG_BYTES:
        raise Unreadable(1, TOO_LARGE)
    try:
        text = data.decode("utf-8-sig", "strict")
    except UnicodeDecodeError as error:
        line = _line_of(data[: error.start].decode(), error.start)
        raise Unreadable(line, "is not UTF-8: save the file in this encoding") from None
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        line = _line_of(text, unprintable.start())
        raise Unreadable(line, f"contains the control character U+{ord(unprintable[0]):04X}: remove it")
    return text


def _line_of(text: str, place: int) -> int:
    from authz_service.config import layout

    return layout.line_of(text, place)


def _explained(error: Exception, text: str) -> Unreadable:
    """Why the parser or the composer stopped."""
    from authz_service.config import layout, syntax

    too_deep = layout.scan(text, max_levels=_MAX_DEPTH).too_deep
    if too_deep is not None:
        return Unreadable(layout.line_of(text, too_deep), _TOO_DEEP)
    if isinstance(error, Unreadable):
        return error
    mark = getattr(error, "problem_mark", None)  # pure PyYAML has none for numbers that are too large
    line, found = syntax.fault(text, mark.index if mark else 0)
    return Unreadable(line, f"is not YAML: {found}")


class _Scalar(NamedTuple):
    text: str
    tag: str  # resolved
    line: int


class _Sequence(NamedTuple):
    items: list[_Node]
    tag: str
    line: int


class _Mapping(NamedTuple):
    members: list[tuple[_Node, _Node]]
    tag: str
    line: int


_Node = _Scalar | _Sequence | _Mapping


class _Located(NamedTuple):
    """A node with the line of its place, which is that of its key if it is the value of one."""

    node: _Node
    line: int


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Composer:
    """Composes events into a tree of nodes, with aliases and merge keys resolved."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_PARSER))
        self._anchors: dict[str, _Node] = {}
        self._merged = 0

    def document(self) -> _Node:
        """The root of the one document."""
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise Unreadable(1, EMPTY)
        root = self._node(next(self._events), _MAX_DEPTH)
        next(self._events)  # the end of the document
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise Unreadable(_line(event), "a second document begins here: write one, without another ---")
        return root

    def _node(self, event: Any, levels: int) -> _Node:
        if not levels:
            raise Unreadable(_line(event), _TOO_DEEP)
        node: _Node
        if isinstance(event, yaml.ScalarEvent):
            node = _Scalar(event.value, _tag(event), _line(event))
            if has_surrogate(node.text):  # libyaml rejects it as an escape, pure PyYAML accepts it
                from authz_service.config.syntax import UNKNOWN_ESCAPE

                raise Unreadable(node.line, f"is not YAML: {UNKNOWN_ESCAPE}")
        elif isinstance(event, yaml.MappingStartEvent):
            node = _Mapping(self._members(levels), event.tag or f"{_TAG}map", _line(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _Sequence(list(self._items(levels)), event.tag or f"{_TAG}seq", _line(event))
        else:
            return self._anchored(event)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _items(self, levels: int) -> Iterator[_Node]:
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            yield self._node(event, levels - 1)

    def _anchored(self, alias: Any) -> _Node:
        # An anchor exists once its node is complete, so that no node can contain itself.
        if alias.anchor not in self._anchors:
            raise Unreadable(_line(alias), f"the alias *{alias.anchor[:60]} has no complete anchor above it")
        return self._anchors[alias.anchor]

    def _members(self, levels: int) -> list[tuple[_Node, _Node]]:
        """The members of a mapping: its own, then those of its merge keys that it does not override."""
        items = self._items(levels)
        written = [(key, next(items)) for key in items]
        if all(key.tag != _MERGE for key, _ in written):
            return written
        own = [member for member in written if member[0].tag != _MERGE]
        names = {key.text for key, _ in own if isinstance(key, _Scalar)}
        for merge, sources in written:
            for key, value in self._sources(sources) if merge.tag == _MERGE else ():
                if isinstance(key, _Scalar) and key.text not in names:
                    names.add(key.text)
                    own.append((key, value))
        return own

    def _sources(self, node: _Node) -> Iterator[tuple[_Node, _Node]]:
        for source in node.items if isinstance(node, _Sequence) else [node]:
            if not isinstance(source, _Mapping):
                raise Unreadable(node.line, "<< merges mappings only: write <<: *anchor")
            self._merged += 1 + len(source.members)
            if self._merged > _MAX_VALUES:
                raise Unreadable(node.line, _TOO_MANY_VALUES)
            yield from source.members


def _tag(event: Any) -> str:
    """The tag of a scalar: explicit, or, for a plain scalar, resolved from its text (YAML 1.1)."""
    if event.tag:
        return str(event.tag)
    if event.implicit[0]:
        for tag, looks in _RESOLVERS.get(event.value[:1], ()):
            if looks.match(event.value):
                return str(tag)
    return _STRING


class _Reader:
    """Converts nodes to plain values."""

    def __init__(self, nodes: dict[Where, _Located] | None = None) -> None:
        """``nodes`` is filled with the node at each place."""
        self.problems: list[Problem] = []
        self._nodes = nodes
        self._where: list[str | int] = []  # the current place
        self._values = 0

    def document(self, root: _Mapping) -> dict[str, Any]:
        """Convert the whole tree."""
        if self._nodes is not None:
            self._nodes[()] = _Located(root, root.line)
        return self._mapping(root)

    def _value(self, part: str | int, node: _Node, line: int) -> Any:
        """Convert the node at a key or an index of the current place."""
        self._values += 1
        where = self._where
        where.append(part)
        if self._values > _MAX_VALUES or len(where) > _MAX_DEPTH:
            raise Unreadable(line, _TOO_MANY_VALUES)
        if self._nodes is not None:
            self._nodes[tuple(where)] = _Located(node, line)
        value: Any
        if isinstance(node, _Scalar):
            value = node.text if node.tag == _STRING else self._scalar(node)
        elif isinstance(node, _Mapping):
            value = self._mapping(node)
        else:
            self._require_tag(node, "seq")
            value = [self._value(index, item, item.line) for index, item in enumerate(node.items)]
        where.pop()
        return value

    def _mapping(self, node: _Mapping) -> dict[str, Any]:
        self._require_tag(node, "map")
        first: dict[str, int] = {}
        mapping = {}
        for key, value in node.members:
            if not isinstance(key, _Scalar) or key.tag not in _STRING_TAGS:
                name = key.text if isinstance(key, _Scalar) else "?"
                self._add(key, "the key must be a string: write it in quotes", name)
            elif key.text in first:
                self._add(key, f"is written twice, first on line {first[key.text]}: remove one", key.text)
            else:
                first[key.text] = key.line
                mapping[key.text] = self._value(key.text, value, key.line)
        return mapping

    def _scalar(self, node: _Scalar) -> Any:
        text = node.text
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool" if text.lower() in _BOOLEANS:
                return _BOOLEANS[text.lower()]
            case "int" | "float" if number := _JSON_NUMBER.fullmatch(text):
                return float(text) if number[1] else int(text)
            case "int" | "float":
                self._add(node, "is a number that YAML versions read differently: write it in decimal, or in quotes")
            case _ if node.tag not in _STRING_TAGS and node.tag != _MERGE:
                self._require_tag(node, "str")
        return text

    def _require_tag(self, node: _Node, tag: str) -> None:
        if node.tag != _TAG + tag:
            self._add(node, f"has the tag {node.tag[:60]!r}, which has no meaning here: remove it")

    def _add(self, node: _Node, text: str, *key: str) -> None:
        """Add a problem at the current place, or at a key of it."""
        self.problems.append(Problem((*self._where, *key), text, node.line))
