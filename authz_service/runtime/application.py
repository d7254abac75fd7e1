"""The composition root: builds every object from the settings, starts, drains and closes them.

This is the only module that knows all parts and the order in which they start and end. Clocks, metrics and loggers are
created here and passed in; nothing below is global.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

from authz_service.admin.server import AdminServer
from authz_service.config.places import host_port
from authz_service.config.server import Server
from authz_service.providers.client_resources import ClientResources
from authz_service.runtime import preflight, reload
from authz_service.runtime.assembly import assemble, declare_series
from authz_service.runtime.background_tasks import BackgroundTasks
from authz_service.runtime.issuer_pool import IssuerPool
from authz_service.runtime.listening import log_listening
from authz_service.runtime.reload import Reloader
from authz_service.runtime.revocation_file import RevocationFile
from authz_service.telemetry import logs
from authz_service.telemetry.background_log_stream import BackgroundLogStream
from authz_service.telemetry.connection_log import FailureLog
from authz_service.telemetry.decision_output import DecisionOutput
from authz_service.telemetry.event_loop_delay import observe_delay
from authz_service.telemetry.logs import fields
from authz_service.telemetry.metrics import Metrics
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.servicer import Servicer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from authz_service.config.model import Logging, Settings, TracingSettings
    from authz_service.keys.cache import KeyCache
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.runtime.handover import Worker
    from authz_service.runtime.preflight import Loaded
    from authz_service.runtime.reload import Changes
    from authz_service.runtime.tracing import Tracing
    from authz_service.tokens.revocation.receiver import EventReceiver
    from authz_service.transport.addresses import SharedAddress
    from authz_service.transport.grpcio_server import GrpcioServer

# Seconds for which another thread that computes, such as one that reads a configuration, may hold up the event loop.
_SWITCH_INTERVAL = 0.0005

_logger = logging.getLogger("authz.app")


class App:
    """One running instance, or one of its workers."""

    def __init__(
        self,
        settings: Settings,
        configure_logs: Callable[[Logging], None] = lambda _: None,
        worker: Worker | None = None,
    ) -> None:
        """Build everything; nothing listens and nothing is fetched yet.

        ``configure_logs`` is called when a reload changes the logging settings.

        Raises:
            StartFailed: when the certificates cannot be used.
        """
        self._configure_logs = configure_logs
        self._worker = worker
        # The settings that a reload cannot change.
        self._listening = Server.read(worker.server) if worker else settings.server
        self._stopping = False
        self._ready = False
        self._readiness: asyncio.Task[None] | None = None
        self._background = BackgroundTasks()
        self.metrics = Metrics(transport=self._listening.transport)
        resources = ClientResources()
        self._pool = IssuerPool(self.metrics, self._background, resources)
        self._resources = resources
        self._tracing: Tracing | None = None  # once a configuration uses it
        config = assemble(settings, self._pool.issuers_of(settings), self.metrics, now=time.time())
        declare_series(config, self.metrics)
        self._pool.activate(config)
        self.servicer = Servicer(config, metrics=self.metrics, clock=time.time, timer=time.perf_counter)
        self.server = self._server_of(self._listening, worker.shared if worker else None)
        self.metrics.watch_readiness(lambda: not self.missing())
        self.metrics.watch_token_cache(
            entries=lambda: len(self.active.token_cache), size=lambda: self.active.token_cache.used_bytes
        )
        self.metrics.watch_replay_cache(lambda: len(self.active.proof_state.replays))
        self._revocation_file = RevocationFile(lambda: self.servicer.active, self.metrics)
        self.metrics.watch_revocations("file", lambda: self.active.revocations.file_entries)
        self.metrics.watch_revocations("events", lambda: self.active.revocations.event_entries)
        if self.server.certificates is not None:
            self.metrics.watch_certificate(self.server.certificates.validity)
        self.admin = AdminServer(
            address=host_port(self._listening.admin_address),
            metrics=self.metrics,
            missing=self.missing,
            also_missing=self.also_missing,
            failures=FailureLog(lambda _: self.metrics.record_grpc_on_admin_port()),
        )

    def _server_of(self, server: Server, shared: SharedAddress | None) -> GrpcioServer | AsyncioServer:
        if server.transport == "grpcio":
            from authz_service.transport.grpcio_server import GrpcioServer, open_connections

            self.metrics.watch_connections(open_connections)
            return GrpcioServer(
                server.grpc_address, server.tls, self.servicer.check, shared, refuse=self.servicer.refuse
            )
        return AsyncioServer(
            server.grpc_address,
            server.tls,
            self.servicer.answer,
            lambda: self.active.max_request_bytes,
            shared,
            refuse=self.servicer.refuse,
            metrics=self.metrics,
        )

    @property
    def active(self) -> ActiveConfig:
        """The configuration that decides requests which arrive now."""
        return self.servicer.active

    def missing(self) -> Sequence[str]:
        """What this sidecar waits for before it is ready. Once ready, it stays so until it shuts down."""
        if self._stopping:
            return ["shutting down"]
        if self._ready:
            return []
        unrestored = [each.issuer.label for each in self._receivers() if not each.restored.is_set()]
        return [
            *(f"saved security events of issuer {label}" for label in unrestored),
            *_without_keys(self._key_caches(required=True)),
        ]

    def also_missing(self) -> Sequence[str]:
        """What is missing although this sidecar is ready without it."""
        return _without_keys(self._key_caches(required=False))

    def _receivers(self) -> list[EventReceiver]:
        return [issuer.events for issuer in self.active.issuers if issuer.events is not None]

    def _key_caches(self, *, required: bool) -> list[KeyCache]:
        """The key caches of the issuers that are required for readiness, or of the others."""
        return [issuer.keys for issuer in self.active.issuers if issuer.settings.required_for_readiness is required]

    async def start(self) -> None:
        """Start to fetch keys, and listen once the saved security events take effect.

        Raises:
            StartFailed: when an address cannot be used.
        """
        if self._worker is None:
            await self.admin.start()
        self._trace(self.active.settings.tracing)
        self._pool.start(self.active.issuers)
        self._pool.start_receivers()
        await asyncio.gather(*(receiver.restored.wait() for receiver in self._receivers()))
        await self.server.start()
        self._await_readiness()
        self.metrics.record_active_config(time.time())
        if self._worker is None:
            log_listening(
                self._listening.grpc_address, self.server.port, self._listening.admin_address, self.admin.port
            )
        self._background.start(self._revocation_file.run(), "revocations")
        self._background.start(observe_delay(self.metrics.observe_loop_delay, time.perf_counter), "event loop delay")

    def _await_readiness(self) -> None:
        if self._readiness is not None:  # it may wait for an issuer that is not configured anymore
            self._readiness.cancel()
        self._readiness = self._background.start(self._announce_readiness(), "readiness")

    async def _announce_readiness(self) -> None:
        await asyncio.gather(*(keys.first_keys.wait() for keys in self._key_caches(required=True)))
        if self._stopping:
            return
        self._ready = True
        await self.server.set_serving(serving=True)
        # The objects built so far live as long as the process: the garbage collector need not visit them again. It does
        # not run before: that would stop the event loop for 10 ms, and free some hundred objects and no memory.
        gc.freeze()
        _logger.info("ready")

    async def drain(self) -> None:
        """Report not ready and keep serving for ``shutdown_delay``, so that the mesh can switch over; then stop.

        Requests in flight have ``shutdown_grace`` to finish; what is left then is aborted without a response.
        """
        self._stopping = True
        server = self.active.settings.server
        await self.server.set_serving(serving=False)
        _logger.info("stopping", extra=fields(delay_s=server.shutdown_delay))
        await asyncio.sleep(server.shutdown_delay)
        await self.server.stop(server.shutdown_grace)
        if self._tracing is not None:
            await self._tracing.flush()
        _logger.info("stopped")

    async def close(self) -> None:
        """Release everything, whether it was started or not."""
        await self.server.stop(0)
        await self._background.close()
        await self.admin.stop()

    async def apply_config(self, loaded: Loaded) -> Changes:
        """Decide by another configuration from now on, as ``reload.apply_config`` describes."""
        return await reload.apply_config(
            loaded,
            self.active,
            pool=self._pool,
            metrics=self.metrics,
            configure_logs=self._configure_logs,
            swap=self._swap,
        )

    def _swap(self, config: ActiveConfig) -> None:
        self._pool.activate(config)
        self._trace(config.settings.tracing)
        self.servicer.active = config
        if not self._ready:
            self._await_readiness()

    def _trace(self, settings: TracingSettings | None) -> None:
        if settings is not None and self._tracing is None:
            from authz_service.runtime.tracing import Tracing

            self._tracing = Tracing(
                self.metrics, self._background, self._resources, clock=time.time, timer=time.monotonic
            )
        if self._tracing is not None:
            self._tracing.apply(settings)

    def reloader(self, file: Path, loaded: Loaded) -> Reloader:
        """A reloader that applies changes of this file; ``loaded`` is its content at the start."""
        return Reloader(
            file,
            loaded,
            load=preflight.read,
            apply=self.apply_config,
            listening=self._listening,
            metrics=self.metrics,
            clock=time.time,
        )

    def keep_reloading(self, reloader: Reloader) -> asyncio.Task[None]:
        """Apply changes of the configuration file until the returned task is canceled."""
        self._background.start(reloader.warnings.run(), "warnings")
        return self._background.start(reloader.run(), "reload")

    def serve_supervisor(self, worker: Worker, reloader: Reloader, stop: Callable[[], None]) -> None:
        """Reply to the supervisor's requests; ``stop`` is called once the supervisor has ended."""
        from authz_service.runtime.worker_channel import serve_requests

        serving = serve_requests(
            worker.channel,
            metrics=self.metrics,
            missing=self.missing,
            also_missing=self.also_missing,
            reload=reloader.request,
        )
        self._background.start(serving, "supervisor").add_done_callback(lambda _: stop())


def _without_keys(caches: Sequence[KeyCache]) -> Sequence[str]:
    return [f"keys of issuer {keys.issuer}" for keys in caches if not keys.first_keys.is_set()]


def run(file: Path, loaded: Loaded, worker: Worker | None = None) -> None:
    """Serve by a configuration file until SIGTERM or SIGINT; a worker serves at most until its supervisor has ended.

    Raises:
        StartFailed: when it cannot listen.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with (
        BackgroundLogStream(sys.stderr) as stream,
        DecisionOutput() as decisions,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        number = worker.number if worker else None

        def configure_logs(settings: Logging) -> None:
            logs.configure(settings.level, settings.format, stream, number, decisions.stream_for(settings))

        configure_logs(loaded.settings.logging)
        runner.run(_run(file, loaded, configure_logs, decisions, worker))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop, which is not available on Windows."""
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(
    file: Path,
    loaded: Loaded,
    configure_logs: Callable[[Logging], None],
    decisions: DecisionOutput,
    worker: Worker | None,
) -> None:
    app = App(loaded.settings, configure_logs, worker)
    decisions.count_with(app.metrics.record_lost_decision_lines)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloader = app.reloader(file, loaded)
    loop.add_signal_handler(signal.SIGHUP, reloader.request)
    try:
        await app.start()
        reloading = app.keep_reloading(reloader)
        if worker is None or worker.number == 1:  # one worker logs them for all
            reloader.warnings.submit(loaded)
        if worker is not None:
            app.serve_supervisor(worker, reloader, stop.set)
        await stop.wait()
        reloading.cancel()
        await app.drain()
    finally:
        await app.close()
