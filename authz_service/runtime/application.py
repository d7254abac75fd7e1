"""The composition root: builds every object from the settings, starts them, runs until told to stop, and stops them.

Law: this is the one place that knows which parts there are and in which order they live and die, also when a changed
configuration replaces some of them. Clocks, metrics and loggers are made here and passed in; nothing below is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import ssl
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from authz_service.admin.server import AdminServer
from authz_service.config import files
from authz_service.config.document import Problem
from authz_service.config.load import load_with_warnings
from authz_service.config.values import host_port
from authz_service.core.errors import FetchFailed, StartFailed
from authz_service.keys.cache import KeyCache
from authz_service.keys.file_source import FileSource
from authz_service.providers.client import Network
from authz_service.providers.client_authentication import problem_of
from authz_service.runtime import worker_channel
from authz_service.runtime.assembly import Assembled, assemble, bounds_of, introspector_of, key_cache_of, source_of
from authz_service.runtime.reload import Loaded, Reloader
from authz_service.telemetry import logs
from authz_service.telemetry.logs import DecisionLog, fields
from authz_service.telemetry.loop_delay import watch_delay
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.stream import BackgroundStream
from authz_service.tokens.validator import TrustedIssuer
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.servicer import Servicer, Terms
from authz_service.transport.grpcio_server import GrpcioServer
from authz_service.transport.tls.certificates import CertificateFiles
from authz_service.transport.tls.contexts import certificate_files

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from authz_service.config.model import Issuer, Keys, Logging, Server, Settings
    from authz_service.tokens.introspection.introspector import Introspector
    from authz_service.transport.addresses import Shared

# How keys are had: issuer, label, settings, whether there are any, contents of the file of trust anchors.
_KeysIdentity: TypeAlias = "tuple[str, str, Keys, bool, bytes]"
_Part: TypeAlias = "KeyCache | Introspector"  # what works beside the decisions, in a task of its own

FIXED = ("grpc_address", "admin_address", "transport", "workers", "tls")  # of server: what only a restart changes
# Seconds for which another thread that computes, as one that renders the metrics, may keep the event loop waiting.
_SWITCH_INTERVAL = 0.0005
_BETWEEN_FETCHES = 2.0  # seconds: a key cache tries again one second after its first failure

_logger = logging.getLogger("authz.app")


class Worker(NamedTuple):
    """What one of several processes that serve as one is told by the supervisor that started it."""

    number: int  # from 1
    channel: int  # descriptor of a socket, on which the supervisor asks
    server: Server  # how all of them listen, whatever the file says by now
    shared: Shared


class App:
    """One running sidecar, or one of its workers."""

    def __init__(
        self,
        settings: Settings,
        configure_logs: Callable[[Logging], None] = lambda _: None,
        worker: Worker | None = None,
    ) -> None:
        """Build everything; nothing listens and nothing is fetched yet.

        ``configure_logs`` is called when a reload changes how to log.

        Raises:
            StartFailed: when the certificates cannot be used.
        """
        self._configure_logs = configure_logs
        self._worker = worker
        self._listening = worker.server if worker else settings.server  # what a reload cannot change
        self._stopping = False
        self._ready = False
        self._background: set[asyncio.Task[None]] = set()
        self._network = Network()
        self._key_caches: dict[_KeysIdentity, KeyCache] = {}
        self._working: dict[_Part, asyncio.Task[None]] = {}
        self.metrics = Metrics(transport=self._listening.transport)
        self.assembled = assemble(
            settings, [self._trusted(issuer, settings, ()) for issuer in settings.issuers], self.metrics
        )
        self.servicer = Servicer(
            self._terms(self.assembled), metrics=self.metrics, clock=time.time, timer=time.perf_counter
        )
        self.server = self._server_of(self._listening, worker.shared if worker else None)
        if self.server.certificates is not None:
            self.metrics.watch_certificate(self.server.certificates.valid)
        self.admin = AdminServer(
            address=host_port(self._listening.admin_address), metrics=self.metrics, missing=self.missing
        )

    def _server_of(self, server: Server, shared: Shared | None) -> GrpcioServer | AsyncioServer:
        if server.transport == "grpcio":
            return GrpcioServer(
                server.grpc_address, server.tls, self.servicer.check, shared, refuse=self.servicer.refuse
            )
        return AsyncioServer(
            server.grpc_address,
            server.tls,
            self.servicer.answer,
            lambda: self.servicer.terms.max_request_bytes,
            shared,
            refuse=self.servicer.refuse,
        )

    @property
    def settings(self) -> Settings:
        """Those by which it decides now."""
        return self.assembled.settings

    def _trusted(self, issuer: Issuer, settings: Settings, before: Sequence[TrustedIssuer]) -> TrustedIssuer:
        """The issuer with its parts: those that work already, where nothing about them changed."""
        identity = _keys_identity(issuer)
        keys = self._key_caches.get(identity)
        if keys is None:
            keys = key_cache_of(issuer, source_of(issuer, self._network), self.metrics, time.time)
            self._key_caches[identity] = keys
        remembered = bounds_of(settings)
        same = next((each for each in before if each.settings == issuer and each.keys is keys), None)
        if same is not None and bounds_of(self.settings) == remembered:
            return same
        asks = introspector_of(
            issuer,
            keys,
            self.metrics,
            clock=time.time,
            timer=time.monotonic,
            remembered=remembered,
            network=self._network,
        )
        if asks is not None and same is not None and same.introspector is not None:
            asks.copy_cache_of(same.introspector)
        return TrustedIssuer(issuer, keys, asks)

    def _put_to_work(self, issuers: Iterable[TrustedIssuer]) -> None:
        """Begin to keep the keys of every issuer that is new, and to be ready to ask it about tokens."""
        for part in _parts(issuers):
            if part not in self._working:
                self._working[part] = self._in_background(part.run(), _work_of(part))

    def _terms(self, assembled: Assembled) -> Terms:
        settings = assembled.settings
        cache = assembled.token_cache
        self.metrics.watch_token_cache(entries=cache.__len__, size=lambda: cache.used_bytes)
        return Terms(
            assembled.authorizer,
            DecisionLog(settings.logging.decisions),
            settings.server.check_deadline,
            settings.server.max_request_bytes,
        )

    def missing(self) -> Sequence[str]:
        """What stands between this sidecar and being ready. Once it was, only its end does."""
        if self._stopping:
            return ["shutting down"]
        if self._ready:
            return []
        return [f"keys of issuer {keys.issuer}" for keys in self._keys() if not keys.first_keys.is_set()]

    def _keys(self) -> list[KeyCache]:
        return [issuer.keys for issuer in self.assembled.issuers]

    # From start to end.

    async def start(self) -> None:
        """Listen, and fetch the keys beside it.

        Raises:
            StartFailed: when an address cannot be had.
        """
        if self._worker is None:
            await self.admin.start()
        await self.server.start()
        self._put_to_work(self.assembled.issuers)
        self._readiness = self._in_background(self._announce_readiness(), "readiness")
        self.metrics.configured(time.time())
        if self._worker is None:
            tell_listening(self._listening, self.server.port, self.admin.port)
        self._in_background(watch_delay(self.metrics.loop_was_late, time.perf_counter), "event loop delay")

    async def drain(self) -> None:
        """Not ready, still serving, so that the mesh can look elsewhere; then finish what is in flight."""
        self._stopping = True
        server = self.settings.server
        await self.server.set_serving(serving=False)
        _logger.info("stopping", extra=fields(delay_s=server.shutdown_delay))
        await asyncio.sleep(server.shutdown_delay)
        await self.server.stop(server.shutdown_grace)
        _logger.info("stopped")

    async def close(self) -> None:
        """Let go of everything, whether it was started or not."""
        await self.server.stop(0)
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self.admin.stop()

    async def _announce_readiness(self) -> None:
        await asyncio.gather(*(keys.first_keys.wait() for keys in self._keys()))
        if self._stopping:
            return
        self._ready = True
        await self.server.set_serving(serving=True)
        # What was built so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _logger.info("ready")

    # A changed configuration.

    async def take_over(self, loaded: Loaded) -> None:
        """Decide by another configuration from now on. What is being decided is decided by the old one to its end.

        Where keys are to be fetched in another way than before, they are fetched first, for a while.
        """
        before, settings = self.assembled, loaded.settings
        issuers = [self._trusted(issuer, settings, before.issuers) for issuer in settings.issuers]
        self._put_to_work(issuers)
        await _first_keys(issuers)
        assembled = await asyncio.to_thread(assemble, settings, issuers, self.metrics)
        unchanged = {each.settings.label for each in issuers if each in before.issuers}
        assembled.token_cache.take_over(before.token_cache, unchanged, time.time())
        self.assembled, self.servicer.terms = assembled, self._terms(assembled)
        self._configure_logs(settings.logging)
        self._in_background(self._retire(self._unused(), before.settings.server.check_deadline), "retiring old keys")
        if not self._ready:  # it may have waited for an issuer that is no more
            self._readiness.cancel()
            self._readiness = self._in_background(self._announce_readiness(), "readiness")
        self._tell(before, loaded, unchanged)

    def _unused(self) -> dict[_Part, asyncio.Task[None]]:
        """The parts of no issuer any more with their work. Nobody will find them again from now on, nor this method."""
        in_use = set(_parts(self.assembled.issuers))
        self._key_caches = {identity: keys for identity, keys in self._key_caches.items() if keys in in_use}
        unused = [part for part in self._working if part not in in_use]
        return {part: self._working.pop(part) for part in unused}

    async def _retire(self, unused: Mapping[_Part, asyncio.Task[None]], longest_call: float) -> None:
        """Let these parts end, once the last call that may wait for them is over."""
        await asyncio.sleep(longest_call)
        for work in unused.values():
            work.cancel()
        names = set(map(_name_of, unused))
        for name in names - {issuer.label for issuer in self.settings.issuers}:
            self.metrics.forget_issuer(name)
        for name in names - {issuer.label for issuer in self.settings.issuers if issuer.introspection is not None}:
            self.metrics.forget_introspection(name)

    def _tell(self, before: Assembled, loaded: Loaded, unchanged: set[str]) -> None:
        settings = loaded.settings
        old, new = ({issuer.label for issuer in each.issuers} for each in (before.settings, settings))
        _logger.info(
            "configuration taken over",
            extra=fields(
                rules=len(settings.rules),
                issuers_added=sorted(new - old),
                issuers_removed=sorted(old - new),
                issuers_changed=sorted((new & old) - unchanged),
            ),
        )
        tell_warnings(loaded.warnings)
        waiting = [key for key in FIXED if getattr(settings.server, key) != getattr(self._listening, key)]
        if waiting:
            keys = [f"server.{key}" for key in waiting]
            _logger.warning("changed, but needs a restart to take effect", extra=fields(keys=keys))

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_death)
        task.add_done_callback(self._background.discard)
        self._background.add(task)
        return task

    def keep_reloading(self, reloader: Reloader) -> asyncio.Task[None]:
        """Follow the configuration file until the end."""
        return self._in_background(reloader.run(), "reload")

    def keep_answering(self, worker: Worker, reloader: Reloader, stop: Callable[[], None]) -> None:
        """Tell the supervisor what it asks, and do as it says. Without it there is nobody to work for."""
        answering = worker_channel.answer(
            worker.channel, metrics=self.metrics, missing=self.missing, reload=reloader.ask
        )
        self._in_background(answering, "supervisor").add_done_callback(lambda _: stop())


def _parts(issuers: Iterable[TrustedIssuer]) -> Iterator[_Part]:
    for issuer in issuers:
        yield issuer.keys
        if issuer.introspector is not None:
            yield issuer.introspector


def _name_of(part: _Part) -> str:
    return part.issuer if isinstance(part, KeyCache) else part.issuer.label


def _work_of(part: _Part) -> str:
    kind = "keys of" if isinstance(part, KeyCache) else "introspection at"
    return f"{kind} {_name_of(part)}"


def _keys_identity(issuer: Issuer) -> _KeysIdentity:
    """What decides which keys are had, and under which name they are told; trust anchors by what the file holds."""
    ca_file = issuer.keys.ca_file
    anchors = b"" if ca_file is None else files.digests_of([ca_file])[ca_file]
    return issuer.issuer, issuer.label, issuer.keys, issuer.has_keys, anchors


async def _first_keys(issuers: Sequence[TrustedIssuer]) -> None:
    """Wait until each issuer has keys, or until a provider that is there would have answered twice."""
    waiting = [issuer for issuer in issuers if not issuer.keys.first_keys.is_set()]
    if not waiting:
        return
    longest = 2 * max(issuer.settings.keys.timeout for issuer in waiting) + _BETWEEN_FETCHES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest):
            await asyncio.gather(*(issuer.keys.first_keys.wait() for issuer in waiting))
    missing = [issuer.keys.issuer for issuer in waiting if not issuer.keys.first_keys.is_set()]
    if missing:
        _logger.warning("taking over a configuration without the keys of some issuers", extra=fields(issuers=missing))


def tell_listening(server: Server, grpc_port: int, admin_port: int, **more: object) -> None:
    """Where it can be asked from now on; port 0 has become a real one."""
    where = fields(
        grpc_address=server.grpc_address,
        grpc_port=grpc_port,
        admin_address=server.admin_address,
        admin_port=admin_port,
        **more,
    )
    _logger.info("listening", extra=where)


def tell_warnings(warnings: Sequence[str]) -> None:
    """What is legal and dangerous in the configuration."""
    for warning in warnings:
        _logger.warning("configuration warning", extra=fields(warning=warning))


def _report_death(task: asyncio.Task[None]) -> None:
    """A background task that ends by itself is a fault; what it kept alive fails closed by and by."""
    if not task.cancelled() and task.exception() is not None:
        _logger.critical("a background task died", exc_info=task.exception(), extra=fields(task=task.get_name()))


def preflight(settings: Settings) -> Iterator[Problem]:
    """What can be tried without starting: certificates, trust anchors, key set files, and clients' secrets."""
    if settings.server.tls is not None:
        files = CertificateFiles if settings.server.transport == "grpcio" else certificate_files
        try:
            files(settings.server.tls)
        except StartFailed as failure:
            yield Problem(("server", "tls"), str(failure))
    for place, issuer in enumerate(settings.issuers):
        keys, where = issuer.keys, ("issuers", place, "keys")
        if keys.jwks_file is not None:
            try:
                FileSource(keys.jwks_file, max_bytes=keys.max_bytes, max_keys=keys.max_keys).read()
            except FetchFailed as failure:
                yield Problem((*where, "jwks_file"), str(failure))
        if keys.ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(keys.ca_file)
            except OSError:  # of which ssl.SSLError is one
                yield Problem((*where, "ca_file"), "holds no certificate that can be read: write PEM")
        if issuer.introspection is not None and (problem := problem_of(issuer.introspection)) is not None:
            secret = issuer.introspection.client_secret_file is not None
            key = "client_secret_file" if secret else "private_key_file"
            yield Problem(("issuers", place, "introspection", key), problem)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop, where there is one: not on Windows."""
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - absent on Windows

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def read(file: Path) -> Loaded:
    """A configuration file, with what it names tried as far as that goes without starting.

    Raises:
        ConfigError: with every problem.
    """
    seen = files.digests_of([file])
    settings, warnings = load_with_warnings(file, preflight)
    return Loaded(settings, warnings, seen | files.digests_of(settings.reloaded_files))


async def _run(file: Path, loaded: Loaded, configure_logs: Callable[[Logging], None], worker: Worker | None) -> None:
    app = App(loaded.settings, configure_logs, worker)
    reloader = Reloader(file, loaded, load=read, take_over=app.take_over, metrics=app.metrics, clock=time.time)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloader.ask)
    try:
        await app.start()
        reloading = app.keep_reloading(reloader)
        if worker is not None:
            app.keep_answering(worker, reloader, stop.set)
        await stop.wait()
        reloading.cancel()
        await app.drain()
    finally:
        await app.close()


def run(file: Path, loaded: Loaded, worker: Worker | None = None) -> None:
    """Serve by a configuration file until SIGTERM or SIGINT; as a worker, also until the supervisor is gone.

    Raises:
        StartFailed: when it cannot listen.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with BackgroundStream(sys.stderr) as stream, asyncio.Runner(loop_factory=_loop_factory()) as runner:

        def configure_logs(how: Logging) -> None:
            logs.configure(how.level, how.format, stream, worker.number if worker else None)

        configure_logs(loaded.settings.logging)
        if worker is None:  # else its supervisor has told them
            tell_warnings(loaded.warnings)
        runner.run(_run(file, loaded, configure_logs, worker))
