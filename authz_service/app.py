"""The composition root: builds every object from the settings, starts them, runs until told to stop, and stops them.

Law: this is the one place that knows which parts there are and in which order they live and die. Clocks, metrics and
loggers are made here and passed in; nothing below is global.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from authz_service.admin.server import AdminServer
from authz_service.assembly import authorizer_of, introspector_of, key_cache_of, source_of
from authz_service.config.document import Problem
from authz_service.config.values import host_port
from authz_service.core.errors import FetchFailed, StartFailed
from authz_service.keys.file_source import FileSource
from authz_service.telemetry import logs
from authz_service.telemetry.logs import DecisionLog, fields
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.stream import BackgroundStream
from authz_service.tokens.cache import TokenCache
from authz_service.tokens.client_authentication import problem_of
from authz_service.tokens.validator import TrustedIssuer
from authz_service.transport.certificates import CertificateFiles
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.servicer import Servicer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from authz_service.config.model import Issuer, Settings

_logger = logging.getLogger("authz.app")


class App:
    """One running sidecar."""

    def __init__(self, settings: Settings) -> None:
        """Build everything; nothing listens and nothing is fetched yet.

        Raises:
            StartFailed: when the certificates can not be used.
        """
        self._settings = settings
        self._stopping = False
        self._background: list[asyncio.Task[None]] = []
        self.metrics = Metrics(transport=settings.server.transport)
        self.issuers = [self._trusted(issuer) for issuer in settings.issuers]
        self.token_cache = TokenCache(settings.token_cache.max_entries, settings.token_cache.max_ttl)
        self.metrics.watch_token_cache(self.token_cache.__len__)
        self.servicer = Servicer(
            authorizer_of(settings, self.issuers, self.token_cache, self.metrics),
            metrics=self.metrics,
            decision_log=DecisionLog(settings.logging.decisions),
            check_deadline=settings.server.check_deadline,
            max_request_bytes=settings.server.max_request_bytes,
            clock=time.time,
            timer=time.perf_counter,
        )
        self.server = GrpcioServer(settings.server.grpc_address, settings.server.tls, self.servicer.check)
        self.admin = AdminServer(
            address=host_port(settings.server.admin_address), metrics=self.metrics, missing=self.missing
        )

    def _trusted(self, issuer: Issuer) -> TrustedIssuer:
        keys = key_cache_of(issuer, source_of(issuer), self.metrics, time.time)
        remembered = self._settings.token_cache.max_entries
        asks = introspector_of(
            issuer, keys, self.metrics, clock=time.time, timer=time.monotonic, max_entries=remembered
        )
        return TrustedIssuer(issuer, keys, asks)

    def missing(self) -> Sequence[str]:
        """What stands between this sidecar and being ready."""
        if self._stopping:
            return ["shutting down"]
        return [f"keys of issuer {each.keys.issuer}" for each in self.issuers if not each.keys.first_keys.is_set()]

    async def start(self) -> None:
        """Listen, and fetch the keys beside it.

        Raises:
            StartFailed: when an address can not be had.
        """
        await self.admin.start()
        await self.server.start()
        for issuer in self.issuers:
            self._in_background(issuer.keys.run(), f"keys of {issuer.keys.issuer}")
            if issuer.introspector is not None:
                self._in_background(issuer.introspector.run(), f"introspection at {issuer.keys.issuer}")
        self._in_background(self._announce_readiness(), "readiness")
        self.metrics.configured(time.time())
        _logger.info(
            "listening",
            extra=fields(
                grpc_address=self._settings.server.grpc_address,
                grpc_port=self.server.port,
                admin_address=self._settings.server.admin_address,
                admin_port=self.admin.port,
            ),
        )

    async def drain(self) -> None:
        """Not ready, still serving, so that the mesh can look elsewhere; then finish what is in flight."""
        self._stopping = True
        await self.server.set_serving(serving=False)
        _logger.info("stopping", extra=fields(delay_s=self._settings.server.shutdown_delay))
        await asyncio.sleep(self._settings.server.shutdown_delay)
        await self.server.stop(self._settings.server.shutdown_grace)
        _logger.info("stopped")

    async def close(self) -> None:
        """Let go of everything, whether it was started or not."""
        await self.server.stop(0)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.admin.stop()

    async def _announce_readiness(self) -> None:
        await asyncio.gather(*(issuer.keys.first_keys.wait() for issuer in self.issuers))
        if self._stopping:
            return
        await self.server.set_serving(serving=True)
        # What was built so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _logger.info("ready")

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_death)
        self._background.append(task)


def _report_death(task: asyncio.Task[None]) -> None:
    """A background task that ends by itself is a fault; what it kept alive fails closed by and by."""
    if not task.cancelled() and task.exception() is not None:
        _logger.critical("a background task died", exc_info=task.exception(), extra=fields(task=task.get_name()))


def preflight(settings: Settings) -> Iterator[Problem]:
    """What can be tried without starting: certificates, key set files, and what clients prove themselves with."""
    if settings.server.tls is not None:
        try:
            CertificateFiles(settings.server.tls)
        except StartFailed as failure:
            yield Problem(("server", "tls"), str(failure))
    for place, issuer in enumerate(settings.issuers):
        if issuer.keys.jwks_file is not None:
            source = FileSource(issuer.keys.jwks_file, max_bytes=issuer.keys.max_bytes, max_keys=issuer.keys.max_keys)
            try:
                source.read()
            except FetchFailed as failure:
                yield Problem(("issuers", place, "keys", "jwks_file"), str(failure))
        if issuer.introspection is not None and (problem := problem_of(issuer.introspection)) is not None:
            secret = issuer.introspection.client_secret_file is not None
            yield Problem(
                ("issuers", place, "introspection", "client_secret_file" if secret else "private_key_file"), problem
            )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop, where there is one: not on Windows."""
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - absent on Windows

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(settings: Settings) -> None:
    app = App(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _logger.warning, "SIGHUP: there is no reload; restart to change settings")
    try:
        await app.start()
        await stop.wait()
        await app.drain()
    finally:
        await app.close()


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StartFailed: when it can not listen.
    """
    with BackgroundStream(sys.stderr) as stream, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        logs.configure(settings.logging.level, settings.logging.format, stream)
        runner.run(_run(settings))
