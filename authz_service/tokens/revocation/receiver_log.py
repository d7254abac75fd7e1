"""The log of one receiver of security events.

Owns what is logged and how often: a trouble and its end once, and again after a minute at the earliest. Nothing of a
SET is logged but the types of its events, and nothing of one that is refused but the cause.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from authz_service.telemetry.logs import RateLimit, fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from authz_service.tokens.revocation.event_token import RefusedSetError
    from authz_service.tokens.revocation.events import SecurityEvent

_REPEAT_INTERVAL: Final = 60.0  # seconds
_REMEDIES: Final = {
    errno.ENOSPC: "free space on its volume",
    errno.EDQUOT: "free space on its volume",
    errno.EROFS: "mount its volume writable",
    errno.EACCES: "this user must be able to read and write it, and to create files in its folder",
    errno.EPERM: "this user must be able to read and write it, and to create files in its folder",
    errno.ENOENT: "its folder must exist",
    errno.ENOLCK: "its volume must support flock",
    errno.ENOTSUP: "its volume must support flock",
}


class Trouble(Enum):
    """What may fail, by the events that are logged when it begins and when it ends."""

    POLL = "polling security events failed", "security events are polled again"
    LOCK = (
        "the snapshot of security events cannot be locked; events take effect, but are not acknowledged",
        "the snapshot of security events is locked",
    )
    READ = "the snapshot of security events cannot be read", "the snapshot of security events is read again"
    SAVE = (
        "the snapshot of security events cannot be written; events take effect, but are not acknowledged",
        "the snapshot of security events is written again",
    )
    WAIT = "security events wait for keys, or for the time of their iat", "security events no longer wait"


class ReceiverLog:
    """Logs what a receiver does."""

    def __init__(self, logger: logging.Logger, issuer: str, timer: Callable[[], float]) -> None:
        """``issuer`` is its name, ``timer`` gives seconds of a monotonic clock."""
        self._logger = logger
        self._issuer = issuer
        self._limit = RateLimit(timer, _REPEAT_INTERVAL)
        self._causes: dict[Trouble, str] = {}  # of the troubles that were logged, until they end
        self._leads: bool | None = None

    def _log(self, level: int, event: str, **members: Any) -> None:
        self._logger.log(level, event, extra=fields(issuer=self._issuer, **members))

    def log_trouble(self, trouble: Trouble, cause: str) -> None:
        """Something fails, and will be tried again."""
        if self._causes.get(trouble) != cause and self._limit.is_due(trouble):
            self._causes[trouble] = cause
            event, _ = trouble.value
            self._log(logging.WARNING, event, cause=cause)

    def log_file_trouble(self, trouble: Trouble, file: Path, error: OSError) -> None:
        """The same, of the file."""
        cause = str(error) if error.errno is None else f"has an error ({error.strerror})"
        remedy = _REMEDIES.get(error.errno or 0)
        self.log_trouble(trouble, f"{file} {cause}" + (f": {remedy}" if remedy else ""))

    def log_end(self, trouble: Trouble) -> None:
        """What failed works."""
        if self._causes.pop(trouble, None) is not None:
            _, event = trouble.value
            self._log(logging.INFO, event)

    def log_role(self, *, leads: bool) -> None:
        """This process polls, or follows the one that does."""
        if leads is not self._leads:
            self._leads = leads
            event = "polling security events" if leads else "following the process that polls security events"
            self._log(logging.INFO, event)

    def log_read(self, revocations: int, damaged: int) -> None:
        """The snapshot had these lines."""
        if revocations:
            self._log(logging.INFO, "revocations read from the snapshot", revocations=revocations)
        if damaged:
            self._log(logging.WARNING, "damaged lines of the snapshot ignored", lines=damaged)

    def log_events(self, events: Sequence[SecurityEvent]) -> None:
        """These events take effect and are saved."""
        revocations = sum(len(each.revocations) for each in events)
        if events:
            counts = [f"{count} {kind}" for kind, count in Counter(each.type for each in events).items()]
            self._log(logging.INFO, "security events applied", events=counts, revocations=revocations)
        for event in events:
            if event.status in {"paused", "disabled"}:
                self._log(
                    logging.WARNING,
                    "the transmitter stopped the stream of security events: no tokens are revoked by them until it "
                    "resumes",
                    status=event.status,
                )

    def log_refusals(self, refusals: Sequence[RefusedSetError]) -> None:
        """These SETs will never be accepted."""
        for cause, count in Counter(map(str, refusals)).items():
            if self._limit.is_due(f"rejected: {cause}"):
                self._log(logging.WARNING, "security event tokens rejected", cause=cause, count=count)
