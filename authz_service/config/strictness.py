"""Whether a rule wants of a token all that another one wants, as far as their keys tell.

Pure; values only. In doubt it says no: two requirements that are written differently count as different.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz_service.config.model import Issuer, Require, Rule, Scopes


def wants_as_much(rule: Rule, other: Rule, issuers: Sequence[Issuer]) -> bool:
    """Whether ``rule`` lets in nobody whom ``other`` keeps out. ``issuers`` are all configured ones."""
    if other.access != "token" or other.mode == "shadow":  # who comes without a token is let in
        return True
    if rule.access != "token" or rule.mode == "shadow":
        return False
    ours, theirs = rule.require, other.require
    return _audiences_within(ours, theirs, issuers) and all(
        _wants_as_much(name, getattr(ours, name), getattr(theirs, name)) for name in type(ours).model_fields
    )


def _wants_as_much(name: str, ours: Any, theirs: Any) -> bool:
    if theirs is None or ours == theirs or name == "audiences":
        return True
    return ours is not None and name in _AS_MUCH and _AS_MUCH[name](ours, theirs)


def _within(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return set(ours) <= set(theirs)


def _scopes(ours: Scopes, theirs: Scopes) -> bool:
    any_of = not theirs.any or (bool(ours.any) and _within(ours.any, theirs.any)) or bool({*ours.all} & {*theirs.any})
    return any_of and _within(theirs.all, ours.all) and _within(theirs.none, ours.none)


def _claims(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return all(ours.get(path) == condition for path, condition in theirs.items())


def _no_longer(ours: float, theirs: float) -> bool:
    return ours <= theirs


_AS_MUCH: Mapping[str, Callable[[Any, Any], bool]] = {
    "issuers": _within,
    "clients": _within,
    "acr_values": _within,
    "scopes": _scopes,
    "claims": _claims,
    "max_auth_age": _no_longer,
}


def _audiences_within(ours: Require, theirs: Require, issuers: Sequence[Issuer]) -> bool:
    """Whether of each issuer that we accept, every audience that we accept is one that they do."""
    accepted = [issuer for issuer in issuers if ours.issuers is None or issuer.label in ours.issuers]
    return all(_within(ours.audiences or each.audiences, theirs.audiences or each.audiences) for each in accepted)
