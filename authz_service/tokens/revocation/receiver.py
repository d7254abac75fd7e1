"""Receives the security events of one issuer, so that what they revoke is refused within seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.tokens.revocation.event_store import EventStore

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from authz_service.config.model import Issuer, SecurityEventsSettings
    from authz_service.keys.cache import KeyCache
    from authz_service.providers.client import ClientResources
    from authz_service.telemetry.metrics import SecurityEventMetrics


class EventReceiver:
    """Polls the events of one issuer, or follows the process that polls them."""

    def __init__(
        self,
        issuer: Issuer,
        settings: SecurityEventsSettings,
        keys: KeyCache,
        *,
        store: EventStore | None,
        metrics: SecurityEventMetrics,
        logger: logging.Logger,
        clock: Callable[[], float],
        timer: Callable[[], float],
        resources: ClientResources | None = None,
    ) -> None:
        """``store`` has the events of earlier configurations; None at the start.

        ``clock`` gives seconds since the epoch, ``timer`` seconds of a monotonic clock.
        """
        self.issuer = issuer
        self.settings = settings
        self.store = store or EventStore(settings.keep, settings.max_entries)
        self._keys, self._metrics, self._logger = keys, metrics, logger
        self._clock, self._timer, self._resources = clock, timer, resources

    async def run(self) -> None:
        """Receive events until canceled."""
        raise NotImplementedError
