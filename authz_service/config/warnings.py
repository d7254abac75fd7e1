"""Warnings about settings that are valid but dangerous.

A warning refuses nothing. It points at the key, and says what may happen and what to write instead. A sidecar finds
them only after it listens, since comparing many rules takes time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_service.config.document import Problem, parse
from authz_service.config.load import load_with_source
from authz_service.config.resource_warnings import resource_warnings
from authz_service.config.rule_order import (
    OrderedRules,
    bypasses,
    decoded_slashes,
    listed,
    older_mcp_revisions,
    unreachable,
    verbs_of_items,
)
from authz_service.config.source import lines
from authz_service.config.strictness import Strictness
from authz_service.config.values import PLACEHOLDER_AUDIENCE, https_or_loopback
from authz_service.core.errors import shown
from authz_service.core.patterns import EVERY_PATH, foreign_syntax
from authz_service.core.scope_hierarchy import ScopeHierarchy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from authz_service.config.kinds import Where
    from authz_service.config.model import (
        Alternative,
        DpopSettings,
        Issuer,
        MtlsSettings,
        ResourceSettings,
        RuleSettings,
        SecurityEventsSettings,
        Settings,
    )
    from authz_service.config.server import Server
    from authz_service.core.claim_path import ClaimPath

_METADATA_NAMES = frozenset({"openid-configuration", "oauth-authorization-server"})
_CLAIM_LISTS = ("audience_claims", "scope_claims", "client_claims")
_URL_START = ("https://", "http://")
_RULE_DEPTH = len(("rules", 0))
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONG_PROOF_AGE = 300.0  # seconds
# Where a pod has its token for the API server: that of the chart, and that of Kubernetes itself.
_API_SERVER_TOKENS = frozenset(
    f"{folder}/{path}/token"
    for folder in ("/var/run/secrets", "/run/secrets")
    for path in ("api-server", "kubernetes.io/serviceaccount")
)
_IN_CLUSTER_API_SERVER = re.compile(r"kubernetes(\.default(\..*)?)?\Z|[0-9.]+\Z|[0-9a-f:.]*:[0-9a-f:.]*\Z")
_DAY = 86_400.0  # seconds; an operator notices an outage within a day
_USUAL_LIFETIME = 3600.0  # seconds: that of access tokens by default at many providers
_LONG_INTERVAL = 300.0  # seconds


def load_with_warnings(path: Path, *, look_at_files: bool = True) -> tuple[Settings, tuple[str, ...]]:
    """The settings of a configuration file, with the warnings that follow from them alone.

    Raises:
        ConfigError: as ``load``.
    """
    settings, source = load_with_source(path, look_at_files=look_at_files)
    return settings, located_warnings(path, source, settings)


def located_warnings(path: Path, source: bytes, settings: Settings, more: Iterable[Problem] = ()) -> tuple[str, ...]:
    """Each warning as ``FILE:LINE: warning: path.to.key: what may happen``, in the order of the file.

    ``source`` is the content of the file when the settings were read; ``more`` are warnings that do not follow from
    the settings alone.
    """
    found = [*warnings(settings), *more]
    return tuple(lines(path, parse(source), found, "warning: ")) if found else ()


def warnings(settings: Settings) -> Iterator[Problem]:
    """All warnings about the settings."""
    ordered = OrderedRules(settings.rules)
    yield from unreachable(ordered)
    strictness = Strictness(settings.issuers, ScopeHierarchy(settings.scope_implies))
    yield from verbs_of_items(ordered, strictness)
    yield from decoded_slashes(ordered, strictness)
    yield from older_mcp_revisions(ordered, strictness)
    yield from bypasses(ordered, strictness)
    for place, rule in enumerate(settings.rules):
        yield from _any_audience(("rules", place), rule, settings.issuers)
        yield from _any_tenant(("rules", place), rule, settings.issuers)
        yield from _public_everywhere(("rules", place), rule)
        yield from _shadow(("rules", place), rule)
        yield from _foreign_patterns(("rules", place, "match", "paths"), rule)
        for where, part in rule.require.places(("rules", place, "require")):
            for path in part.claims or {}:
                yield from _url_as_path((*where, "claims", path.text), path)
    for name, header in settings.upstream.headers.items():
        yield from _url_as_path(("upstream", "headers", name), header.claim)
    for name, path in settings.upstream.metadata.items():
        yield from _url_as_path(("upstream", "metadata", name), path)
    for place, issuer in enumerate(settings.issuers):
        yield from _address_of_metadata(("issuers", place, "issuer"), issuer)
        yield from _placeholder(("issuers", place, "audiences"), issuer)
        yield from _long_outage(("issuers", place, "keys", "outage_tolerance"), issuer)
        yield from _allowed_http(("issuers", place, "keys", "allow_http"), issuer)
        yield from _service_account_token(("issuers", place, "keys", "bearer_token_file"), issuer)
        yield from _ignored_confirmation(("issuers", place, "confirmation"), issuer)
        if issuer.security_events is not None:
            yield from _security_events(("issuers", place, "security_events"), issuer, issuer.security_events)
        for key in _CLAIM_LISTS:
            for number, path in enumerate(getattr(issuer, key)):
                yield from _url_as_path(("issuers", place, key, number), path)
    yield from _short_grace(("server", "shutdown_grace"), settings.server)
    yield from _proofs(("dpop",), settings.dpop_or_default, settings.server.workers)
    yield from _missing_origins(("dpop", "origins"), settings.dpop_or_default, settings.resources)
    yield from _forwarded_certificate(("mtls", "certificate"), settings.mtls)
    yield from resource_warnings(settings, ordered)


def _any_audience(where: Where, rule: RuleSettings, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    require = rule.require
    if rule.access == "public" or require.audiences is not None:
        return
    shared = [
        issuer.label for issuer in issuers if len(set(issuer.audiences)) > 1 and require.allows_issuer(issuer.label)
    ]
    if all(each.audiences is None for each in require.any_of or ()):
        accepted = require.accepted_issuers()
        yield from _shared_audiences(where, [label for label in shared if accepted is None or label in accepted])
        return
    for number, each in enumerate(require.any_of or ()):
        if each.audiences is None:
            place = (*where, "require", "any_of", number)
            yield from _shared_audiences(place, [label for label in shared if each.allows_issuer(label)])


def _shared_audiences(where: Where, issuers: Sequence[str]) -> Iterator[Problem]:
    if issuers:
        text = f"accepts tokens for any audience of {listed(issuers)}, including tokens made for another API: "
        name = "require.audiences" if len(where) == _RULE_DEPTH else "audiences"
        yield Problem(where, f"{text}name this API's audience in {name}")


def _short_grace(where: Where, server: Server) -> Iterator[Problem]:
    if server.shutdown_grace < server.check_deadline:
        yield Problem(
            where,
            "is shorter than server.check_deadline: on shutdown, a call that waits for keys or introspection is "
            "aborted without a response: make it at least as long",
        )


def _any_tenant(where: Where, rule: RuleSettings, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    """A token for the audience from any tenant is accepted, and often anyone can create a tenant."""
    require = rule.require
    if rule.access == "public" or _requires_more(require):
        return
    bare = [each for each in require.any_of or (require,) if not _requires_more(each)]
    open_ = [
        issuer.label
        for issuer in issuers
        if issuer.template is not None
        and not issuer.tenants
        and require.allows_issuer(issuer.label)
        and any(each.allows_issuer(issuer.label) for each in bare)
    ]
    if open_:
        text = f"accepts tokens of every tenant of {listed(open_)} and requires nothing of them but the audience: list "
        yield Problem(where, f"{text}the issuer's tenants, or require scopes, clients or claims")


def _requires_more(part: Alternative) -> bool:
    """Whether a token must have more than an issuer and an audience. Anyone can get one that is bound to its sender."""
    claims = any(not condition.absent for condition in (part.claims or {}).values())
    if claims or part.scopes.all or part.scopes.any:
        return True
    return not part.written <= {"issuers", "audiences", "any_of", "claims", "scopes", "proof"}


def _public_everywhere(where: Where, rule: RuleSettings) -> Iterator[Problem]:
    paths = rule.match.paths
    if rule.access != "public" or rule.policy or (paths is not None and EVERY_PATH not in paths):
        return
    key = where if paths is None else (*where, "match", "paths", paths.index(EVERY_PATH))
    yield Problem(
        key, "lets through every path that no earlier rule decides: list the paths that are meant to be public"
    )


def _shadow(where: Where, rule: RuleSettings) -> Iterator[Problem]:
    if rule.mode == "shadow":
        text = "denies nothing: remove this line once the counted decisions are as expected"
        yield Problem((*where, "mode"), text)


def _foreign_patterns(where: Where, rule: RuleSettings) -> Iterator[Problem]:
    for number, pattern in enumerate(rule.match.paths or ()):
        if hint := foreign_syntax(pattern.text):
            yield Problem((*where, number), f"{shown(pattern.text)} {hint}")


def _url_as_path(where: Where, path: ClaimPath) -> Iterator[Problem]:
    """A claim whose name is a URL has dots, and a path would look for one claim within another."""
    first, *rest = path.names
    if rest and first.startswith(_URL_START) and "/" not in first.partition("//")[2]:
        escaped = path.text.replace("\\.", ".").replace(".", "\\.")
        text = f"leads to the member {'.'.join(rest)} of the claim {first}: write {escaped} for the claim of that name"
        yield Problem(where, text)


def _address_of_metadata(where: Where, issuer: Issuer) -> Iterator[Problem]:
    """Discovery appends this path to the issuer, or, for RFC 8414, puts it before the issuer's own path."""
    root, mark, rest = issuer.issuer.partition("/.well-known/")
    name, slash, path = rest.partition("/")
    if mark and name in _METADATA_NAMES:
        text = "is the address of metadata, and no token has it as iss: write the issuer in that document, such as "
        yield Problem(where, f"{text}{shown(root + slash + path)}")


def _placeholder(where: Where, issuer: Issuer) -> Iterator[Problem]:
    if PLACEHOLDER_AUDIENCE in issuer.audiences:
        text = "is the placeholder of authz-service init: write the aud of the access tokens for this API"
        yield Problem((*where, issuer.audiences.index(PLACEHOLDER_AUDIENCE)), text)


def _long_outage(where: Where, issuer: Issuer) -> Iterator[Problem]:
    if issuer.keys.outage_tolerance > _DAY:
        text = "is longer than a day, and a withdrawn key may stay trusted for as long: write at most 24h"
        yield Problem(where, text)


def _service_account_token(where: Where, issuer: Issuer) -> Iterator[Problem]:
    """The receiver of a pod's token for the API server can use the API server as that pod."""
    file = issuer.keys.bearer_token_file
    host = urlsplit(issuer.keys.address(issuer.issuer)).hostname or ""
    if file is None or str(file) not in _API_SERVER_TOKENS or _IN_CLUSTER_API_SERVER.match(host):
        return
    yield Problem(
        where,
        f"sends this pod's token for the API server of Kubernetes to {host}, which can use the API server with "
        "it: remove it, or set keys.jwks_uri: https://kubernetes.default.svc/openid/v1/jwks",
    )


def _allowed_http(where: Where, issuer: Issuer) -> Iterator[Problem]:
    keys = issuer.keys
    url = keys.address(issuer.issuer)
    by_network = issuer.has_keys and keys.file is None
    if keys.allow_http and by_network and not https_or_loopback(url):
        text = "allows fetching keys over plain http from another host, where anyone on the path can replace them: "
        yield Problem(where, f"{text}use https")
    introspection, events = issuer.introspection, issuer.security_events
    if not keys.allow_http:
        return
    if introspection and not https_or_loopback(introspection.endpoint or keys.metadata_address(issuer.issuer)):
        text = (
            "sends tokens and client credentials over plain http to another host, where anyone on the path can steal "
        )
        yield Problem(where, f"{text}them and report any token as active: use https")
    if events is not None and not all(map(https_or_loopback, _addresses_of_events(issuer, events))):
        text = "sends credentials and security events over plain http to another host, where anyone on the path can "
        yield Problem(where, f"{text}steal the former and withhold the latter: use https")


def _addresses_of_events(issuer: Issuer, events: SecurityEventsSettings) -> Iterator[str]:
    yield events.poll_endpoint
    if events.token_endpoint is not None:
        yield events.token_endpoint
    elif events.discovers_token_endpoint:
        yield issuer.keys.metadata_address(issuer.issuer)


def _ignored_confirmation(where: Where, issuer: Issuer) -> Iterator[Problem]:
    if issuer.confirmation == "ignore":
        text = "accepts tokens that are bound to their sender from anyone who has stolen one: write verify"
        yield Problem(where, text)


def _security_events(where: Where, issuer: Issuer, events: SecurityEventsSettings) -> Iterator[Problem]:
    if events.snapshot_file is None:
        text = "forgets all events at a restart, after which tokens that they revoked are accepted again: "
        yield Problem(where, f"{text}set snapshot_file")
    if issuer.max_token_age is None and events.keep < _USUAL_LIFETIME:
        text = "is shorter than an hour, and many access tokens live longer: write at least the longest lifetime of a "
        yield Problem((*where, "keep"), f"{text}token, or a revoked one is accepted again before it expires")
    elif issuer.max_token_age is not None and events.keep < (age := issuer.max_token_age):
        text = f"is shorter than max_token_age ({age:g}s), so a revoked token may be accepted again: write "
        yield Problem((*where, "keep"), f"{text}at least {age:g}s")
    if events.interval > _LONG_INTERVAL:
        text = "is longer than 5 minutes, and a revoked token may be accepted for as long: write at most 5m"
        yield Problem((*where, "interval"), text)


def _proofs(where: Where, dpop: DpopSettings, workers: int) -> Iterator[Problem]:
    if dpop.nonce == "required" and dpop.nonce_key_file is None and workers > 1:
        text = f"each of the {workers} workers makes its own key and does not accept the nonces of the others: set "
        yield Problem((*where, "nonce"), f"{text}nonce_key_file")
    if dpop.max_age > _LONG_PROOF_AGE:
        text = (
            "is longer than 5 minutes, and another replica accepts a stolen proof once more within it: write at most "
        )
        yield Problem((*where, "max_age"), f"{text}5m")
    for number, origin in enumerate(dpop.origins):
        if not https_or_loopback(origin):
            text = "lets clients send tokens and proofs over plain http, where anyone on the path can read them and "
            yield Problem((*where, "origins", number), f"{text}change the request: use https")


def _missing_origins(where: Where, dpop: DpopSettings, resources: Sequence[ResourceSettings]) -> Iterator[Problem]:
    """A resource's identifier is the URL that its clients use, and name in their proofs."""
    origins = set(map(_origin_of, dpop.origins))
    missing = {_origin_of(each.resource): place for place, each in reversed(list(enumerate(resources)))}
    for origin, place in reversed(missing.items()):
        if origins and origin not in origins:
            text = f"lack {origin}, the origin of resources[{place}], so every proof for it is invalid: add it"
            yield Problem(where, text)


def _origin_of(url: str) -> str:
    """Scheme, host and port, normalized."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _forwarded_certificate(where: Where, mtls: MtlsSettings) -> Iterator[Problem]:
    if mtls.certificate == "xfcc":
        text = (
            "trusts x-forwarded-client-cert, which clients can send as well: make sure that the proxy that ends their "
            "TLS replaces it (in Envoy, forward_client_cert_details: SANITIZE_SET), and that no request gets around it"
        )
        yield Problem(where, text)
