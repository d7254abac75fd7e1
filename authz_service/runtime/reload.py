"""Taking over a changed configuration while the service runs.

Law: a change is read beside the event loop, and handed over only as a whole and only when it is good; a bad one is
told and counted, and nothing changes. One at a time. A file is taken once two looks in a row agree, so that one that is
being written is not read half. What the files held is looked at before they are used, at the start as well: a change
while they are read, or before the first look at them, is seen as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config import files
from authz_service.core.errors import ConfigError
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from authz_service.config.model import Settings
    from authz_service.telemetry.metrics import Metrics

_LOOK = 1.0  # seconds between two looks at the files: reading some small files costs next to nothing
_SETTLE = 0.25  # seconds in which a file that is being written would change again
_RETRY = 10.0  # seconds after which a refused configuration is tried again: a file that it names may be there by then

_logger = logging.getLogger("authz.reload")


@contextlib.contextmanager
def _eager_to_serve() -> Iterator[None]:
    """While a thread reads and compiles, let the event loop have its turn ten times as often as Python would."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class Loaded(NamedTuple):
    """A configuration that is good, with what its operator should know of it."""

    settings: Settings
    warnings: tuple[str, ...]
    seen: Mapping[Path, bytes]  # what the files held that take effect by a reload, before they were used


class Reloader:
    """Watches one configuration file and what it names, and hands over what becomes of it."""

    def __init__(
        self,
        file: Path,
        loaded: Loaded,
        *,
        load: Callable[[Path], Loaded],
        take_over: Callable[[Loaded], Awaitable[None]],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """``loaded`` serves already. ``load`` raises ``ConfigError``, and is called in a thread."""
        self._file = file
        self._load = load
        self._take_over = take_over
        self._metrics = metrics
        self._clock = clock
        self._named = loaded.settings.reloaded_files
        self._asked = asyncio.Event()
        self._tried = loaded.seen  # what the files held when they were last tried
        self._refused: tuple[str, ...] = ()  # the problems that were told last; none while the newest serves

    def ask(self) -> None:
        """Reload at once, whether anything changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever the files change, until cancelled."""
        idle = 0.0
        while True:
            asked = await self._pause(_LOOK)
            idle += _LOOK
            if asked or await self._changed() or (self._refused and idle >= _RETRY):
                await self._reload(asked=asked)
                idle = 0.0

    async def _pause(self, seconds: float) -> bool:
        """Wait so long, or until somebody asks; whether somebody did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        asked = self._asked.is_set()
        self._asked.clear()
        return asked

    async def _look(self) -> dict[Path, bytes]:
        return await asyncio.to_thread(files.digests_of, (self._file, *self._named))

    async def _changed(self) -> bool:
        """Whether the files hold something that was not tried yet, and nobody is writing them any more."""
        seen = await self._look()
        if seen == self._tried:
            return False
        await asyncio.sleep(_SETTLE)
        return await self._look() == seen

    async def _reload(self, *, asked: bool) -> None:
        self._tried = await self._look()  # before they are read: what changes from here on is seen as a change
        try:
            with _eager_to_serve():
                loaded = await asyncio.to_thread(self._load, self._file)
                await self._take_over(loaded)
        except ConfigError as refusal:
            self._refuse(refusal.problems, asked=asked)
        except Exception as fault:
            # A fault of ours must not end the watching, nor pass for a configuration that serves.
            _logger.exception("reloading failed unexpectedly")
            self._refuse((f"unexpected {type(fault).__name__}",), asked=asked)
        else:
            self._refused = ()
            self._named = loaded.settings.reloaded_files
            self._tried = loaded.seen
            self._metrics.reloaded(success=True, at=self._clock())

    def _refuse(self, problems: tuple[str, ...], *, asked: bool) -> None:
        """Tell it, unless the same was told before and nobody asked."""
        if problems == self._refused and not asked:
            return
        self._refused = problems
        self._metrics.reloaded(success=False, at=self._clock())
        _logger.error("configuration refused; the old one keeps serving", extra=fields(problems=list(problems)))
