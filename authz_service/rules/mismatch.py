"""Why a rule does not apply to a request: the plain meaning of ``match`` and ``policy``, part by part.

Law: pure; for people who ask, not for the way of a request, which goes through the tree of ``matcher``. The two must
agree: a rule applies here if and only if the tree would choose it in the absence of all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core import hosts, patterns
from authz_service.core.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz_service.config.model import Match, Rule
    from authz_service.core.attributes import Attributes


def of_all(rules: Sequence[Rule], attributes: Attributes) -> str | None:
    """Why no rule at all can apply, whatever its paths; None when one may."""
    if attributes.method != attributes.method.upper():
        return f"the method {quoted(attributes.method)} is not in upper case, so no rule applies"
    if not hosts.normalised(attributes.host) and any(rule.match.hosts for rule in rules):
        return f"the host {quoted(attributes.host)} can not be read plainly, and some rules ask for it"
    if attributes.policy and attributes.policy not in {rule.policy for rule in rules}:
        return f"no rule has the policy {quoted(attributes.policy)}, which the proxy names"
    return None


def of(rule: Rule, attributes: Attributes, path: Sequence[str]) -> str | None:
    """The first part of the rule's condition that does not hold; None when the rule applies.

    ``path`` are the decoded segments.
    """
    if rule.policy is not None:
        return None if attributes.policy == rule.policy else f"the proxy does not name policy {rule.policy}"
    return next(_failing(rule.match, attributes, path), None)


def _failing(match: Match, attributes: Attributes, path: Sequence[str]) -> Iterator[str]:
    host = hosts.normalised(attributes.host)
    if match.hosts is not None and not any(_is_host(pattern, host) for pattern in match.hosts):
        yield f"the host is not {_one_of(match.hosts)}"
    if match.methods is not None and attributes.method not in match.methods:
        yield f"the method is not {_one_of(match.methods)}"
    if match.paths is not None and not any(patterns.parse_pattern(pattern).matches(path) for pattern in match.paths):
        yield f"the path is not {_one_of(match.paths)}"
    for name, value in (match.headers or {}).items():
        if attributes.headers.get(name) != value:
            yield f"the header {name} is not {value!r}"


def _is_host(text: str, host: str) -> bool:
    pattern = hosts.parse_pattern(text)
    return host.endswith(f".{pattern.name}") and host[0] != "." if pattern.wildcard else host == pattern.name


def _one_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
