"""Declares the sections of a file: one ``SectionKey`` for each key, with its kind, default and description.

A section is a class whose attributes are keys, and whose instances have the values:

    class Tls(Section):
        key_file = required(FILE, description="The private key.")
        client_ca_file = optional(FILE, description="Trust anchors. Default: no client certificate is requested.")

    Tls.read({"key_file": "tls.key"}).key_file  # a Path

Invariants: sections are frozen. They have no key that is not declared, and every default is valid. A key that may be
left out may not be left empty instead, so that an accidental empty value never means "everything" or "off".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, overload

from authz_service.config.kinds import Finding, Invalid, Kind, Nullable, findings_at, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Never, Self

    from authz_service.config.kinds import Where

T = TypeVar("T")
A = TypeVar("A")
S = TypeVar("S", bound="Section")

NOT_SHOWN: Final = object()  # the default of a key whose default cannot be written, or an example that there is not


class SectionKey(Generic[T]):
    """A key of a section."""

    __slots__ = ("attribute", "default", "description", "example", "if_absent", "kind", "name", "refuses_null")

    def __init__(
        self,
        kind: Kind[Any],
        description: str,
        if_absent: Callable[[], T] | None,
        *,
        default: Any = NOT_SHOWN,
        example: Any = NOT_SHOWN,
        name: str = "",
        refuses_null: bool = False,
    ) -> None:
        self.kind = kind
        self.description = description
        self.example = example  # as written, or NOT_SHOWN
        self.if_absent = if_absent  # None: the key is required
        self.default = default  # as written, or NOT_SHOWN
        self.name = name  # in the file
        self.attribute = name  # of the section
        self.refuses_null = refuses_null  # whatever the kind does

    if TYPE_CHECKING:  # ``Section`` stores the values where plain attributes are found

        def __get__(self, section: Section, owner: type[Section]) -> T: ...
        def __set__(self, section: Section, value: Never) -> None: ...


def required(kind: Kind[T], *, description: str, example: Any = NOT_SHOWN) -> SectionKey[T]:
    """A key that must be written."""
    return SectionKey(kind, description, None, example=example)


def key(kind: Kind[T], *, default: Any, description: str, example: Any = NOT_SHOWN) -> SectionKey[T]:
    """A key with a default, which is given as it would be written, as is the example."""
    return SectionKey(kind, description, lambda: kind.read(default), default=default, example=example)


@overload
def optional(kind: Kind[T], *, description: str, example: Any = ..., name: str = ...) -> SectionKey[T | None]: ...
@overload
def optional(kind: Kind[T], *, description: str, example: Any = ..., if_absent: A) -> SectionKey[T | A]: ...
def optional(
    kind: Kind[Any], *, description: str, example: Any = NOT_SHOWN, if_absent: Any = None, name: str = ""
) -> SectionKey[Any]:
    """A key that may be left out, which is something that no value can express.

    ``name`` is its name in the file, if that is not an identifier.
    """
    return SectionKey(kind, description, lambda: if_absent, example=example, name=name, refuses_null=True)


def nullable(kind: Kind[T], *, description: str, example: Any = NOT_SHOWN) -> SectionKey[T | None]:
    """A key whose default is null, which may be written."""
    return SectionKey(Nullable(kind), description, lambda: None, default=None, example=example)


def nested(
    section: type[S], *, description: str, example: Any = NOT_SHOWN, kind: Kind[S] | None = None
) -> SectionKey[S]:
    """A section that has its own defaults if it is left out."""
    return SectionKey(kind or SectionKind(section), description, section, example=example)


class Section:
    """A section of a file: no unknown keys, no coercion, frozen.

    The docstring is its description, ``title`` its name in the JSON Schema if it is not the class's, and ``keywords``
    are further ones of the schema. Several keys are checked by ``check``.
    """

    declared: ClassVar[Mapping[str, SectionKey[Any]]] = {}  # by name in the file, with those of the parent classes
    required_keys: ClassVar[frozenset[str]] = frozenset()  # those that must be written
    title: ClassVar[str] = ""
    keywords: ClassVar[Mapping[str, Any]] = {}
    has_other_keys: ClassVar[bool] = False  # of the user's own, with any values
    _attributes: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any] | None] = None  # by attribute; read when the first section of the class is

    written: frozenset[str]  # the keys that the file has
    others: Mapping[str, Any]  # keys of the user's own with their values

    def __init_subclass__(
        cls, *, title: str = "", keywords: Mapping[str, Any] | None = None, has_other_keys: bool = False
    ) -> None:
        super().__init_subclass__()
        own = {name: value for name, value in vars(cls).items() if isinstance(value, SectionKey)}
        for attribute, each in own.items():
            each.attribute = attribute
            each.name = each.name or attribute
            delattr(cls, attribute)  # an instance's attributes alone are found fastest
        cls.declared = {**cls.declared, **{each.name: each for each in own.values()}}
        cls.title = title or cls.__name__
        cls.keywords = keywords or {}
        cls.has_other_keys = has_other_keys
        cls._attributes = tuple(each.attribute for each in cls.declared.values())
        cls.required_keys = frozenset(name for name, each in cls.declared.items() if each.if_absent is None)
        cls._defaults = None

    def __new__(cls, **written: Any) -> Self:
        """As ``read``."""
        return cls.read(written)

    @classmethod
    def read(cls, value: Any, folder: Path | None = None) -> Self:
        """The section that a file has; relative paths in it are relative to the folder.

        Raises:
            Invalid: with every finding.
        """
        if not isinstance(value, dict):
            if isinstance(value, cls):
                return value
            raise SectionKind(cls).other_type(value)
        values, others, findings = cls._read_members(value, folder)
        if missing := cls.required_keys - value.keys():
            kinds = {name: each.kind for name, each in cls.declared.items() if name in missing}
            findings += [Finding((name,), "missing key", value, kind) for name, kind in kinds.items()]
        if findings:
            order = {name: place for place, name in enumerate(cls.declared)}
            raise Invalid(sorted(findings, key=lambda each: order.get(str(each.where[0]), len(order))))
        self = cls._of(values, frozenset(value), others)
        try:
            self.check()
        except ValueError as error:
            raise Invalid([Finding((), "refused", value, SectionKind(cls), str(error))]) from None
        return self

    @classmethod
    def _read_members(
        cls, value: dict[str, Any], folder: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any], list[Finding]]:
        """The values by attribute, the keys that are not declared, and what was found."""
        values = cls.defaults().copy()
        others: dict[str, Any] = {}
        findings: list[Finding] = []
        implied = cls.implied(value)
        for name, written in ({**value, **implied} if implied else value).items():
            declared = cls.declared.get(name)
            if declared is not None:
                if written is None and declared.refuses_null:
                    findings.append(Finding((name,), "empty", None, declared.kind))
                    continue
                try:
                    values[declared.attribute] = declared.kind.read(written, folder)
                except ValueError as error:
                    findings += findings_at(name, error, declared.kind, written)
            elif cls.has_other_keys:
                others[name] = written
            else:
                findings.append(Finding((name,), "unknown key", written, SectionKind(cls)))
        return values, others, findings

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The values of the keys that are not required, by attribute, if they are left out."""
        if cls._defaults is None:
            keys = [(each.attribute, each.if_absent) for each in cls.declared.values()]
            cls._defaults = {attribute: if_absent() for attribute, if_absent in keys if if_absent is not None}
        return cls._defaults

    @classmethod
    def implied(cls, value: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG003 - for sections that need it
        """Keys that are read as if they were written, because of others."""
        return {}

    def check(self) -> None:
        """Look at several keys, once each is valid.

        Raises:
            ValueError: with what is wrong, and what would be right.
        """

    def with_values(self, **values: Any) -> Self:
        """A copy with other values, which are not validated."""
        own = {attribute: getattr(self, attribute) for attribute in self._attributes}
        return self._of(own | values, self.written | values.keys(), self.others)

    def members(self) -> Iterator[tuple[str, Any]]:
        """The keys with their values."""
        return ((name, getattr(self, each.attribute)) for name, each in self.declared.items())

    @classmethod
    def _of(cls, values: dict[str, Any], written: frozenset[str], others: Mapping[str, Any]) -> Self:
        self = object.__new__(cls)
        values["written"], values["others"] = written, others
        object.__setattr__(self, "__dict__", values)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed: settings are frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be removed: settings are frozen")

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal, written or not."""
        if not isinstance(other, Section) or type(self) is not type(other):
            return NotImplemented
        return dict(self.members()) == dict(other.members()) and self.others == other.others

    def __hash__(self) -> int:
        return hash(tuple(self.members()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.members())})"


class SectionKind(Kind[S]):
    """A mapping with the keys of a section."""

    noun = "a mapping, lines of the form `key: value`"

    def __init__(self, section: type[S]) -> None:
        self.section = section

    def read(self, value: Any, folder: Path | None = None) -> S:
        return self.section.read(value, folder)

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        for name, each in self.section.declared.items():
            yield (name,), each.kind


def sections_within(root: type[Section]) -> Iterator[tuple[Where, type[Section]]]:
    """A section and every one within it with their places, outer ones first."""
    return ((where, kind.section) for where, kind in walk(SectionKind(root)) if isinstance(kind, SectionKind))


class ShortSection(Kind[S]):
    """A section that may be written as the value of one of its keys.

    ``check`` looks at the value in either form first.
    """

    def __init__(self, section: type[S], name: str, check: Callable[[Any], None] = lambda _value: None) -> None:
        self.section = SectionKind(section)
        self._name = name
        self._check = check

    @property
    def short(self) -> Kind[Any]:
        """The kind of the short form."""
        kind = self.section.section.declared[self._name].kind
        return kind.inner if isinstance(kind, Nullable) else kind  # null is no form of the section

    def read(self, value: Any, folder: Path | None = None) -> S:
        self._check(value)
        if value is None or isinstance(value, (dict, Section)):
            return self.section.read(value, folder)
        try:
            return self.section.read({self._name: value}, folder)
        except Invalid as invalid:  # at the value's own place
            raise Invalid([each._replace(where=each.where[1:]) for each in invalid.findings]) from None

    def parts(self) -> Iterator[tuple[Where, Kind[Any]]]:
        yield (), self.section
