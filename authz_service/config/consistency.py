"""Checks between several keys: names that must exist or be unique, keys that exclude or require each other.

Invariants: a finding points at one key and names the others. It is not made if a key that it depends on could not be
read: a problem is reported once, where it is, and not again where it has effects.
"""

from __future__ import annotations

import itertools
import os.path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_service.config.document import Problem, rendered
from authz_service.config.issuer_consistency import problems_of_issuer
from authz_service.config.key_hints import nearest
from authz_service.config.resources import ResourceLocation, can_be_listed
from authz_service.core import mcp
from authz_service.core.credential import CredentialHeader
from authz_service.core.errors import shown
from authz_service.core.patterns import CAPTURE, overlap
from authz_service.core.scope_hierarchy import ScopeHierarchy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from authz_service.config.draft import Draft
    from authz_service.config.kinds import Where
    from authz_service.config.model import (
        Alternative,
        Require,
        ResourceSettings,
        RuleSettings,
        Scopes,
    )
    from authz_service.core.patterns import PathPattern


def problems(draft: Draft) -> Iterator[Problem]:
    """All problems between keys."""
    yield from _same_address(draft)
    yield from _shared_socket(draft)
    yield from _same_headers(draft)
    yield from _unused_nonce_key(draft)
    yield from _one_place_for_decisions(draft)
    yield from _same_issuers(draft)
    yield from _overlapping_templates(draft)
    yield from _same_labels(draft)
    yield from _same_snapshot_files(draft)
    yield from _same_streams(draft)
    yield from _unshared_streams(draft)
    yield from _same_rule_names(draft)
    yield from _same_policies(draft)
    for place, issuer in draft.issuers.items():
        yield from problems_of_issuer(draft, ("issuers", place), issuer)
    credentials = {rule.credential.header: place for place, rule in draft.rules.items()}
    labels = [issuer.label for issuer in draft.issuers.values()]
    known_labels = labels if _labels_are_known(draft) else None
    hierarchy = ScopeHierarchy(draft.scope_implies)
    for place, rule in draft.rules.items():
        yield from _public_ignores_tokens(draft, ("rules", place), rule)
        yield from _used_credentials(draft, ("rules", place), rule, credentials)
        yield from _unknown_issuers(("rules", place), rule, known_labels)
        yield from _missing_audiences(draft, ("rules", place), rule)
        yield from _unprovable(draft, ("rules", place), rule)
        yield from _unusable_alternatives(draft, ("rules", place, "require"), rule.require, labels)
        yield from _impossible_scopes(("rules", place, "require"), rule.require, hierarchy)
        yield from _policy_or_match(draft, ("rules", place), rule)
        yield from _encoded_slash(draft, ("rules", place), rule)
        yield from _captures(draft, ("rules", place), rule)
    yield from _same_locations(draft)
    for place, resource in draft.resources.items():
        yield from _issuers_of_resource(draft, ("resources", place), resource)


def _same_address(draft: Draft) -> Iterator[Problem]:
    server = draft.server
    if server is None or not draft.has(("server", "grpc_address"), ("server", "admin_address")):
        return
    if server.grpc_address.lower() == server.admin_address.lower() and not server.admin_address.endswith(":0"):
        key = "admin_address" if "admin_address" in server.written else "grpc_address"
        yield Problem(("server", key), "grpc_address and admin_address are the same: give each its own port")


def _shared_socket(draft: Draft) -> Iterator[Problem]:
    server, where = draft.server, ("server", "workers")
    if server is None or not draft.has(where, ("server", "grpc_address"), ("server", "transport")):
        return
    if server.workers > 1 and server.transport == "grpcio" and server.grpc_address.startswith("unix:"):
        text = "transport grpcio cannot share a unix socket between processes: write transport: asyncio, or workers: 1"
        yield Problem(where, text)


def _same_headers(draft: Draft) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name in draft.headers:
        # Servers that follow CGI fold names in this way; case never counts.
        earlier = first.setdefault(name.lower().replace("_", "-").replace(".", "-"), name)
        if earlier.lower() != name.lower():  # a difference in case alone is reported where the names are read
            text = f"is the same header as {shown(earlier)} to many servers (case, _ . and - do not count): remove one"
            yield Problem(("upstream", "headers", name), text)


def _unused_nonce_key(draft: Draft) -> Iterator[Problem]:
    if draft.dpop is None or draft.dpop.nonce_key_file is None or not draft.has(("dpop", "nonce")):
        return
    if draft.dpop.nonce != "required":
        text = "has no effect without nonce: required: add that, or remove this line"
        yield Problem(("dpop", "nonce_key_file"), text)


def _one_place_for_decisions(draft: Draft) -> Iterator[Problem]:
    logging, file, socket = draft.logging, ("logging", "decisions_file"), ("logging", "decisions_socket")
    if logging is None or not draft.has(file, socket):
        return
    if logging.decisions_file is not None and logging.decisions_socket is not None:
        yield Problem(socket, "decisions go to decisions_file already: remove one of the two")
    elif logging.decisions == "none" and draft.has(("logging", "decisions")):
        for where, value in ((file, logging.decisions_file), (socket, logging.decisions_socket)):
            if value is not None:
                text = "has no effect with decisions: none: write decisions: denied or all, or remove this line"
                yield Problem(where, text)


def _same_issuers(draft: Draft) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for place, issuer in draft.issuers.items():
        if not draft.has(("issuers", place, "issuer")) or issuer.template is not None:
            continue
        earlier = first.setdefault(issuer.issuer, place)
        if earlier != place:
            yield Problem(("issuers", place, "issuer"), f"is also the issuer of issuers[{earlier}]: merge the two")


def _overlapping_templates(draft: Draft) -> Iterator[Problem]:
    templates = {
        place: issuer.template
        for place, issuer in draft.issuers.items()
        if issuer.template is not None and draft.has(("issuers", place, "issuer"), ("issuers", place, "tenants"))
    }
    for (earlier, one), (place, other) in itertools.combinations(templates.items(), 2):
        if one.overlaps(other):
            text = (
                f"accepts issuers that issuers[{earlier}] accepts as well: give each its own tenants, or merge the two"
            )
            yield Problem(("issuers", place, "issuer"), text)


def _same_labels(draft: Draft) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for place, issuer in draft.issuers.items():
        if not _label_is_known(draft, place):
            continue
        earlier = first.setdefault(issuer.label, place)
        known = draft.has(("issuers", place, "issuer"))
        if earlier == place or (known and issuer.issuer == draft.issuers[earlier].issuer):
            continue  # a duplicate issuer is reported already
        if issuer.name:
            text = f"issuers[{earlier}] is also named {issuer.label}: give each issuer its own name"
        else:
            text = f"issuers[{earlier}] is also named {issuer.label}, after its host: give each issuer a name"
        yield Problem(("issuers", place, "name" if issuer.name else "issuer"), text)


def _label_is_known(draft: Draft, place: int) -> bool:
    issuer = draft.issuers[place]
    return draft.has(("issuers", place, "name")) and (bool(issuer.name) or draft.has(("issuers", place, "issuer")))


def _labels_are_known(draft: Draft) -> bool:
    unread = any(where[:1] in {(), ("issuers",)} for where in draft.unread if len(where) <= len(("issuers", 0)))
    return not unread and all(_label_is_known(draft, place) for place in draft.issuers)


def _same_snapshot_files(draft: Draft) -> Iterator[Problem]:
    first: dict[str, Where] = {}
    for place, issuer in draft.issuers.items():
        for key, section in (("keys", issuer.keys), ("security_events", issuer.security_events)):
            if section is None or section.snapshot_file is None:
                continue
            where = ("issuers", place, key, "snapshot_file")
            earlier = first.setdefault(os.path.normpath(section.snapshot_file), where)
            if earlier != where:
                yield Problem(where, f"is also {rendered(earlier)}: write another file")


def _same_streams(draft: Draft) -> Iterator[Problem]:
    """An event is delivered once, to the poll that comes first; nothing else in a poll tells two streams apart."""
    first: dict[tuple[str, str], int] = {}
    for place, issuer in draft.issuers.items():
        events, where = issuer.security_events, ("issuers", place, "security_events")
        client = "" if events is None else str(events.bearer_token_file or events.client_id)
        if events is None or not client or not draft.has(where):
            continue
        earlier = first.setdefault((events.poll_endpoint, client), place)
        if earlier != place:
            text = (
                f"issuers[{earlier}] polls the same endpoint as the same client, and would take this issuer's events: "
            )
            yield Problem((*where, "poll_endpoint"), f"{text}give each issuer its own client")


def _unshared_streams(draft: Draft) -> Iterator[Problem]:
    server = draft.server
    if server is None or server.workers == 1 or not draft.has(("server", "workers")):
        return
    for place, issuer in draft.issuers.items():
        events, where = issuer.security_events, ("issuers", place, "security_events", "snapshot_file")
        if events is not None and events.snapshot_file is None and draft.has(where):
            text = f"is required with server.workers: {server.workers}, since workers share events through it: add it"
            yield Problem(where, text)


def _same_rule_names(draft: Draft) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for place, rule in draft.rules.items():
        if not draft.has(("rules", place, "name")):
            continue
        earlier = first.setdefault(rule.name, place)
        if earlier != place:
            yield Problem(
                ("rules", place, "name"), f"rules[{earlier}] is also named {rule.name}: give each rule its own name"
            )


def _same_policies(draft: Draft) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for place, rule in draft.rules.items():
        if rule.policy is None or not draft.has(("rules", place, "policy")):
            continue
        earlier = first.setdefault(rule.policy, place)
        if earlier != place:
            text = f"rules[{earlier}] also has policy {rule.policy}, and decides first: give each policy one rule"
            yield Problem(("rules", place, "policy"), text)


def _policy_or_match(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    matched = "match" in rule.written or (*where, "match") in draft.unread
    if rule.policy is not None and matched:
        text = (
            "cannot be combined with match, since either the route's policy or the request selects a rule: keep "
            "one of the two"
        )
        yield Problem((*where, "policy"), text)


def _encoded_slash(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    if not rule.match.encoded_slash or not draft.has((*where, "match", "paths")):
        return
    if not any(pattern.captures for pattern in rule.match.path_patterns):
        text = "lets a {name} match encoded slashes, but the rule's paths have no {name}: add one, or remove this line"
        yield Problem((*where, "match", "encoded_slash"), text)


def _captures(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    """Each name that scopes and claims use must be captured by all of the rule's patterns, at one place in a path."""
    if not draft.has((*where, "match"), (*where, "policy")):
        return
    patterns = rule.match.path_patterns if rule.match.paths else ()
    for name, key, text in _used_captures(draft, (*where, "require"), rule):
        without = next((pattern for pattern in patterns if name not in pattern.captures), None)
        if not patterns:
            yield Problem(key, f"{text}, but the rule has no match.paths that capture it: add them")
        elif without is not None:
            yield Problem(key, f"{text}, but {shown(without.text)} does not capture it: {_captured_by_all(patterns)}")
        elif (pair := _two_places(name, patterns)) is not None:
            ways = f"{shown(pair[0].text)} and {shown(pair[1].text)}"
            yield Problem(
                key, f"{text}, but a path can match both {ways}, which capture different text: split the rule"
            )


def _used_captures(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[tuple[str, Where, str]]:
    """Each capture that the rule uses, with the key that uses it and a phrase for the message."""
    for place, part in rule.require.places(where):
        scopes = part.scopes if draft.has((*place, "scopes")) else None
        for scope in dict.fromkeys((*scopes.all, *scopes.any, *scopes.none)) if scopes else ():
            for name in dict.fromkeys(CAPTURE.findall(scope)):
                yield name, (*place, "scopes"), f"{shown(scope)} uses {{{name}}} of the path"
        for path, condition in (part.claims or {}).items():
            if condition.capture is not None:
                operator = "equals_path" if condition.equals_path else "contains_path"
                key = (*place, "claims", path.text, operator)
                yield condition.capture, key, f"uses {{{condition.capture}}} of the path"


def _captured_by_all(patterns: Sequence[PathPattern]) -> str:
    common = set(patterns[0].captures).intersection(*(pattern.captures for pattern in patterns))
    names = ", ".join(sorted(common))
    return f"all paths of the rule capture {names}" if names else "no name is captured by all paths of the rule"


def _two_places(name: str, patterns: Sequence[PathPattern]) -> tuple[PathPattern, PathPattern] | None:
    """Two patterns that a path can match with different text for this name."""
    for one, other in itertools.combinations(patterns, 2):
        if one.captured_place(name) != other.captured_place(name) and overlap(one, other):
            return one, other
    return None


def _public_ignores_tokens(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    for key in ("require", "credential"):
        given = key in rule.written or (*where, key) in draft.unread
        if rule.access == "public" and given:
            text = "has no effect with access: public, which ignores tokens: remove one of the two"
            yield Problem((*where, key), text)


def _used_credentials(
    draft: Draft, where: Where, rule: RuleSettings, credentials: Mapping[str, int]
) -> Iterator[Problem]:
    """A header that holds a token selects no rule, which happens before tokens are read, and equals no claim.

    ``credentials`` has a rule for each header that holds a token.
    """
    for name, key, use in _used_headers(where, rule):
        if name in credentials and draft.has(("rules", credentials[name], "credential"), key):
            yield Problem(key, f"is the credential of rules[{credentials[name]}], which {use}: remove it")


def _used_headers(where: Where, rule: RuleSettings) -> Iterator[tuple[str, Where, str]]:
    """Each header that the rule reads, with the key that names it and what it cannot be used for."""
    for name in rule.match.headers or ():
        yield name, (*where, "match", "headers", name), "a rule cannot match"
    for name in (mcp.VERSION, mcp.METHOD, mcp.NAME) if rule.match.mcp else ():
        yield name, (*where, "match", "mcp"), "a rule with match.mcp cannot match"
    for place, part in rule.require.places((*where, "require")):
        for path, condition in (part.claims or {}).items():
            if condition.header is not None:
                operator = "equals_header" if condition.equals_header else "contains_header"
                yield condition.header, (*place, "claims", path.text, operator), "cannot be compared with a claim"


def _unknown_issuers(where: Where, rule: RuleSettings, labels: Sequence[str] | None) -> Iterator[Problem]:
    """``labels`` are those of all issuers; None if some could not be read."""
    if labels is None:
        return
    for place, part in rule.require.places((*where, "require")):
        for number, name in enumerate(part.issuers or ()):
            if name not in labels:
                text = f"no issuer is named {name}: {nearest(name, labels)}"
                yield Problem((*place, "issuers", number), text)


def _unusable_alternatives(draft: Draft, where: Where, require: Require, labels: Sequence[str]) -> Iterator[Problem]:
    """``labels`` are those of the issuers that could be read."""
    if not draft.has((*where, "issuers")):
        return
    for place, part in require.places(where):
        names = set(part.issuers or ())
        if names and names.issubset(labels) and not any(map(require.allows_issuer, names)):
            accepted = ", ".join(require.issuers or ())
            text = f"has none of the rule's issuers ({accepted}), so the alternative never holds: add one, or remove it"
            yield Problem((*place, "issuers"), text)


def _unprovable(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    """Proofs that no request can have: where the rule reads its token, or because no token counts as bound."""
    for place, part in rule.require.places((*where, "require")):
        if part.proof is None or rule.access == "public":
            continue
        credential = CredentialHeader(rule.credential.header, rule.credential.scheme)
        refuses_dpop = draft.has((*where, "credential")) and not credential.accepts_dpop
        effect = "no token can pass" if part is rule.require else "the alternative never holds"
        if part.proof == "dpop" and refuses_dpop:
            text = f"the rule's token is in {credential}, where the scheme DPoP is not accepted, so {effect}: "
            yield Problem((*place, "proof"), f"{text}write proof: mtls, or scheme: Bearer in credential")
        elif _all_ignore_confirmation(draft, (*where, "require"), rule.require, part):
            text = f"all issuers of the rule have confirmation: ignore, which takes no token as bound, so {effect}: "
            yield Problem((*place, "proof"), f"{text}write confirmation: verify, or remove this line")


def _all_ignore_confirmation(draft: Draft, where: Where, require: Require, part: Alternative) -> bool:
    if not _labels_are_known(draft) or not draft.has((*where, "issuers"), (*where, "any_of")):
        return False
    names = require.accepted_issuers()
    accepted = {
        place: issuer
        for place, issuer in draft.issuers.items()
        if (names is None or issuer.label in names) and part.allows_issuer(issuer.label)
    }
    return bool(accepted) and all(
        issuer.confirmation == "ignore" and draft.has(("issuers", place, "confirmation"))
        for place, issuer in accepted.items()
    )


def _missing_audiences(draft: Draft, where: Where, rule: RuleSettings) -> Iterator[Problem]:
    require = (*where, "require")
    if rule.access == "public" or rule.require.audiences or not draft.has((*require, "audiences")):
        return
    if not draft.has((*where, "access"), (*require, "issuers"), (*require, "any_of")):
        return
    without = {
        place: issuer
        for place, issuer in draft.issuers.items()
        if not issuer.audiences
        and rule.require.allows_issuer(issuer.label)
        and draft.has(("issuers", place, "audiences"))
    }
    name = f"rule {rule.name}" if draft.has((*where, "name")) else "the rule"
    for key, alternative in list(rule.require.places(require))[bool(rule.require.any_of) :]:
        for place, issuer in without.items():
            if alternative.audiences is None and alternative.allows_issuer(issuer.label):
                label = f"issuer {issuer.label}" if _label_is_known(draft, place) else "an issuer"
                text = f"{name} accepts tokens of {label}, which has no audiences: add them here or to issuers[{place}]"
                yield Problem((*key, "audiences"), text)


def _impossible_scopes(where: Where, require: Require, hierarchy: ScopeHierarchy) -> Iterator[Problem]:
    for place, part in require.places(where):
        outer = () if part is require else require.scopes.none
        yield from _contradictory_scopes((*place, "scopes"), part.scopes, outer, hierarchy)


def _contradictory_scopes(
    where: Where, scopes: Scopes, none_of_rule: Sequence[str], hierarchy: ScopeHierarchy
) -> Iterator[Problem]:
    """Required scopes that are forbidden as well: by name, or because a scope in ``all`` implies one in ``none``."""
    for number, scope in enumerate(scopes.none):
        for required in scopes.all:
            if hierarchy.granting(required) <= hierarchy.granting(scope):
                how = "is also in all" if required == scope else f"is implied by {required}, which is in all"
                yield Problem((*where, "none", number), f"{scope} {how}, so no token can pass: remove one")
                break
    forbidden = frozenset[str]().union(*map(hierarchy.granting, (*scopes.none, *none_of_rule)))
    if scopes.any and all(hierarchy.granting(scope) <= forbidden for scope in scopes.any):
        yield Problem((*where, "any"), "each of these is also in none, so no token can pass: add another or remove one")
    for number, scope in enumerate(scopes.all if none_of_rule else ()):
        if hierarchy.granting(scope) <= frozenset[str]().union(*map(hierarchy.granting, none_of_rule)):
            text = f"{scope} is in scopes.none of the rule, so the alternative never holds: remove one"
            yield Problem((*where, "all", number), text)


def _same_locations(draft: Draft) -> Iterator[Problem]:
    """Resources that requests do not tell apart: the host of a request is compared in any case, and without port."""
    located: dict[int, tuple[ResourceLocation, int]] = {}
    for place, resource in draft.resources.items():
        where = ("resources", place, "resource")
        if not draft.has(where):
            continue
        location, port = ResourceLocation.of(resource.resource), _port(resource.resource)
        for earlier, (other, other_port) in located.items():
            if location.host != other.host:
                continue
            if location.segments == other.segments:
                text = (
                    f"has the host and path of resources[{earlier}] (case of the host, port, and a slash at the end do "
                    "not count): merge the two, or give each its own path"
                )
                yield Problem(where, text)
                break
            if port != other_port and (location.contains(other.segments) or other.contains(location.segments)):
                text = (
                    f"differs from resources[{earlier}] in the port, which does not count, and one path is under the "
                    "other: give both the same port, or separate paths"
                )
                yield Problem(where, text)
                break
        located[place] = location, port


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _issuers_of_resource(draft: Draft, where: Where, resource: ResourceSettings) -> Iterator[Problem]:
    """The metadata lists authorization servers by URL, and without one clients cannot begin."""
    here = (*where, "issuers")
    if not _labels_are_known(draft) or not draft.has(here):
        return
    by_label = {issuer.label: (place, issuer) for place, issuer in draft.issuers.items()}
    for number, name in enumerate(resource.issuers or ()):
        if name not in by_label:
            yield Problem((*here, number), f"no issuer is named {name}: {nearest(name, by_label)}")
            continue
        place, issuer = by_label[name]
        if draft.has(("issuers", place, "issuer")) and not can_be_listed(issuer):
            what = "is a template" if issuer.template is not None else "is not a URL"
            text = f"{name} cannot be listed, since its issuer {what}: remove it here"
            yield Problem((*here, number), text)
    known = draft.has(*(("issuers", place, "issuer") for place in draft.issuers))
    if known and draft.issuers and resource.issuers is None and not any(map(can_be_listed, draft.issuers.values())):
        text = "has no authorization server to list, since no issuer is a URL: add one that is, or remove the resource"
        yield Problem((*where, "resource"), text)
