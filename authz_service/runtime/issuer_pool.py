"""The key caches, introspectors and event receivers of all issuers, which outlive a reload where nothing changed.

Invariants: the parts of a new configuration are built and started before it is applied, and stopped if it is not. The
parts of the active configuration do not change meanwhile: only ``activate`` switches the gauges to the new parts and
retires unused ones. Receivers of events are the exception: one of a new configuration starts when that is activated and
its predecessor has ended, since two would take events from each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from authz_service.config import files
from authz_service.runtime.assembly import (
    bounds_of,
    event_receiver_of,
    introspector_of,
    key_cache_of,
    proxy_of,
    source_of,
)
from authz_service.runtime.background_tasks import cancel_all
from authz_service.telemetry.logs import fields
from authz_service.tokens.validator import TrustedIssuer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from authz_service.config.model import Issuer, Keys, Settings
    from authz_service.core.bounded import Bounds
    from authz_service.keys.cache import KeyCache
    from authz_service.providers.client_resources import ClientResources
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.runtime.background_tasks import BackgroundTasks
    from authz_service.telemetry.issuer_metrics import IntrospectionMetrics, IssuerMetrics, SecurityEventMetrics
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.introspection.introspector import Introspector
    from authz_service.tokens.revocation.receiver import EventReceiver

_FIRST_RETRY = 2.0  # seconds: a key cache tries again one second after its first failure

_logger = logging.getLogger("authz.app")


class _Part(NamedTuple):
    """A part of an issuer that works in a task."""

    kind: Literal["keys of", "introspection at", "security events of"]
    label: str  # the issuer's
    worker: KeyCache | Introspector | EventReceiver

    @property
    def is_receiver(self) -> bool:
        return self.kind == "security events of"

    @property
    def task_name(self) -> str:
        return f"{self.kind} {self.label}"


class _KeysIdentity(NamedTuple):
    """Issuers with equal identities share a key cache."""

    issuer: str
    label: str
    keys: Keys
    has_keys: bool
    key_uses: frozenset[str]
    trust_anchors: bytes  # digest of the CA file's content


class IssuerPool:
    """Provides each configuration with its issuers. All methods belong to the event loop's thread."""

    def __init__(self, metrics: Metrics, background: BackgroundTasks, resources: ClientResources) -> None:
        """``resources`` is shared by the clients of the process."""
        self._metrics = metrics
        self._background = background
        self._resources = resources
        self._active: ActiveConfig | None = None
        self._identities: dict[KeyCache, _KeysIdentity] = {}
        self._gauges: dict[_Part, IssuerMetrics | IntrospectionMetrics | SecurityEventMetrics] = {}
        self._tasks: dict[_Part, asyncio.Task[None]] = {}
        self._ending: list[asyncio.Task[None]] = []  # of receivers

    def issuers_of(self, settings: Settings) -> tuple[TrustedIssuer, ...]:
        """The issuers of these settings, with the parts that are active where nothing changed. Nothing is started."""
        return tuple(self._trusted(issuer, bounds_of(settings)) for issuer in settings.issuers)

    def _trusted(self, issuer: Issuer, bounds: Bounds) -> TrustedIssuer:
        keys = self._key_cache(issuer)
        same = next((each for each in self._issuers() if each.settings == issuer and each.keys is keys), None)
        if same is not None and self._active is not None and bounds_of(self._active.settings) == bounds:
            return same
        introspector = self._introspector(issuer, keys, bounds)
        if introspector is not None and same is not None and same.introspector is not None:
            introspector.copy_cache_of(same.introspector)
        events = self._event_receiver(issuer, keys) if same is None else same.events
        return TrustedIssuer(issuer, keys, introspector, events)

    def _issuers(self) -> tuple[TrustedIssuer, ...]:
        return () if self._active is None else self._active.issuers

    def _key_cache(self, issuer: Issuer) -> KeyCache:
        identity = _identity_of(issuer)
        for each in self._issuers():
            if self._identities[each.keys] == identity:
                return each.keys
        if (proxy := proxy_of(issuer)) is not None:
            _logger.info("requests to the provider go through a proxy", extra=fields(issuer=issuer.label, proxy=proxy))
        metrics = self._metrics.issuer(issuer.label, exposed=False)
        keys = key_cache_of(issuer, source_of(issuer, self._resources), metrics, time.time)
        self._identities[keys] = identity
        self._gauges[_Part("keys of", issuer.label, keys)] = metrics
        return keys

    def _introspector(self, issuer: Issuer, keys: KeyCache, bounds: Bounds) -> Introspector | None:
        if issuer.introspection is None:
            return None
        metrics = self._metrics.introspection(issuer.label, exposed=False)
        introspector = introspector_of(
            issuer,
            issuer.introspection,
            keys,
            metrics,
            clock=time.time,
            timer=time.monotonic,
            cache_bounds=bounds,
            resources=self._resources,
        )
        self._gauges[_Part("introspection at", issuer.label, introspector)] = metrics
        return introspector

    def _event_receiver(self, issuer: Issuer, keys: KeyCache) -> EventReceiver | None:
        if issuer.security_events is None:
            return None
        metrics = self._metrics.security_events(issuer.label, exposed=False)
        previous = (each.events for each in self._issuers() if each.settings.issuer == issuer.issuer)
        receiver = event_receiver_of(
            issuer,
            issuer.security_events,
            keys,
            next((each for each in previous if each is not None), None),
            metrics,
            clock=time.time,
            timer=time.monotonic,
            resources=self._resources,
        )
        self._gauges[_Part("security events of", issuer.label, receiver)] = metrics
        return receiver

    def start(self, issuers: Iterable[TrustedIssuer]) -> None:
        """Start to fetch the keys of new issuers, and to prepare for introspection."""
        for part in _parts(issuers):
            if part not in self._tasks and not part.is_receiver:
                self._tasks[part] = self._background.start(part.worker.run(), part.task_name)

    def start_receivers(self) -> None:
        """Start to receive the security events of the active configuration, after all receivers that are ending."""
        for part in _parts(self._issuers()):
            if part.is_receiver and part not in self._tasks:
                work = _run_after(tuple(self._ending), part)
                self._tasks[part] = self._background.start(work, part.task_name)

    async def discard(self) -> None:
        """Stop all parts that the active configuration does not use, at once."""
        await cancel_all(self._remove_unused(set(_parts(self._issuers()))).values())

    def activate(self, config: ActiveConfig) -> None:
        """Report the gauges of this configuration's parts from now on, and retire all other parts. Cannot fail.

        Parts end once no request can wait for them anymore: after the previous configuration's deadline.
        """
        previous, self._active = self._active, config
        in_use = set(_parts(config.issuers))
        for part in in_use:
            self._gauges[part].expose()
        unused = self._remove_unused(in_use)
        if previous is None:
            return
        self._ending = [task for task in self._ending if not task.done()]
        for part, task in unused.items():
            if part.is_receiver:
                task.cancel()
                self._ending.append(task)
        self.start_receivers()
        if unused:
            asyncio.get_running_loop().call_later(previous.check_deadline, self._retire, unused)

    def _remove_unused(self, in_use: Collection[_Part]) -> dict[_Part, asyncio.Task[None]]:
        """Remove all other parts from this pool; returns those that were started."""
        unused = [part for part in self._gauges if part not in in_use]
        for part in unused:
            del self._gauges[part]
        key_caches = {part.worker for part in in_use}
        self._identities = {keys: identity for keys, identity in self._identities.items() if keys in key_caches}
        return {part: self._tasks.pop(part) for part in unused if part in self._tasks}

    def _retire(self, unused: Mapping[_Part, asyncio.Task[None]]) -> None:
        for part, task in unused.items():
            if not part.is_receiver:  # which is canceled already, and may be about to close its file
                task.cancel()
        labels = {part.label for part in unused}
        for label in labels - {issuer.settings.label for issuer in self._issuers()}:
            self._metrics.remove_issuer_gauges(label)
        for label in labels - {each.settings.label for each in self._issuers() if each.introspector is not None}:
            self._metrics.remove_introspection_gauges(label)
        for label in labels - {each.settings.label for each in self._issuers() if each.events is not None}:
            self._metrics.remove_security_event_gauges(label)


def _parts(issuers: Iterable[TrustedIssuer]) -> Iterator[_Part]:
    for issuer in issuers:
        label = issuer.settings.label
        yield _Part("keys of", label, issuer.keys)
        if issuer.introspector is not None:
            yield _Part("introspection at", label, issuer.introspector)
        if issuer.events is not None:
            yield _Part("security events of", label, issuer.events)


async def _run_after(predecessors: Collection[asyncio.Task[None]], part: _Part) -> None:
    if predecessors:
        await asyncio.wait(predecessors)
    del predecessors  # whose exceptions hold their receivers
    await part.worker.run()


def _identity_of(issuer: Issuer) -> _KeysIdentity:
    ca_file = issuer.keys.ca_file
    trust_anchors = b"" if ca_file is None else files.digests_of([ca_file])[ca_file]
    return _KeysIdentity(issuer.issuer, issuer.label, issuer.keys, issuer.has_keys, issuer.key_uses, trust_anchors)


async def wait_for_keys(issuers: Iterable[TrustedIssuer]) -> None:
    """Wait until each issuer has keys, or until a provider that is reachable would have replied twice."""
    waiting = [issuer for issuer in issuers if not issuer.keys.first_keys.is_set()]
    if not waiting:
        return
    timeout = 2 * max(issuer.settings.keys.timeout for issuer in waiting) + _FIRST_RETRY
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await asyncio.gather(*(issuer.keys.first_keys.wait() for issuer in waiting))
    missing = [issuer.keys.issuer for issuer in waiting if not issuer.keys.first_keys.is_set()]
    if missing:
        _logger.warning(
            "applying a configuration without the keys of some issuers; their tokens are denied until the keys arrive",
            extra=fields(issuers=missing, waited_s=timeout),
        )
