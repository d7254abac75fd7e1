"""The kinds of values in a file, and what is found when a value is not of its kind.

Pure, apart from kinds that look at files. A kind turns a value, as the parser of a file returns it, into the value that
the settings hold; it coerces nothing. If the file's folder is passed along, paths become relative to it and must exist;
without it, paths are kept as written.

Invariants: reading never changes a value, and raises nothing but ``ValueError``: an ``Invalid`` with every finding, or
one whose text says what is wrong and what would be right. No finding hides another, except that what concerns a value
as a whole is looked for once its parts are valid. The work is linear in the value, and follows the declared kinds
alone, so a value may be nested to any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")
K = TypeVar("K")

Where: TypeAlias = tuple[str | int, ...]  # the keys and list indexes that lead to a value

INDEX: Final = 0  # of an item: all items of a list are declared alike
ANY_KEY: Final = "*"  # of a mapping with keys of the user's own

Fault: TypeAlias = Literal[
    "unknown key",
    "missing key",
    "empty",
    "wrong type",
    "not a choice",
    "too small",
    "too large",
    "no members",
    "same name",  # as the key in ``value``, which comes first
    "refused",  # for the reason in ``text``
]


class Finding(NamedTuple):
    """What is wrong at one place."""

    where: Where
    fault: Fault
    value: Any
    kind: Kind[Any]  # what the value should be; of an unknown key, the section around it
    text: str = ""


class Invalid(ValueError):  # noqa: N818 - it reads as a property of the value
    """The value is not of its kind."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(findings)
        self.findings = findings

    def __str__(self) -> str:
        return "; ".join(f"{'.'.join(map(str, each.where))}: {each.text or each.fault}" for each in self.findings)


class Kind(Generic[T]):
    """A kind of value that becomes a ``T``."""

    noun: str = ""  # for a message about a value of another type

    def read(self, value: Any, folder: Path | None = None) -> T:
        """The value that the settings hold.

        Raises:
            ValueError: if the value is not of this kind.
        """
        raise NotImplementedError

    def accepts(self, value: Any) -> bool:
        """Whether the value is of this kind."""
        try:
            self.read(value)
        except ValueError:
            return False
        return True

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        """The kinds that this one consists of, with their places in it. Places have ``INDEX`` and ``ANY_KEY``."""
        yield from ()

    def other_type(self, value: Any) -> Invalid:
        """What to raise for a value of another type."""
        return Invalid([Finding((), "empty" if value is None else "wrong type", value, self)])


def walk(kind: Kind[Any], where: Where = ()) -> Iterator[tuple[Where, Kind[Any]]]:
    """A kind and all those within it with their places, outer ones first."""
    yield where, kind
    for place, part in kind.parts():
        yield from walk(part, (*where, *place))


def findings_of(error: ValueError, kind: Kind[Any], value: Any) -> list[Finding]:
    """The findings that reading a value raised."""
    return error.findings if isinstance(error, Invalid) else [Finding((), "refused", value, kind, str(error))]


def findings_at(place: str | int, error: ValueError, kind: Kind[Any], value: Any) -> list[Finding]:
    """As ``findings_of``, for a value at a place within another one."""
    return [each._replace(where=(place, *each.where)) for each in findings_of(error, kind, value)]


class Anything(Kind[Any]):
    """Any value, unchanged."""

    def read(self, value: Any, folder: Path | None = None) -> Any:
        return value


class Flag(Kind[bool]):
    """True or false."""

    noun = "true or false"

    def read(self, value: Any, folder: Path | None = None) -> bool:
        if not isinstance(value, bool):
            raise self.other_type(value)
        return value


class Scalar(Kind[str | int | float | bool]):
    """A string that is not empty, a number, true or false."""

    noun = "a string, a number, true or false"

    def read(self, value: Any, folder: Path | None = None) -> str | int | float | bool:
        if not isinstance(value, (str, int, float)):
            raise self.other_type(value)
        if value == "":
            raise Invalid([Finding((), "empty", value, self)])
        return value


class Whole(Kind[int]):
    """A whole number, within bounds."""

    noun = "a whole number"

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def read(self, value: Any, folder: Path | None = None) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.other_type(value)
        if self.minimum is not None and value < self.minimum:
            raise Invalid([Finding((), "too small", value, self)])
        if self.maximum is not None and value > self.maximum:
            raise Invalid([Finding((), "too large", value, self)])
        return value


class Text(Kind[T]):
    """A string, and what it is parsed to.

    ``otherwise`` is the text for a value that is not a string; ``keywords`` are those of its JSON Schema.
    """

    noun = "a string"

    def __init__(
        self, parse: Callable[[str], T], *, otherwise: str = "", keywords: dict[str, Any] | None = None
    ) -> None:
        self._parse = parse
        self._otherwise = otherwise
        self.keywords = keywords or {}

    def read(self, value: Any, folder: Path | None = None) -> T:
        if isinstance(value, str):
            return self._parse(value)
        if self._otherwise:
            raise ValueError(self._otherwise)
        raise self.other_type(value)


class TextInFolder(Text[T]):
    """A string whose meaning depends on the folder of the file."""

    def __init__(self, parse: Callable[[str, Path | None], T], *, otherwise: str = "") -> None:
        super().__init__(lambda value: parse(value, None), otherwise=otherwise)
        self._parse_in = parse

    def read(self, value: Any, folder: Path | None = None) -> T:
        return self._parse_in(value, folder) if isinstance(value, str) else super().read(value)


class OneOf(Kind[Any]):
    """One of the values of a ``Literal``."""

    def __init__(self, literal: Any) -> None:
        self.choices: tuple[Any, ...] = get_args(literal)

    def read(self, value: Any, folder: Path | None = None) -> Any:
        for choice in self.choices:
            if type(value) is type(choice) and value == choice:
                return value
        raise Invalid([Finding((), "empty" if value is None else "not a choice", value, self)])


class Many(Kind[tuple[T, ...]]):
    """A list, stored as a tuple, so that settings are deeply frozen."""

    noun = "a list"

    def __init__(self, item: Kind[T], *, may_be_empty: bool = True) -> None:
        self.item = item
        self.may_be_empty = may_be_empty

    def read(self, value: Any, folder: Path | None = None) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            raise self.other_type(value)
        read, items, findings = self.item.read, [], []
        for index, item in enumerate(value):
            try:
                items.append(read(item, folder))
            except ValueError as error:
                findings += findings_at(index, error, self.item, item)
        if not (value or self.may_be_empty):
            findings.append(Finding((), "no members", value, self))
        if findings:
            raise Invalid(findings)
        return tuple(items)

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (INDEX,), self.item


def some(item: Kind[T]) -> Many[T]:
    """A list with at least one item."""
    return Many(item, may_be_empty=False)


class Members(Kind[dict[K, T]]):
    """A mapping whose keys are the user's own. Two that are read as the same one are a finding, as none may be lost."""

    noun = "a mapping, lines of the form `key: value`"

    def __init__(self, name: Kind[K], member: Kind[T], *, may_be_empty: bool = True) -> None:
        self.name = name
        self.member = member
        self.may_be_empty = may_be_empty

    def read(self, value: Any, folder: Path | None = None) -> dict[K, T]:
        if not isinstance(value, dict):
            raise self.other_type(value)
        names, findings = self._read_names(value)
        members: dict[K, T] = {}
        for name, member in value.items():
            try:
                read = self.member.read(member, folder)
            except ValueError as error:
                findings += findings_at(name, error, self.member, member)
            else:
                if name in names:
                    members[names[name]] = read
        if not (value or self.may_be_empty):
            findings.append(Finding((), "no members", value, self))
        if findings:
            raise Invalid(findings)
        return members

    def _read_names(self, value: dict[Any, Any]) -> tuple[dict[Any, K], list[Finding]]:
        """The names as written with what they are read as, and what was found."""
        names: dict[Any, K] = {}
        first: dict[K, Any] = {}
        findings = []
        for name in value:
            try:
                names[name] = key = self.name.read(name)
            except ValueError as error:
                findings += findings_at(name, error, self.name, name)
            else:
                if (earlier := first.setdefault(key, name)) != name:
                    findings.append(Finding((name,), "same name", earlier, self.name))
        return names, findings

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (ANY_KEY,), self.member


class Nullable(Kind[T | None]):
    """A kind of value, or null."""

    def __init__(self, inner: Kind[T]) -> None:
        self.inner = inner

    def read(self, value: Any, folder: Path | None = None) -> T | None:
        return None if value is None else self.inner.read(value, folder)

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (), self.inner


class Prepared(Kind[T]):
    """A kind whose value is looked at, or replaced, before it is read.

    ``written`` is the kind of value that a file may have, if it is another one.
    """

    def __init__(self, inner: Kind[T], prepare: Callable[[Any], Any], *, written: tuple[Kind[Any], ...] = ()) -> None:
        self.inner = inner
        self.written = written or (inner,)
        self._prepare = prepare

    def read(self, value: Any, folder: Path | None = None) -> T:
        return self.inner.read(self._prepare(value), folder)

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (), self.inner


class Checked(Kind[T]):
    """A kind with a further check, which may replace the value that was read."""

    def __init__(self, inner: Kind[T], check: Callable[[T], T]) -> None:
        self.inner = inner
        self._check = check

    def read(self, value: Any, folder: Path | None = None) -> T:
        return self._check(self.inner.read(value, folder))

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (), self.inner
