"""Warnings about protected resources: tokens made for another one, misleading metadata, and what MCP forbids.

Pure. Only rules that decide some request to a resource count, not those that an earlier rule hides from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.config.document import Problem
from authz_service.config.resources import ResourceLocation, can_be_listed, listed_issuers, nested, scopes_of, serving
from authz_service.config.rule_order import deciding, listed
from authz_service.core.patterns import HostPattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz_service.config.kinds import Where
    from authz_service.config.model import Issuer, ResourceSettings, RuleSettings, Settings
    from authz_service.config.rule_order import OrderedRules
    from authz_service.core.patterns import PathPattern

_OFFLINE_ACCESS = "offline_access"  # requests a refresh token (OpenID Connect Core section 11), and permits nothing
_Numbered = list[tuple[int, "RuleSettings"]]


class _Resource(NamedTuple):
    """A resource with the rules that decide its requests."""

    where: Where
    settings: ResourceSettings
    location: ResourceLocation
    under: list[PathPattern]  # paths that belong to other resources
    rules: _Numbered

    @property
    def identifier(self) -> str:
        return self.settings.resource

    def with_token(self) -> _Numbered:
        """The rules that read a token."""
        return [(number, rule) for number, rule in self.rules if rule.access != "public"]


def resource_warnings(settings: Settings, ordered: OrderedRules) -> Iterator[Problem]:
    """All warnings about resources."""
    locations = [ResourceLocation.of(resource.resource) for resource in settings.resources]
    named = [rule for rule in settings.rules if rule.policy is not None and rule.access != "public"]
    for place, (written, location) in enumerate(zip(settings.resources, locations, strict=True)):
        under = nested(location, locations)
        rules = list(deciding(HostPattern(location.host, is_wildcard=False), location.everything, under, ordered))
        resource = _Resource(("resources", place), written, location, under, rules)
        if not rules and not named:
            yield from _unserved(resource, settings.rules)
        for number, rule in resource.with_token():
            yield from _foreign_audiences(("rules", number, "require"), rule, resource, settings.issuers)
        yield from _unlisted_issuers(resource, settings.issuers)
        if not named:
            yield from _useless_issuers(resource, settings.issuers)
        yield from _unlisted_scopes(resource, settings.rules, named)
        if written.mcp:
            yield from _offline_access(resource)
            yield from _without_token(resource, ordered)
    yield from _forwarded_token(settings)
    yield from _trusted_headers(settings, locations)


def _trusted_headers(settings: Settings, locations: Sequence[ResourceLocation]) -> Iterator[Problem]:
    """Rules by headers of MCP messages, which only servers of a current revision compare with the body."""
    servers = [
        (location, nested(location, locations))
        for resource, location in zip(settings.resources, locations, strict=True)
        if resource.mcp
    ]
    for number, rule in enumerate(settings.rules):
        if rule.match.mcp is not None and not any(server.may_serve(rule.match, under) for server, under in servers):
            text = (
                "trusts headers that a server of a revision before 2026-07-28 does not compare with the message, so "
                "that a client can name one tool and call another: use it for servers that do, and declare such a "
                "server as a resource with mcp: true"
            )
            yield Problem(("rules", number, "match", "mcp"), text)


def _unserved(resource: _Resource, rules: Sequence[RuleSettings]) -> Iterator[Problem]:
    host = resource.location.host
    is_host = any(rule.match.hosts is None or any(each.matches(host) for each in rule.match.hosts) for rule in rules)
    what = "at or under this path" if is_host else f"for the host {host}"
    text = f"no rule decides requests {what}, so all of them are denied: add a rule, or correct this identifier"
    yield Problem((*resource.where, "resource"), text)


def _foreign_audiences(
    where: Where, rule: RuleSettings, resource: _Resource, issuers: Sequence[Issuer]
) -> Iterator[Problem]:
    """Tokens for another audience can be those of another service, which could use them here."""
    require = rule.require
    reported: set[Where] = set()
    for place, part in list(require.places(where))[bool(require.any_of) :]:
        lists = [each for each in (require.audiences, part.audiences) if each is not None]
        if any({*audiences} == {resource.identifier} for audiences in lists):
            continue
        if lists:
            key = (*(where if require.audiences is not None else place), "audiences")
            foreign = lists[0]
        else:
            key = place[: len(("rules", 0))] if place == where else place
            accepted = [
                each for each in issuers if require.allows_issuer(each.label) and part.allows_issuer(each.label)
            ]
            foreign = tuple(dict.fromkeys(audience for each in accepted for audience in each.audiences))
        others = [audience for audience in foreign if audience != resource.identifier]
        if others and key not in reported:
            reported.add(key)
            name = "audiences" if lists or place != where else "require.audiences"
            text = (
                f"accepts tokens for {listed(others)} at the resource {resource.identifier}, where any service that "
                f"receives such a token can use it: write {name}: [{resource.identifier}], in a rule for this resource"
            )
            yield Problem(key, text)


def _unlisted_issuers(resource: _Resource, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    known = {issuer.label for issuer in listed_issuers(resource.settings, issuers)}
    for number, rule in resource.with_token():
        unlisted = [
            issuer.label
            for issuer in issuers
            if can_be_listed(issuer) and issuer.label not in known and _accepts(rule, issuer.label)
        ]
        if unlisted:
            text = (
                f"accepts tokens of {listed(unlisted)}, which the metadata of {resource.identifier} does not list, so "
                "clients do not find out: list the rule's issuers in require.issuers, or add to the resource's"
            )
            yield Problem(("rules", number), text)


def _useless_issuers(resource: _Resource, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    rules = [rule for _, rule in resource.with_token()]
    useful = [
        issuer.label
        for issuer in listed_issuers(resource.settings, issuers)
        if any(_accepts(rule, issuer.label) for rule in rules)
    ]
    useless = [each.label for each in listed_issuers(resource.settings, issuers) if each.label not in useful]
    if useful and useless:
        key = "resource" if resource.settings.issuers is None else "issuers"
        text = (
            f"the metadata lists {listed(useless)}, whose tokens no rule for this resource accepts, so clients log in "
            f"there in vain: write issuers: [{', '.join(useful)}]"
        )
        yield Problem((*resource.where, key), text)


def _accepts(rule: RuleSettings, label: str) -> bool:
    accepted = rule.require.accepted_issuers()
    return accepted is None or label in accepted


def _unlisted_scopes(
    resource: _Resource, rules: Sequence[RuleSettings], named: Sequence[RuleSettings]
) -> Iterator[Problem]:
    """A rule that a route names has no host and path, so it is unknown which resource it is for."""
    if resource.settings.scopes is not None:
        return
    known = {*scopes_of(serving(resource.location, resource.under, rules))}
    missing = [rule.name for rule in named if not known.issuperset(scopes_of([rule]))]
    if missing:
        text = (
            f"the metadata cannot list the scopes of {listed(missing)}, since routes select a rule with policy: write "
            "scopes, with theirs if they are for this resource"
        )
        yield Problem((*resource.where, "resource"), text)


# What the authorization specification of the Model Context Protocol forbids.


def _offline_access(resource: _Resource) -> Iterator[Problem]:
    text = (
        f"{_OFFLINE_ACCESS} permits nothing at an MCP server, whose metadata and challenges must not have it: remove it"
    )
    if _OFFLINE_ACCESS in (resource.settings.scopes or ()):
        yield Problem((*resource.where, "scopes"), text)
    for number, rule in resource.with_token():
        for place, part in rule.require.places(("rules", number, "require")):
            if _OFFLINE_ACCESS in (*part.scopes.all, *part.scopes.any):
                yield Problem((*place, "scopes"), text)


def _without_token(resource: _Resource, ordered: OrderedRules) -> Iterator[Problem]:
    host = HostPattern(resource.location.host, is_wildcard=False)
    for number, rule in deciding(host, resource.location.itself, (), ordered):
        only_preflights = rule.match.methods is not None and {*rule.match.methods} <= {"OPTIONS"}
        if rule.access != "token" and not only_preflights:
            text = (
                f"lets requests without a token through to the MCP server {resource.identifier}, so a client is never "
                "challenged to log in: write access: token"
            )
            yield Problem(("rules", number, "access"), text)


def _forwarded_token(settings: Settings) -> Iterator[Problem]:
    servers = [resource.resource for resource in settings.resources if resource.mcp]
    if servers and settings.upstream.forward_authorization:
        text = (
            f"passes the token on to {listed(servers)}, and an MCP server must not have a token that it could pass "
            "through to another service: write forward_authorization: false"
        )
        yield Problem(("upstream", "forward_authorization"), text)
