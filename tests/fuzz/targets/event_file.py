"""The file of security events is a journal of this issuer, of which every intact line counts, or it is left alone.

* Any other file is rejected with ``UnusableFileError``, and not changed.
* A line counts if another reader finds the same revocation in it, of a user or a session up to a finite time. All
  other complete lines are damaged.
* A process that follows the file as it grows reads the same as one that reads it at once.
* After the next save, the file has everything that counted and what is new.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from authz_service.telemetry.issuer_metrics import SecurityEventType
from authz_service.tokens.revocation.event_file import EventFile, UnusableFileError
from authz_service.tokens.revocation.event_store import EventStore
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from fuzz import files
from fuzz.issuers import MAIN, NOW
from fuzz.sidecar import now

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OUTCOMES = {"read", "damaged", "empty", "rejected"}
MAX_BYTES = 2048
_NEW = Revocation(TokenParts(session="new"), now(), "session-revoked")
_TYPES = {*SecurityEventType.__args__}  # type: ignore[attr-defined] # which Literal has


def run(data: bytes) -> str:
    path = files.written("events.json", data)
    path.chmod(0o600)
    try:
        revocations, damaged = _read(path)
    except UnusableFileError:
        assert path.read_bytes() == data
        return "rejected"
    header, *lines = data.split(b"\n")
    complete = lines[:-1]
    plain = [found for found in map(_plain, complete) if found is not None]
    assert [(each.parts, each.issued_before) for each in revocations] == plain
    assert damaged == sum(line != b"" and _plain(line) is None for line in complete)
    for each in revocations:
        assert math.isfinite(each.issued_before)
        assert each.parts.subject or each.parts.session
        assert each.origin in _TYPES
    if header:
        _require_same_as_it_grows(data, len(header) + 1, revocations)
    _require_saved(path, revocations)
    return "damaged" if damaged else "read" if revocations else "empty"


def _read(path: Path) -> tuple[list[Revocation], int]:
    file = EventFile(path, MAIN)
    lines = file.read()
    assert not lines.more
    assert file.read().revocations in ([], ())
    return list(lines.revocations), lines.damaged


def _plain(line: bytes) -> tuple[TokenParts, float] | None:
    """What a plain reader finds in a line."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        found = json.loads(line.decode(), object_pairs_hook=members)
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or {"issued_before"} - found.keys():
        return None
    before = found.pop("issued_before")
    if _depth(found.pop("type", None)) > 31 or type(before) not in {int, float} or not 0 <= before < 1e18:
        return None
    if found.keys() - set(TokenParts._fields) or {type(each) for each in found.values()} - {str}:
        return None
    return (TokenParts(**found), float(before)) if found.get("subject") or found.get("session") else None


def _depth(value: Any) -> int:
    below: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, below), default=0)


def _require_same_as_it_grows(data: bytes, start: int, revocations: list[Revocation]) -> None:
    path = files.written("growing.json", data[:start])
    path.chmod(0o600)
    file, found = EventFile(path, MAIN), list[Revocation]()
    for end in (start, start + (len(data) - start) // 2, len(data)):
        path.write_bytes(data[:end])
        found += file.read().revocations
    assert found == revocations


def _require_saved(path: Path, revocations: list[Revocation]) -> None:
    store = EventStore(1e19, 1000)
    file = EventFile(path, MAIN)
    file.read()
    for each in (*revocations, _NEW):
        store.add(each, now())
    file.save([_NEW], store, NOW)
    file.unlock()
    again, _ = _read(path)
    latest = {each.parts: each.issued_before for each in sorted(again, key=lambda each: each.issued_before)}
    assert all(latest[each.parts] >= each.issued_before for each in store)
