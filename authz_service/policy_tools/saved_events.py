"""Reads the security events that a sidecar saved, for ``explain``: without the file's lock, and never to write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.core.utc import utc
from authz_service.tokens.revocation.event_file import EventFile
from authz_service.tokens.revocation.event_store import EventStore

if TYPE_CHECKING:
    from authz_service.config.model import Issuer, SecurityEventsSettings


class SavedEvents(NamedTuple):
    """What a sidecar saved of one issuer's events."""

    store: EventStore
    available: bool  # whether the file was read
    when_none: str  # what a token is that none of these events revokes


def read_saved_events(issuer: Issuer, settings: SecurityEventsSettings, now: float) -> SavedEvents:
    """The revocations of an issuer's events that count at ``now``, in seconds since the epoch."""
    store = EventStore(issuer.event_lifetime, settings.max_entries)
    if settings.snapshot_file is None:
        return _unavailable(store, "without a snapshot_file they are not saved")
    file = EventFile(settings.snapshot_file, issuer.issuer)
    damaged, more = 0, True
    try:
        while more:
            revocations, bad, more = file.read()
            for each in revocations:
                store.add(each, now)
            damaged += bad
    except OSError as error:
        return _unavailable(store, f"the snapshot_file {_cause_of(error)}")
    if file.complete_at is None:
        return _unavailable(store, "the snapshot_file does not exist")
    ignored = f"; damaged lines: {damaged}" if damaged else ""
    complete_at = utc(file.complete_at, "an unknown time")
    when_none = f"not revoked, by the security events until {complete_at}{ignored}"
    return SavedEvents(store, available=True, when_none=when_none)


def _unavailable(store: EventStore, why: str) -> SavedEvents:
    when_none = f"not revoked, except perhaps by security events, which are not available here: {why}"
    return SavedEvents(store, available=False, when_none=when_none)


def _cause_of(error: OSError) -> str:
    return str(error) if error.errno is None else f"cannot be read: {error.strerror}"
