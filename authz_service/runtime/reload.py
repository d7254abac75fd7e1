"""Applies a changed configuration while the service runs: watch, load, apply.

Invariants:

* A configuration is applied as a whole or not at all. Whatever can fail comes before the swap, and is undone when a
  later step fails; the swap is the last step, and cannot fail.
* One reload at a time, beside the event loop as far as possible: decisions continue meanwhile.
* A file is read once two looks in a row agree, so that a file that is being written is not read half.
* Digests are taken before the files are read, at the start as well: a change in between is seen as a change.
* Warnings delay nothing: they are found once the configuration is active, and dropped if it was replaced meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config import files
from authz_service.core.errors import ConfigError
from authz_service.runtime.assembly import assemble, declare_series, import_features
from authz_service.runtime.issuer_pool import wait_for_keys
from authz_service.runtime.preflight import RESTART_ONLY, warnings_of
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from authz_service.config.model import Logging, Settings
    from authz_service.config.server import Server
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.runtime.issuer_pool import IssuerPool
    from authz_service.runtime.preflight import Loaded
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.validator import TrustedIssuer

_LOOK_INTERVAL = 1.0  # seconds: reading some small files costs next to nothing
_SETTLE_TIME = 0.25  # seconds in which a file that is being written would change again
_WARNING_DELAY = 0.5  # seconds: the first requests after a start should not wait for what only people read
_RETRY_INTERVAL = 10.0  # seconds between attempts at a rejected configuration: a file that it names may appear

_logger = logging.getLogger("authz.reload")


async def apply_config(
    loaded: Loaded,
    active: ActiveConfig,
    *,
    pool: IssuerPool,
    metrics: Metrics,
    configure_logs: Callable[[Logging], None],
    swap: Callable[[ActiveConfig], None],
) -> Changes:
    """Decide by another configuration from now on; requests in progress keep the one that they arrived under.

    Keys that must be fetched in another way than before are fetched first, within a time limit. ``swap`` activates the
    new configuration and cannot fail. Raises whatever a step before it raises, and then nothing has changed.
    """
    settings = loaded.settings
    try:
        await asyncio.to_thread(import_features, settings)
        issuers = pool.issuers_of(settings)
        pool.start(issuers)
        await wait_for_keys(issuers)
        config = await asyncio.to_thread(assemble, settings, issuers, metrics, now=time.time(), previous=active)
        unchanged = {each.settings.label for each in issuers if each in active.issuers}
        config.token_cache.copy_from(active.token_cache, unchanged - _narrowed(issuers, unchanged), time.time())
        changes = _changes(active.settings, settings, unchanged)
        await asyncio.to_thread(declare_series, config, metrics)
        configure_logs(settings.logging)
    except BaseException:  # a cancellation as well
        await pool.discard()
        raise
    swap(config)
    return changes


def _narrowed(issuers: Sequence[TrustedIssuer], unchanged: set[str]) -> set[str]:
    """The names of templates with a tenant that is a new or changed issuer of its own: its tokens may be cached."""
    own = [each.settings.issuer for each in issuers if each.settings.label not in unchanged]
    return {
        each.settings.label
        for each in issuers
        if (template := each.settings.template) is not None and any(template.tenant_of(iss) is not None for iss in own)
    }


class Changes(NamedTuple):
    """The changes of a reload, for the log."""

    rules: int  # in total
    issuers_added: list[str]
    issuers_removed: list[str]
    issuers_changed: list[str]


def _changes(old: Settings, new: Settings, unchanged: set[str]) -> Changes:
    before, after = ({issuer.label for issuer in settings.issuers} for settings in (old, new))
    return Changes(
        rules=len(new.rules),
        issuers_added=sorted(after - before),
        issuers_removed=sorted(before - after),
        issuers_changed=sorted((after & before) - unchanged),
    )


class _FrequentThreadSwitches:
    """While threads read, compile and compare, let the event loop run ten times as often as otherwise."""

    def __init__(self) -> None:
        self._users = 0
        self._usual = 0.0  # seconds

    def __enter__(self) -> None:
        if not self._users:
            self._usual = sys.getswitchinterval()
            sys.setswitchinterval(self._usual / 10)
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            sys.setswitchinterval(self._usual)


class WarningLog:
    """Logs the warnings of the active configuration."""

    def __init__(self, active: Loaded, switches: _FrequentThreadSwitches) -> None:
        self._active = active
        self._switches = switches
        self._submitted = asyncio.Event()

    def submit(self, active: Loaded) -> None:
        """Log the warnings of this configuration, which is active now, and no longer those of an earlier one."""
        self._active = active
        self._submitted.set()

    async def run(self) -> None:
        """Find the warnings in a thread, those of one configuration at a time, until canceled."""
        while True:
            await self._submitted.wait()
            await asyncio.sleep(_WARNING_DELAY)
            self._submitted.clear()
            loaded = self._active
            try:
                with self._switches:
                    warnings = await asyncio.to_thread(warnings_of, loaded)
            except Exception:  # a bug, which must not end the warnings about later configurations
                _logger.exception("finding the warnings failed unexpectedly")
                continue
            for warning in warnings if loaded is self._active else ():
                _logger.warning("configuration warning", extra=fields(warning=warning))


class Reloader:
    """Watches a configuration file and the files that it names, and applies their changes."""

    def __init__(
        self,
        file: Path,
        loaded: Loaded,
        *,
        load: Callable[[Path], Loaded],
        apply: Callable[[Loaded], Awaitable[Changes]],
        listening: Server,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """``loaded`` is active already. ``load`` raises ``ConfigError``, and is called in a thread.

        ``listening`` are the server's settings at the start, some of which only a restart changes.
        """
        self._file = file
        self._load = load
        self._apply = apply
        self._listening = listening
        self._metrics = metrics
        self._clock = clock
        self._switches = _FrequentThreadSwitches()
        self.warnings = WarningLog(loaded, self._switches)
        self._named = loaded.settings.reloaded_files
        self._requested = asyncio.Event()
        self._tried = loaded.digests  # of the files at the last attempt
        self._problems: tuple[str, ...] = ()  # as last logged; none while the newest configuration is active

    def request(self) -> None:
        """Reload at once, whether anything changed or not."""
        self._requested.set()

    async def run(self) -> None:
        """Reload whenever the files change, until canceled."""
        idle = 0.0
        while True:
            requested = await self._pause(_LOOK_INTERVAL)
            idle += _LOOK_INTERVAL
            if requested or await self._changed() or (self._problems and idle >= _RETRY_INTERVAL):
                await self._reload(requested=requested)
                idle = 0.0

    async def _pause(self, seconds: float) -> bool:
        """Wait, at most until a reload is requested; returns whether one was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._requested.wait()
        requested = self._requested.is_set()
        self._requested.clear()
        return requested

    async def _digests(self) -> dict[Path, bytes]:
        return await asyncio.to_thread(files.digests_of, (self._file, *self._named))

    async def _changed(self) -> bool:
        """Whether the files have untried content that is written completely."""
        digests = await self._digests()
        if digests == self._tried:
            return False
        await asyncio.sleep(_SETTLE_TIME)
        return await self._digests() == digests

    async def _reload(self, *, requested: bool) -> None:
        self._tried = await self._digests()  # before the files are read: a later change is seen as a change
        try:
            with self._switches, _without_collections():
                loaded = await asyncio.to_thread(self._load, self._file)
                named = loaded.settings.reloaded_files
                changes = await self._apply(loaded)
        except ConfigError as error:
            self._reject(error.problems, requested=requested)
        except Exception as error:
            # A bug must not end the watching, and the configuration that it hit is not active.
            _logger.exception("reload failed unexpectedly")
            self._reject((f"unexpected {type(error).__name__}",), requested=requested)
        else:
            self._problems = ()
            self._named = named
            self._tried = loaded.digests
            self._metrics.record_reload(success=True, at=self._clock())
            self._log_applied(loaded, changes)

    def _log_applied(self, loaded: Loaded, changes: Changes) -> None:
        _logger.info("configuration applied", extra=fields(**changes._asdict()))
        self.warnings.submit(loaded)
        new, old = loaded.settings.server, self._listening
        pending = [f"server.{key}" for key in RESTART_ONLY if getattr(new, key) != getattr(old, key)]
        if pending:
            _logger.warning("changed keys take effect only after a restart", extra=fields(keys=pending))

    def _reject(self, problems: tuple[str, ...], *, requested: bool) -> None:
        """Log and count a failure, unless the same problems were logged before and no reload was requested."""
        if problems == self._problems and not requested:
            return
        self._problems = problems
        self._metrics.record_reload(success=False, at=self._clock())
        _logger.error("configuration rejected; the previous one stays active", extra=fields(problems=list(problems)))


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Let the garbage collector wait.

    While a large configuration is built, it would visit all of it several times, and hold up the event loop each time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
