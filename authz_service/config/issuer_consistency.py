"""Checks between several keys of one issuer, with the invariants of ``consistency``."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from authz_service.config.document import Problem
from authz_service.config.model import CREDENTIAL_KEYS
from authz_service.config.values import https_or_loopback, is_name, is_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.draft import Draft
    from authz_service.config.kinds import Where
    from authz_service.config.model import IntrospectionSettings, Issuer, Keys, SecurityEventsSettings

_SOURCES = ("discovery", "jwks_uri", "jwks_file", "pem_file")
_INTERVALS = ("min_refresh_interval", "refresh_interval", "max_refresh_interval")
_EVENT_CREDENTIALS = ("client_secret_file", "private_key_file", "bearer_token_file")
_OF_TOKEN_REQUESTS = ("client_id", "token_endpoint", "scopes")  # keys of security_events


def problems_of_issuer(draft: Draft, where: Where, issuer: Issuer) -> Iterator[Problem]:
    """All problems between the keys of an issuer."""
    yield from _form_of_issuer(draft, where, issuer)
    yield from _sources(draft, where, issuer)
    yield from _intervals(draft, (*where, "keys"), issuer.keys)
    yield from _client_certificate(draft, (*where, "keys"), issuer.keys)
    yield from _metadata_url(draft, where, issuer)
    yield from _forbidden_http(draft, where, issuer)
    yield from _profile(draft, where, issuer)
    if issuer.introspection is not None:
        yield from _introspection(draft, where, issuer, issuer.introspection)
    if issuer.security_events is not None:
        yield from _security_events(draft, where, issuer, issuer.security_events)


def _form_of_issuer(draft: Draft, where: Where, issuer: Issuer) -> Iterator[Problem]:
    """Templates, and issuers that are not URLs, have no metadata; a template has no host to be named after."""
    if not draft.has((*where, "issuer")):
        return
    here = (*where, "issuer")
    if issuer.template is None and issuer.tenants:
        yield Problem((*where, "tenants"), "has no effect without a {name} in issuer: remove it")
    if issuer.template is None and is_url(issuer.issuer):
        return
    what = "is not a URL" if issuer.template is None else "is a template"
    if draft.has((*where, "keys"), (*where, "introspection")):
        if issuer.keys.discovery:
            text = f"{what}, so keys cannot be discovered: set keys.jwks_uri or another source of keys"
            yield Problem(here, text if issuer.template else f"{text}, or write https://host/path")
        elif issuer.template is not None and not issuer.has_keys:
            yield Problem(here, f"{what}, and needs keys: set keys.jwks_uri or another source of keys")
    if issuer.template is not None and issuer.introspection is not None:
        yield Problem(
            (*where, "introspection"), "cannot be combined with a template, since a server belongs to one issuer"
        )
    if draft.has((*where, "name")) and not issuer.name and (issuer.template is not None or not is_name(issuer.label)):
        yield Problem(here, f"{what}, and needs a name for metrics, logs and rules: add name")


def _sources(draft: Draft, issuer_at: Where, issuer: Issuer) -> Iterator[Problem]:
    # A source that could not be read still counts as one. Discovery is one by default only if no other is set.
    keys, where = issuer.keys, (*issuer_at, "keys")
    written = {name for name in _SOURCES if name in keys.written and getattr(keys, name)}
    given = [name for name in _SOURCES if name in written or (*where, name) in draft.unread]
    if len(given) > 1:
        yield Problem((*where, given[1]), f"{' and '.join(given)} are both set: keep exactly one source of keys")
    # An issuer with introspection does not need keys.
    has_introspection = issuer.introspection is not None or not draft.has((*issuer_at, "introspection"))
    if not given and not keys.discovery and not has_introspection:
        yield Problem(
            (*where, "discovery"),
            "false leaves no source of keys: set jwks_uri, jwks_file or pem_file, or remove this line",
        )


def _intervals(draft: Draft, where: Where, keys: Keys) -> Iterator[Problem]:
    for shorter, longer in itertools.pairwise(_INTERVALS):
        least, most = getattr(keys, shorter), getattr(keys, longer)
        if least > most and draft.has((*where, shorter), (*where, longer)):
            key = shorter if shorter in keys.written else longer
            yield Problem((*where, key), f"{shorter} ({least:g}s) must not be longer than {longer} ({most:g}s)")


def _client_certificate(draft: Draft, where: Where, keys: Keys) -> Iterator[Problem]:
    names = ("client_certificate_file", "client_key_file")
    for name, other in (names, names[::-1]):
        missing = getattr(keys, other) is None and draft.has((*where, other))
        if getattr(keys, name) is not None and missing:
            yield Problem((*where, name), f"requires {other}: add it")


def _metadata_url(draft: Draft, where: Where, issuer: Issuer) -> Iterator[Problem]:
    keys, introspection, events = issuer.keys, issuer.introspection, issuer.security_events
    discovers = (
        keys.discovery
        or (introspection is not None and introspection.endpoint is None)
        or (events is not None and events.discovers_token_endpoint)
    )
    looked_at = ((*where, name) for name in ("keys", "introspection", "security_events"))
    if keys.metadata_url is not None and not discovers and draft.has(*looked_at):
        yield Problem((*where, "keys", "metadata_url"), "is not used, since nothing is discovered: remove it")


def _forbidden_http(draft: Draft, where: Where, issuer: Issuer) -> Iterator[Problem]:
    keys = issuer.keys
    if keys.file or keys.allow_http or not issuer.has_keys:
        return
    named = next((name for name in ("jwks_uri", "metadata_url") if getattr(keys, name)), None)
    key = ("keys", named) if named else ("issuer",)
    looked_at = (
        ("issuer",),
        *(("keys", name) for name in ("jwks_uri", "metadata_url", "jwks_file", "pem_file", "allow_http")),
    )
    if _is_plain_http(keys.address(issuer.issuer)) and draft.has(*((*where, *part) for part in looked_at)):
        yield Problem((*where, *key), "is plain http to another host: write https, or set keys.allow_http to true")


def _is_plain_http(url: str) -> bool:
    """Whether it is plain http to another host; not for an issuer that is not a URL, which is reported as such."""
    return is_url(url) and not https_or_loopback(url)


def _profile(draft: Draft, where: Where, issuer: Issuer) -> Iterator[Problem]:
    key = (*where, "token_types")
    is_profile = issuer.access_token_profile == "rfc9068" and draft.has((*where, "access_token_profile"), key)
    if is_profile and "at+jwt" not in issuer.accepted_types:
        yield Problem(key, "does not contain at+jwt, which access_token_profile: rfc9068 requires: add it")


def _introspection(draft: Draft, where: Where, issuer: Issuer, settings: IntrospectionSettings) -> Iterator[Problem]:
    here = (*where, "introspection")
    if draft.has((*here, "auth_method")):
        yield from _client_authentication(draft, here, settings)
    yield from _client_certificate_of_introspection(draft, where, issuer, settings)
    if issuer.template is None and draft.has((*here, "endpoint"), (*where, "keys")):
        yield from _endpoint((*here, "endpoint"), issuer, settings.endpoint)
    if settings.mode == "always" and not issuer.has_keys and draft.has((*here, "mode"), (*where, "keys")):
        text = "always introspects verified JWTs, but there is no source of keys: set one, or write mode: opaque"
        yield Problem((*here, "mode"), text)


def _client_authentication(draft: Draft, where: Where, settings: IntrospectionSettings) -> Iterator[Problem]:
    method, needed = settings.auth_method, settings.credential_key
    files = dict.fromkeys(filter(None, CREDENTIAL_KEYS.values()))
    given = [name for name in files if getattr(settings, name) or not draft.has((*where, name))]
    for other in given:
        if other != needed:
            remedy = "remove it" if needed is None or needed in given else f"set {needed} instead"
            yield Problem((*where, other), f"is not used by {method}: {remedy}")
    if needed is not None and not given:
        yield Problem((*where, "auth_method"), f"{method} requires {needed}: add it")


def _client_certificate_of_introspection(
    draft: Draft, where: Where, issuer: Issuer, settings: IntrospectionSettings
) -> Iterator[Problem]:
    here = (*where, "introspection", "auth_method")
    if settings.auth_method != "tls_client_auth" or not draft.has(here, (*where, "keys")):
        return
    if issuer.keys.client_certificate_file is None:
        yield Problem(here, "tls_client_auth requires keys.client_certificate_file: add it")
    elif (settings.endpoint or "").startswith("http:"):
        yield Problem((*here[:-1], "endpoint"), "is plain http, over which tls_client_auth cannot work: write https")


def _security_events(draft: Draft, where: Where, issuer: Issuer, settings: SecurityEventsSettings) -> Iterator[Problem]:
    here = (*where, "security_events")
    yield from _credential_of_events(draft, here, settings)
    without_keys = issuer.introspection is not None and issuer.template is None and not issuer.has_keys
    if without_keys and draft.has((*where, "keys")):
        yield Problem(here, "requires the issuer's keys, which sign the events: set a source of keys, or remove this")
    looked_at = ((*where, "keys"), (*here, "token_endpoint"), (*here, "bearer_token_file"))
    if settings.bearer_token_file is None and draft.has(*looked_at):
        yield from _endpoint((*here, "token_endpoint"), issuer, settings.token_endpoint)
    if draft.has((*where, "keys")):
        yield from _endpoint((*here, "poll_endpoint"), issuer, settings.poll_endpoint)


def _credential_of_events(draft: Draft, where: Where, settings: SecurityEventsSettings) -> Iterator[Problem]:
    given = [name for name in _EVENT_CREDENTIALS if getattr(settings, name) or not draft.has((*where, name))]
    if not given:
        yield Problem(where, f"requires a credential: add exactly one of {', '.join(_EVENT_CREDENTIALS)}")
    elif len(given) > 1:
        yield Problem((*where, given[1]), f"{' and '.join(given)} are both set: keep exactly one credential")
    elif given == ["bearer_token_file"]:
        for name in _OF_TOKEN_REQUESTS:
            if getattr(settings, name):
                text = "has no effect with bearer_token_file, since no token is requested: remove one of the two"
                yield Problem((*where, name), text)
    elif not settings.client_id and draft.has((*where, "client_id")):
        yield Problem((*where, "client_id"), f"is required with {given[0]}: add it")


def _endpoint(where: Where, issuer: Issuer, endpoint: str | None) -> Iterator[Problem]:
    """Problems of an endpoint that is configured or, if it is None, found in the issuer's metadata."""
    keys = issuer.keys
    if endpoint is None and (issuer.template is not None or not is_url(issuer.issuer)):
        if not keys.discovery:  # for which the same problem is reported already
            what = "is not a URL" if issuer.template is None else "is a template"
            yield Problem(where, f"is required if the issuer {what}: add it")
    elif endpoint is None and not keys.discovery and "discovery" in keys.written:
        yield Problem(where, "is required if keys.discovery is false, since there is no metadata to find it in: add it")
    elif endpoint is None and not (keys.jwks_uri or keys.file):
        return  # found where the keys are found, for which the same problem is reported already
    elif not keys.allow_http and _is_plain_http(endpoint or keys.metadata_address(issuer.issuer)):
        what = "is" if endpoint else "would be found in metadata over"
        yield Problem(where, f"{what} plain http to another host: write https, or set keys.allow_http to true")
