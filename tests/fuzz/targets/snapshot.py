"""A snapshot file is a snapshot of this issuer's keys, or it is rejected.

* Anything else is rejected with ``FetchFailed``, and raises nothing else.
* A snapshot has keys and a finite time. Saved and loaded again, it is the same.
"""

from __future__ import annotations

import math

from authz_service.core.errors import FetchFailed
from authz_service.keys.snapshot import SnapshotFile
from fuzz import files
from fuzz.issuers import MAIN

OUTCOMES = {"taken", "rejected"}
MAX_BYTES = 4096


def run(data: bytes) -> str:
    file = files.written("keys.json", data)
    snapshots = SnapshotFile(file, issuer=MAIN, max_bytes=MAX_BYTES, max_keys=8)
    try:
        snapshot = snapshots.load()
    except FetchFailed:
        return "rejected"
    assert snapshot is not None
    assert snapshot.key_set.keys
    assert math.isfinite(snapshot.at)
    snapshots.save(snapshot)
    again = snapshots.load()
    assert again is not None
    assert again.at == snapshot.at
    assert [key.identity for key in again.key_set.keys] == [key.identity for key in snapshot.key_set.keys]
    return "taken"
