"""The log of one receiver of security events.

Owns what is logged and how often: a trouble and its end once, and again after a minute at the earliest. Nothing of a
SET is logged but the types of its events, and nothing of one that is refused but the cause.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.tokens.revocation.event_token import RefusedSetError
    from authz_service.tokens.revocation.events import SecurityEvent

_REPEAT_INTERVAL: Final = 60.0  # seconds


class ReceiverLog:
    """Logs what a receiver does."""

    def __init__(self, logger: logging.Logger, issuer: str, timer: Callable[[], float]) -> None:
        """``issuer`` is its name, ``timer`` gives seconds of a monotonic clock."""
        self._logger = logger
        self._issuer = issuer
        self._timer = timer
        self._logged_at: dict[str, float] = {}  # by trouble or cause, of which there are few
        self._troubles: dict[str, tuple[str, str]] = {}  # as logged last, until they end
        self._leads: bool | None = None

    def _log(self, level: int, event: str, **members: Any) -> None:
        self._logger.log(level, event, extra=fields(issuer=self._issuer, **members))

    def _is_due(self, what: str) -> bool:
        now = self._timer()
        if now - self._logged_at.get(what, -math.inf) < _REPEAT_INTERVAL:
            return False
        self._logged_at[what] = now
        return True

    def log_trouble(self, event: str, end: str, cause: str) -> None:
        """Something fails, and is tried again. ``end`` is what to log once it works."""
        if self._troubles.get(event) != (end, cause) and self._is_due(event):
            self._troubles[event] = end, cause
            self._log(logging.WARNING, event, cause=cause)

    def log_end(self, event: str) -> None:
        """What fails with this event works."""
        if event in self._troubles:
            end, _cause = self._troubles.pop(event)
            self._log(logging.INFO, end)

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
            if self._is_due(f"refused: {cause}"):
                self._log(logging.WARNING, "security event tokens refused", cause=cause, count=count)
