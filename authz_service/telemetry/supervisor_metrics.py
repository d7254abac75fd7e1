"""The metrics of the supervisor, which imports little."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.telemetry.families import transport_failures
from authz_service.telemetry.instruments import Registry
from authz_service.telemetry.process_metrics import ProcessMetrics

if TYPE_CHECKING:
    from collections.abc import Callable


class SupervisorMetrics:
    """The supervisor's own metrics."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        registry.add(ProcessMetrics())
        self.record_worker_restart: Callable[[], None] = registry.counter(
            "authz_worker_restarts_total", "Workers that ended unexpectedly and were replaced."
        ).only.increase
        self.record_grpc_on_admin_port: Callable[[], None] = (
            transport_failures(registry).labels(ConnectionFailure.GRPC).increase
        )
