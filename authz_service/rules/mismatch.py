"""Why a rule does not match a request: the plain meaning of ``match`` and ``policy``, part by part.

Pure; for ``explain``, not for the path of a request, which goes through the tree of ``matcher``.

Invariants: a rule matches here exactly if the tree would choose it in the absence of all others, and ends the search
here exactly if the tree would find no rule after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected, quoted
from authz_service.core.headers import AmbiguousHeaderError, value_of
from authz_service.core.mcp import McpHeaders
from authz_service.core.paths import SlashedPath, without_userinfo
from authz_service.core.patterns import PARAMETERS, normalize_host
from authz_service.rules.encoded_slashes import captures_differ, captures_slashes
from authz_service.rules.operators import one_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz_service.config.model import Match, RuleSettings
    from authz_service.core.attributes import Attributes


def of_every_rule(rules: Sequence[RuleSettings], attributes: Attributes) -> str | None:
    """Why no rule can match, whatever its paths; None if one may."""
    if attributes.method != attributes.method.upper():
        return f"the method {quoted(attributes.method)} is not in upper case, so no rule matches"
    if not normalize_host(attributes.host) and any(rule.match.hosts for rule in rules):
        host = quoted(without_userinfo(attributes.host))
        return f"the host {host} is not plainly a host, and some rules match hosts"
    if attributes.policy and attributes.policy not in {rule.policy for rule in rules}:
        return f"no rule has the policy {quoted(attributes.policy)} that Envoy sent"
    return None


def of(rule: RuleSettings, attributes: Attributes, path: Sequence[str]) -> str | None:
    """The first part of the rule that does not match; None if the rule matches.

    ``path`` are the decoded segments.
    """
    if rule.policy is not None:
        return _other_policy(rule.policy, attributes, path)
    why_not = next(_failing(rule.match, attributes, path), None) or next(_differing(rule.match, attributes), None)
    return why_not or (_encoded_slash(rule, path) if isinstance(path, SlashedPath) else None)


def ends_search(rule: RuleSettings, attributes: Attributes, path: Sequence[str]) -> bool:
    """Whether no rule from this one on matches: the upstream may read the request as one that this rule matches.

    Either only a header that cannot be read in one way differs from the rule, or the rule matches a reading of encoded
    slashes and must not decide it.
    """
    if rule.policy is not None:
        return attributes.policy == rule.policy
    if isinstance(path, SlashedPath):
        may_match = _may_match(rule.match, attributes, path) or _may_match(rule.match, attributes, path.decoded)
        return may_match and of(rule, attributes, path) is not None
    return _is_ambiguous(rule.match, attributes) and next(_failing(rule.match, attributes, path), None) is None


def _other_policy(policy: str, attributes: Attributes, path: Sequence[str]) -> str | None:
    if attributes.policy != policy:
        return f"Envoy did not send policy {policy}"
    if isinstance(path, SlashedPath):
        return "the path has an encoded slash"
    return "the path's last segment has parameters" if PARAMETERS in path[-1] else None


def _encoded_slash(rule: RuleSettings, path: SlashedPath) -> str | None:
    if not rule.match.encoded_slash:
        return "the path has an encoded slash, and the rule does not have encoded_slash"
    if not captures_slashes(rule.match.path_patterns, path):
        return "the path has an encoded slash outside of a {name}"
    if captures_differ(rule, path):
        return "a {name} that the rule's conditions use stands for another text once the encoded slashes are decoded"
    return None


def _may_match(match: Match, attributes: Attributes, path: Sequence[str]) -> bool:
    """Whether a rule matches, or only a header that cannot be read in one way differs."""
    if next(_failing(match, attributes, path), None) is not None:
        return False
    return _is_ambiguous(match, attributes) or next(_differing(match, attributes), None) is None


def _failing(match: Match, attributes: Attributes, path: Sequence[str]) -> Iterator[str]:
    host = normalize_host(attributes.host)
    if match.hosts is not None and not any(pattern.matches(host) for pattern in match.hosts):
        yield f"the host is not {one_of(match.hosts)}"
    if match.methods is not None and attributes.method not in match.methods:
        yield f"the method is not {one_of(match.methods)}"
    if not any(pattern.matches(path) for pattern in match.path_patterns):
        yield f"the path is not {one_of(match.path_patterns)}"


def _is_ambiguous(match: Match, attributes: Attributes) -> bool:
    """Whether a header cannot be read in one way; an MCP header only if all others match."""
    if any(_ambiguity(attributes, name) for name in match.headers or ()):
        return True
    return next(_differing_headers(match, attributes), None) is None and _mcp(match, attributes)[1]


def _differing(match: Match, attributes: Attributes) -> Iterator[str]:
    yield from _differing_headers(match, attributes)
    why_not, _ = _mcp(match, attributes)
    if why_not is not None:
        yield why_not


def _mcp(match: Match, attributes: Attributes) -> tuple[str | None, bool]:
    """Why ``match.mcp`` does not match, if so; whether that is because the request is malformed."""
    if match.mcp is None:
        return None, False
    try:
        return McpHeaders(attributes.headers).why_not(match.mcp.condition), False
    except Rejected as rejected:
        return f"{rejected.reason}: {rejected.cause}", True


def _differing_headers(match: Match, attributes: Attributes) -> Iterator[str]:
    headers = match.headers or {}
    for name in headers:
        if ambiguity := _ambiguity(attributes, name):
            yield f"the header {name} cannot be compared: {ambiguity}"
    for name, value in headers.items():
        if value_of(attributes.headers, name) != value:
            yield f"the header {name} is not {value!r}"


def _ambiguity(attributes: Attributes, name: str) -> str:
    try:
        value_of(attributes.headers, name)
    except AmbiguousHeaderError as ambiguous:
        return str(ambiguous)
    return ""
