"""Parses YAML into plain values with line numbers.

Accepts what has exactly one reading, with JSON's types: strings, numbers as JSON writes them, booleans, null, lists,
and mappings with string keys. A value that two versions of YAML read differently is a problem, not a guess. Anchors,
aliases and merge keys (``<<``) are followed; the size of the result is bounded while it grows.

Size, control characters and depth are checked before the parser runs, and ``syntax`` explains what is not YAML, since
the limits and messages of a parser change with its version. The parser delivers events, not its tree, which libyaml
composes recursively.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from yaml.resolver import Resolver

from authz_service.config import layout, syntax
from authz_service.config.files import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

Where = tuple[str | int, ...]  # the keys and list indexes that lead to a value

_MAX_DEPTH = 32  # levels; the settings themselves nest eight deep
_MAX_VALUES = 100_000  # after aliases are followed; a file of the maximum size rarely has more

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where the wheel has it: ten times faster
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1 section 5.1
_SURROGATE = re.compile("[\ud800-\udfff]")  # libyaml rejects them, pure PyYAML accepts them as escapes
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(\.[0-9]+)?")
_BOOLEANS = yaml.SafeLoader.bool_values
_PLAIN_KEY = re.compile(r"[\w-]{1,60}", re.ASCII)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_STRING_TAGS = frozenset({"str", "timestamp", "value"})  # a date and a lone = remain strings
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


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping of plain values, with the line of each."""

    value: dict[str, Any]
    problems: tuple[Problem, ...]  # duplicate keys, keys that are not strings, values with an unknown tag
    lines: dict[Where, int]
    written: dict[Where, str]  # scalars, as written

    def place(self, where: Where) -> Where:
        """The place in the file. A missing key keeps its name; keys that validation added are left out.

        ``scopes: [a]`` is validated as ``scopes: {all: [a]}``: the place of ``scopes.all[0]`` is ``scopes[0]``.
        """
        place: Where = ()
        for part in where[:-1]:
            if (*place, part) in self.lines:
                place = (*place, part)
        return (*place, *where[-1:])

    def line(self, where: Where) -> int:
        """The line of a place, or of the nearest one around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines[where]


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
    too_deep = layout.scan(text, max_levels=_MAX_DEPTH).too_deep
    if too_deep is not None:
        raise Unreadable(layout.line_of(text, too_deep), _TOO_DEEP)
    try:
        root = _Composer(text).document()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _syntax(error, text) from None
    if root.value == "":
        raise Unreadable(1, EMPTY)  # its mark is after the last line
    if not isinstance(root, yaml.MappingNode):
        raise Unreadable(_line(root), "must be a mapping: lines of the form `key: value`")
    return _Reader().document(root)


def _decoded(data: bytes) -> str:
    if len(data) > MAX_CONFIG_BYTES:
        raise Unreadable(1, TOO_LARGE)
    try:
        text = data.decode("utf-8-sig", "strict")
    except UnicodeDecodeError as error:
        line = layout.line_of(data[: error.start].decode(), error.start)
        raise Unreadable(line, "is not UTF-8: save the file in this encoding") from None
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        line = layout.line_of(text, unprintable.start())
        raise Unreadable(line, f"contains the control character U+{ord(unprintable[0]):04X}: remove it")
    return text


def _syntax(error: Exception, text: str) -> Unreadable:
    mark = getattr(error, "problem_mark", None)  # pure PyYAML has none for numbers that are too large
    line, found = syntax.fault(text, mark.index if mark else 0)
    return Unreadable(line, f"is not YAML: {found}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Composer:
    """Composes events into a tree of nodes, with aliases and merge keys resolved."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_PARSER))
        self._anchors: dict[str, yaml.Node] = {}
        self._merged = 0

    def document(self) -> yaml.Node:
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

    def _node(self, event: Any, levels: int) -> yaml.Node:
        if not levels:
            raise Unreadable(_line(event), _TOO_DEEP)
        if isinstance(event, yaml.AliasEvent):
            return self._anchored(event)
        node: yaml.Node
        if isinstance(event, yaml.ScalarEvent):
            node = yaml.ScalarNode(_tag(event), event.value, _mark(event))
            if _SURROGATE.search(event.value):
                raise Unreadable(_line(node), f"is not YAML: {syntax.UNKNOWN_ESCAPE}")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = yaml.SequenceNode(event.tag or f"{_TAG}seq", list(self._items(levels)), _mark(event))
        else:
            node = yaml.MappingNode(event.tag or f"{_TAG}map", self._members(levels), _mark(event))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _items(self, levels: int) -> Iterator[yaml.Node]:
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            yield self._node(event, levels - 1)

    def _anchored(self, event: Any) -> yaml.Node:
        # An anchor exists once its node is complete, so that no node can contain itself.
        if event.anchor not in self._anchors:
            raise Unreadable(_line(event), f"the alias *{event.anchor[:60]} has no complete anchor above it")
        return self._anchors[event.anchor]

    def _members(self, levels: int) -> list[tuple[yaml.Node, yaml.Node]]:
        """The members of a mapping: its own, then those of its merge keys that it does not override."""
        items = self._items(levels)
        written = [(key, next(items)) for key in items]
        own = [member for member in written if member[0].tag != _MERGE]
        names = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
        for merge, sources in written:
            for key, value in self._sources(sources) if merge.tag == _MERGE else ():
                if isinstance(key, yaml.ScalarNode) and key.value not in names:
                    names.add(key.value)
                    own.append((key, value))
        return own

    def _sources(self, node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                raise Unreadable(_line(node), "<< merges mappings only: write <<: *anchor")
            self._merged += 1 + len(source.value)
            if self._merged > _MAX_VALUES:
                raise Unreadable(_line(node), _TOO_MANY_VALUES)
            yield from source.value


def _mark(event: Any) -> Any:
    return event.start_mark


def _tag(event: Any) -> str:
    """The tag of a scalar: explicit, or, for a plain scalar, resolved from its text (YAML 1.1)."""
    if event.tag:
        return str(event.tag)
    if event.implicit[0]:
        for tag, looks in Resolver.yaml_implicit_resolvers.get(event.value[:1], ()):
            if looks.match(event.value):
                return str(tag)
    return f"{_TAG}str"


class _Reader:
    """Converts nodes to plain values."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._lines: dict[Where, int] = {}
        self._written: dict[Where, str] = {}
        self._values = 0

    def document(self, root: yaml.MappingNode) -> Document:
        """Convert the whole tree."""
        self._lines[()] = _line(root)
        value = self._mapping(root, ())
        return Document(value, tuple(self._problems), self._lines, self._written)

    def _value(self, node: yaml.Node, where: Where, line: int) -> Any:
        self._values += 1
        if self._values > _MAX_VALUES or len(where) > _MAX_DEPTH:
            raise Unreadable(line, _TOO_MANY_VALUES)
        self._lines[where] = line
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            self._require_tag(node, where, "seq")
            return [self._value(item, (*where, place), _line(item)) for place, item in enumerate(node.value)]
        self._written[where] = node.value
        return self._scalar(node, where)

    def _mapping(self, node: yaml.Node, where: Where) -> dict[str, Any]:
        self._require_tag(node, where, "map")
        first: dict[str, int] = {}
        mapping = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.removeprefix(_TAG) not in _STRING_TAGS:
                self._add_key_problem(key, where)
            elif key.value in first:
                self._add(key, (*where, key.value), f"is written twice, first on line {first[key.value]}: remove one")
            else:
                first[key.value] = _line(key)
                mapping[key.value] = self._value(value, (*where, key.value), _line(key))
        return mapping

    def _add_key_problem(self, key: yaml.Node, where: Where) -> None:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        self._add(key, (*where, name), "the key must be a string: write it in quotes")

    def _scalar(self, node: yaml.Node, where: Where) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool" if text.lower() in _BOOLEANS:
                return _BOOLEANS[text.lower()]
            case "int" | "float" if number := _JSON_NUMBER.fullmatch(text):
                return float(text) if number[1] else int(text)
            case "int" | "float":
                self._add(
                    node, where, "is a number that YAML versions read differently: write it in decimal, or in quotes"
                )
            case tag if tag not in _STRING_TAGS and tag != "merge":
                self._require_tag(node, where, "str")
        return text

    def _require_tag(self, node: yaml.Node, where: Where, tag: str) -> None:
        if node.tag != _TAG + tag:
            self._add(node, where, f"has the tag {node.tag[:60]!r}, which has no meaning here: remove it")

    def _add(self, node: yaml.Node, where: Where, text: str) -> None:
        self._problems.append(Problem(where, text, _line(node)))
