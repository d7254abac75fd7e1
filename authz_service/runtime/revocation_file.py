"""Watches the file of revocations, independently of the configuration.

A leaked token must be revoked even while the configuration file has a problem, and within two seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.core.errors import ConfigError
from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from authz_service.config.model import Issuer
    from authz_service.runtime.assembly import ActiveConfig
    from authz_service.telemetry.metrics import Metrics
    from authz_service.tokens.revocation.revocations import Revocations

_LOOK_INTERVAL = 0.5  # seconds
_SETTLE_TIME = 0.2  # seconds in which a file that is being written would change again
_MAX_LOGGED = 20  # problems of one file; check-config prints all

_logger = logging.getLogger("authz.revocations")


class RevocationFile:
    """Applies each change of the file that the active configuration names. A broken file changes nothing."""

    def __init__(self, active: Callable[[], ActiveConfig], metrics: Metrics) -> None:
        """``active`` returns the configuration that decides now."""
        self._active = active
        self._metrics = metrics
        self._rejected = b""  # digest of the content that was rejected last

    async def run(self) -> None:
        """Watch the file until canceled."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            config = self._active()
            file = config.settings.revocations_file
            if file is None:
                self._accept()
            else:
                await self._look(file, config)

    async def _look(self, file: Path, config: ActiveConfig) -> None:
        digest = await _digest_of(file)
        if digest == config.revocations.file_digest:
            self._accept()
            return
        if digest == self._rejected:
            return
        await asyncio.sleep(_SETTLE_TIME)
        if await _digest_of(file) == digest:
            await self._apply(file, config, digest)

    async def _apply(self, file: Path, config: ActiveConfig, digest: bytes) -> None:
        try:
            revocations = await asyncio.to_thread(_revocations_in, file, config.settings.issuers)
        except ConfigError as error:
            self._reject(error.problems, digest)
            return
        except Exception as error:
            # A bug must not end the watching: the next change may be readable.
            _logger.exception("revocations could not be read")
            self._reject((f"unexpected {type(error).__name__}",), digest)
            return
        config.revocations.replace_file(revocations, digest)
        self._accept()
        _logger.info("revocations applied", extra=fields(entries=len(revocations)))

    def _reject(self, problems: tuple[str, ...], digest: bytes) -> None:
        self._rejected = digest
        self._metrics.record_revocations_file(rejected=True)
        _logger.error(
            "revocations rejected; the previous ones stay active",
            extra=fields(count=len(problems), problems=list(problems[:_MAX_LOGGED])),
        )

    def _accept(self) -> None:
        self._rejected = b""
        self._metrics.record_revocations_file(rejected=False)


async def _digest_of(file: Path) -> bytes:
    return (await asyncio.to_thread(files.digests_of, [file]))[file]


def _revocations_in(file: Path, issuers: Sequence[Issuer]) -> Revocations:
    from authz_service.tokens.revocation.file import revocations_in

    return revocations_in(file, issuers)
