"""The operators of claim conditions: each in words, and as a function of the claim's value and the request.

Pure. A value is compared as it is and never converted, except for a whole number that is compared with a string of the
request: it has its decimal form. A claim that may hold one value or several is a string or a list. A header that has no
unambiguous value meets nothing, as an empty one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.headers import AmbiguousHeaderError, value_of
from authz_service.core.scalars import scalar_key, scalar_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from authz_service.config import model

    Holds = Callable[[Any, "RequestParts"], bool]  # of the claim's value (None if absent)


class RequestParts(NamedTuple):
    """The parts of a request that conditions compare claims with."""

    captures: Mapping[str, str]  # the text that each {name} of the path matched
    headers: Mapping[str, str]  # by lower-case name


NO_PARTS = RequestParts({}, {})


def operator_of(condition: model.ClaimCondition) -> tuple[str, Holds]:
    """The operator of a condition, in words and as a function."""
    name, value = condition.operator
    return _OPERATORS[name](value)


def _equals(value: Any) -> tuple[str, Holds]:
    return repr(value), _is_one_of([value])


def _in(values: Sequence[Any]) -> tuple[str, Holds]:
    return one_of(map(repr, values)), _is_one_of(values)


def _is_one_of(values: Iterable[Any]) -> Holds:
    accepted = scalar_keys(values)
    return lambda claim, _: scalar_key(claim) in accepted


def _contains(value: Any) -> tuple[str, Holds]:
    requirement = f"{value!r} or a list with it" if isinstance(value, str) else f"a list with {value!r}"
    return requirement, _contains_any([value])[1]


def _contains_any(values: Sequence[Any]) -> tuple[str, Holds]:
    accepted = scalar_keys(values)
    return (
        f"a list with {one_of(map(repr, values))}, or such a string",
        lambda claim, _: not accepted.isdisjoint(map(scalar_key, _items(claim))),
    )


def _contains_all(values: Sequence[Any]) -> tuple[str, Holds]:
    required = scalar_keys(values)
    return f"a list with all of {', '.join(map(repr, values))}", lambda claim, _: required <= scalar_keys(_items(claim))


def _prefix(prefix: str) -> tuple[str, Holds]:
    return (
        f"a string that starts with {prefix!r}, or a list with one",
        lambda claim, _: any(isinstance(item, str) and item.startswith(prefix) for item in _items(claim)),
    )


def _suffix(suffix: str) -> tuple[str, Holds]:
    return (
        f"a string that ends with {suffix!r}, or a list with one",
        lambda claim, _: any(isinstance(item, str) and item.endswith(suffix) for item in _items(claim)),
    )


def _present(_true: Any) -> tuple[str, Holds]:
    return "present", lambda claim, _: claim is not None


def _absent(_true: Any) -> tuple[str, Holds]:
    return "absent", lambda claim, _: claim is None


def _equals_path(name: str) -> tuple[str, Holds]:
    return f"{{{name}}} of the path", lambda claim, request: _written(claim) == request.captures[name]


def _contains_path(name: str) -> tuple[str, Holds]:
    return (
        f"{{{name}}} of the path, or a list with it",
        lambda claim, request: request.captures[name] in _all_written(claim),
    )


def _equals_header(name: str) -> tuple[str, Holds]:
    return (
        f"the value of the header {name}",
        lambda claim, request: bool(value := _header(request, name)) and _written(claim) == value,
    )


def _contains_header(name: str) -> tuple[str, Holds]:
    return (
        f"the value of the header {name}, or a list with it",
        lambda claim, request: bool(value := _header(request, name)) and value in _all_written(claim),
    )


def _items(claim: Any) -> list[Any]:
    """The values of a claim that may hold one or several. Providers write a single one as a string or as a list."""
    if isinstance(claim, list):
        return claim
    return [claim] if isinstance(claim, str) else []


def _written(value: Any) -> str | None:
    """A value as a path or a header has it: a string, or a whole number in decimal."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _all_written(claim: Any) -> Iterable[str | None]:
    return map(_written, claim) if isinstance(claim, list) else (_written(claim),)


def _header(request: RequestParts, name: str) -> str | None:
    """The value of a header; None or empty if it has none that a claim may equal."""
    try:
        return value_of(request.headers, name)
    except AmbiguousHeaderError:
        return None


def one_of(values: Iterable[object]) -> str:
    """Values in a sentence: ``one of a, b``."""
    texts = tuple(map(str, values))
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"


_OPERATORS: Mapping[str, Callable[[Any], tuple[str, Holds]]] = {  # by field of ClaimCondition
    "equals": _equals,
    "in": _in,
    "contains": _contains,
    "contains_any": _contains_any,
    "contains_all": _contains_all,
    "prefix": _prefix,
    "suffix": _suffix,
    "present": _present,
    "absent": _absent,
    "equals_path": _equals_path,
    "contains_path": _contains_path,
    "equals_header": _equals_header,
    "contains_header": _contains_header,
}
