"""Builds, from settings, everything that decides requests.

Nothing is started here. The sidecar, ``explain`` and ``test`` get the same parts and differ only in where keys come
from; clocks and metrics are passed in. What a configuration does not use is not imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from authz_service.authorizer import Authorizer
from authz_service.config import files
from authz_service.config.nonce_key import MIN_BYTES, read_nonce_key
from authz_service.core.bounded import Bounds
from authz_service.core.credential import AUTHORIZATION
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.errors import FetchFailed
from authz_service.core.reasons import Reason
from authz_service.core.upstream import HeaderSource, UpstreamHeaders
from authz_service.core.upstream_metadata import UpstreamMetadata
from authz_service.keys.cache import KeyCache
from authz_service.keys.snapshot import SnapshotFile
from authz_service.keys.source import NoSource
from authz_service.rules.policy import DpopOffer, Policy
from authz_service.rules.resources import Resources
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.proof.certificate import ClientCertificates
from authz_service.tokens.proof.dpop import DpopVerifier
from authz_service.tokens.proof.nonce import Nonces
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets
from authz_service.tokens.proof.verifier import ProofVerifier
from authz_service.tokens.revocation.revocations import RevocationList
from authz_service.tokens.validator import Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz_service.config.model import IntrospectionSettings, Issuer, SecurityEventsSettings, Settings
    from authz_service.keys.source import KeySource
    from authz_service.providers.client_resources import ClientResources
    from authz_service.telemetry.issuer_metrics import IntrospectionMetrics, IssuerMetrics, SecurityEventMetrics
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.introspection.introspector import Introspector
    from authz_service.tokens.revocation.event_store import EventStore
    from authz_service.tokens.revocation.receiver import EventReceiver
    from authz_service.tokens.validator import TrustedIssuer

# The modules of features; the functions that build these import them as well.
_PUBLISHED_KEYS = ("keys.http_source",)
_INTROSPECTION = (
    "providers.client_authentication",
    "tokens.introspection.http_client",
    "tokens.introspection.introspector",
)
_SECURITY_EVENTS = ("tokens.revocation.event_file", "tokens.revocation.poll_client", "tokens.revocation.receiver")
_TRACING = ("runtime.tracing", "transport.otlp")


class ProofState(NamedTuple):
    """What verifying proofs needs of earlier requests and configurations."""

    replays: ReplayCache
    nonces: Nonces
    own_key: bytes  # of nonces, without a file that has one

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics, previous: ProofState | None, now: float) -> ProofState:
        """The state for these settings, which continues the previous one. ``now`` is in seconds since the epoch.

        Raises:
            ConfigError: if the file with the key of the nonces is unusable.
        """
        dpop = settings.dpop_or_default
        own_key = os.urandom(MIN_BYTES) if previous is None else previous.own_key
        key = own_key if dpop.nonce_key_file is None else read_nonce_key(dpop.nonce_key_file)
        if previous is None:
            replays = ReplayCache(dpop.replay_cache_entries, dpop.max_age, metrics.record_proof_eviction)
            return cls(replays, Nonces(key, dpop.nonce_lifetime), own_key)
        replays = previous.replays.with_limits(dpop.replay_cache_entries, dpop.max_age)
        return cls(replays, previous.nonces.replaced_by(key, dpop.nonce_lifetime, now), own_key)


class ActiveConfig(NamedTuple):
    """Settings and the parts built from them. A request is decided by the one that was active when it arrived."""

    settings: Settings
    issuers: tuple[TrustedIssuer, ...]
    token_cache: JwtCache
    proof_state: ProofState
    revocations: RevocationList
    authorizer: Authorizer
    metadata: UpstreamMetadata
    decision_log: DecisionLog
    check_deadline: float  # seconds
    max_request_bytes: int


def assemble(
    settings: Settings,
    issuers: Sequence[TrustedIssuer],
    metrics: Metrics,
    *,
    now: float,
    previous: ActiveConfig | None = None,
) -> ActiveConfig:
    """Build all parts for these settings and issuers. May be called from any thread.

    ``now`` is in seconds since the epoch. What must outlive a reload is taken from ``previous``.

    Raises:
        ConfigError: if the file with the key of the nonces, or with the revocations, is unusable.
    """
    revocations = revocation_list_of(
        settings, {each.settings.label: each.events.store for each in issuers if each.events is not None}
    )
    proof_state = ProofState.of(settings, metrics, None if previous is None else previous.proof_state, now)
    token_cache = JwtCache(bounds_of(settings), settings.token_cache.max_ttl)
    return ActiveConfig(
        settings,
        tuple(issuers),
        token_cache,
        proof_state,
        revocations,
        authorizer_of(settings, issuers, token_cache, metrics, proof_state, revocations),
        UpstreamMetadata(settings.upstream.metadata),
        DecisionLog(settings.logging.decisions),
        settings.server.check_deadline,
        settings.server.max_request_bytes,
    )


def authorizer_of(
    settings: Settings,
    issuers: Sequence[TrustedIssuer],
    token_cache: JwtCache,
    metrics: Metrics,
    proof_state: ProofState,
    revocations: RevocationList,
) -> Authorizer:
    """Build the authorizer alone. May be called from any thread."""
    offer = DpopOffer(" ".join(settings.dpop_or_default.algorithms), beside_bearer=settings.dpop is not None)
    return Authorizer(
        Policy(settings.rules, settings.issuers, settings.scope_implies, offer),
        Validator(issuers, token_cache, metrics),
        proof_verifier_of(settings, metrics, proof_state),
        _upstream_headers(settings),
        Resources(settings),
        revocations,
        max_token_bytes=settings.server.max_token_bytes,
        record_omitted=metrics.record_omitted_headers,
        allow_preflight=settings.cors_preflight == "allow",
    )


def revocation_list_of(settings: Settings, events: Mapping[str, EventStore]) -> RevocationList:
    """The revocations of the operator's file, and of events by their issuer's label.

    Raises:
        ConfigError: with every problem of the file.
    """
    file = settings.revocations_file
    if file is None:
        return RevocationList(events=events)
    from authz_service.tokens.revocation.file import revocations_in

    digest = files.digests_of([file])[file]  # before the file is read: a later change is seen as one
    return RevocationList(revocations_in(file, settings.issuers), digest, events)


def proof_verifier_of(settings: Settings, metrics: Metrics, state: ProofState) -> ProofVerifier:
    """What verifies that the senders of tokens are those to which they are bound."""
    dpop = settings.dpop_or_default
    nonces = state.nonces if dpop.nonce == "required" else None
    return ProofVerifier(
        DpopVerifier(
            algorithms=dpop.algorithms,
            max_age=dpop.max_age,
            targets=Targets(dpop.origins),
            replays=state.replays,
            nonces=nonces,
        ),
        ClientCertificates(settings.mtls.certificate, settings.mtls.xfcc_hops),
        nonces=nonces,
        leeways={issuer.label: issuer.leeway for issuer in settings.issuers},
        record=metrics.record_dpop_proof,
    )


def _upstream_headers(settings: Settings) -> UpstreamHeaders:
    headers = {name: HeaderSource(each.claim, each.encoding) for name, each in settings.upstream.headers.items()}
    if settings.upstream.forward_authorization:
        return UpstreamHeaders(headers)
    credentials = dict.fromkeys((AUTHORIZATION, *(rule.credential.header for rule in settings.rules)))
    return UpstreamHeaders(headers, credentials)


def declare_series(config: ActiveConfig, metrics: Metrics) -> None:
    """Create the series of all rules and identity headers, so that each starts at 0. May be called from any thread."""
    metrics.declare_upstream_headers(config.settings.upstream.headers)
    metrics.declare_rules((rule.name, rule.mode, rule.possible_reasons()) for rule in config.authorizer.policy.rules)
    if config.settings.resources:
        metrics.declare_rules([(NO_RULE_NAME, "enforce", [Reason.RESOURCE_METADATA])])
    if config.settings.cors_preflight == "allow":
        metrics.declare_rules([(NO_RULE_NAME, "enforce", [Reason.PREFLIGHT])])


def import_features(settings: Settings) -> None:
    """Import what these settings use. May be called from any thread, and takes a while.

    A reload calls it before it builds anything, so that the event loop does not wait for imports.
    """
    used = {
        _PUBLISHED_KEYS: any(issuer.has_keys and issuer.keys.file is None for issuer in settings.issuers),
        _INTROSPECTION: any(issuer.introspection is not None for issuer in settings.issuers),
        _SECURITY_EVENTS: any(issuer.security_events is not None for issuer in settings.issuers),
        _TRACING: settings.tracing is not None,
    }
    for modules, is_used in used.items():
        for module in modules if is_used else ():
            import_module(f"authz_service.{module}")


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of the token cache, which are also those of each introspector's cache."""
    return Bounds(settings.token_cache.max_entries, settings.token_cache.max_bytes)


def source_of(issuer: Issuer, resources: ClientResources) -> KeySource:
    """The source of the issuer's keys."""
    keys = issuer.keys
    if keys.file is not None:
        from authz_service.keys.file_source import FileSource

        return FileSource(keys.file, keys, issuer.key_uses)
    if not issuer.has_keys:
        return NoSource()
    from authz_service.keys.http_source import HttpSource

    return HttpSource(issuer.issuer, keys, resources, issuer.key_uses)


def proxy_of(issuer: Issuer) -> str | None:
    """The URL of the proxy for requests to the configured addresses of the provider; None if it is reached directly."""
    introspection = issuer.introspection
    addresses = [issuer.keys.address(issuer.issuer)] if issuer.has_keys and issuer.keys.file is None else []
    if introspection is not None:
        addresses.append(introspection.endpoint or issuer.keys.metadata_address(issuer.issuer))
    if issuer.security_events is not None:
        addresses.append(issuer.security_events.poll_endpoint)
    if not addresses:
        return None
    from authz_service.providers import urls
    from authz_service.providers.proxy import Proxies

    proxies = Proxies(issuer.keys.proxy, os.environ)
    with contextlib.suppress(FetchFailed):  # the first request reports it
        for address in addresses:
            if (proxy := proxies.proxy_for(urls.parse(address).origin)) is not None:
                return proxy.root
    return None


def key_cache_of(issuer: Issuer, source: KeySource, metrics: IssuerMetrics, clock: Callable[[], float]) -> KeyCache:
    """The issuer's key cache, still empty. ``clock`` gives seconds since the epoch."""
    return KeyCache(
        source,
        issuer.keys,
        issuer=issuer.label,
        metrics=metrics,
        logger=logging.getLogger("authz.keys"),
        clock=clock,
        snapshots=_snapshots_of(issuer),
    )


def _snapshots_of(issuer: Issuer) -> SnapshotFile | None:
    keys = issuer.keys
    if keys.snapshot_file is None or not issuer.has_keys:
        return None
    return SnapshotFile(
        keys.snapshot_file,
        issuer=issuer.issuer,
        max_bytes=keys.max_bytes,
        max_keys=keys.max_keys,
        uses=issuer.key_uses,
    )


def introspector_of(
    issuer: Issuer,
    settings: IntrospectionSettings,
    keys: KeyCache,
    metrics: IntrospectionMetrics,
    *,
    clock: Callable[[], float],
    timer: Callable[[], float],
    cache_bounds: Bounds,
    resources: ClientResources,
) -> Introspector:
    """The client of the issuer's introspection endpoint.

    ``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock; ``cache_bounds`` limits the cache.
    """
    from authz_service.providers.client_authentication import authentication_of
    from authz_service.tokens.introspection.http_client import HttpIntrospectionClient
    from authz_service.tokens.introspection.introspector import Introspector

    authentication = authentication_of(settings, issuer.issuer, clock=clock, timer=timer)
    return Introspector(
        issuer,
        settings,
        HttpIntrospectionClient(issuer, settings, authentication, keys, clock=clock, timer=timer, resources=resources),
        metrics=metrics,
        logger=logging.getLogger("authz.introspection"),
        clock=clock,
        timer=timer,
        cache_bounds=cache_bounds,
    )


def event_receiver_of(
    issuer: Issuer,
    settings: SecurityEventsSettings,
    keys: KeyCache,
    previous: EventReceiver | None,
    metrics: SecurityEventMetrics,
    *,
    clock: Callable[[], float],
    timer: Callable[[], float],
    resources: ClientResources,
) -> EventReceiver:
    """The receiver of the issuer's security events, which continues ``previous``. Clocks: see ``introspector_of``."""
    from authz_service.tokens.revocation.event_file import EventFile
    from authz_service.tokens.revocation.poll_client import PollClient
    from authz_service.tokens.revocation.receiver import EventReceiver

    snapshot = settings.snapshot_file
    return EventReceiver(
        issuer,
        settings,
        keys,
        PollClient(issuer, settings, clock=clock, timer=timer, resources=resources),
        None if snapshot is None else EventFile(snapshot, issuer.issuer),
        previous=previous,
        metrics=metrics,
        logger=logging.getLogger("authz.events"),
        clock=clock,
        timer=timer,
    )
