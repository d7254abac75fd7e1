"""The last good key set on disk, so that a sidecar restarted in the provider's outage still works.

Law: public keys only, written as a whole or not at all, readable by their owner alone. What is read back is judged as
strictly as what a provider sends, and by its age as if the sidecar had never stopped; a file that others may write is
not believed, since whoever writes it chooses whose signatures count.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config import files
from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset

if TYPE_CHECKING:
    from authz_service.keys.keyset import KeySet

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Snapshot(NamedTuple):
    """A key set and when it was known to be current, in seconds since the epoch."""

    key_set: KeySet
    at: float


class SnapshotFile:
    """One issuer's ``keys.snapshot_file``. It does file I/O: to be called beside the event loop."""

    def __init__(self, path: Path, *, issuer: str, max_bytes: int, max_keys: int) -> None:
        """``issuer`` is its URL: a snapshot of another issuer's keys is not taken."""
        self._path = path
        self._issuer = issuer
        self._max_bytes = 2 * max_bytes  # written anew, the same keys may take more room than the provider's text
        self._max_keys = max_keys

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file.

        Raises:
            OSError: when it cannot be written; the old one then stays.
        """
        document = {"issuer": self._issuer, "at": snapshot.at, "keys": [dict(key.jwk) for key in snapshot.key_set.keys]}
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def load(self) -> Snapshot | None:
        """The snapshot, or None where there is no file yet.

        Raises:
            FetchFailed: when the file cannot be read or is not to be believed; the text says why.
        """
        try:
            data = self._read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FetchFailed(f"the snapshot cannot be read: {error.strerror}") from None
        try:
            document = strict_json.loads(data)
        except ValueError as error:
            raise FetchFailed(f"the snapshot is no JSON that can be read in one way: {error}") from None
        at = document.get("at") if isinstance(document, dict) else None
        if isinstance(at, bool) or not isinstance(at, (int, float)) or document.get("issuer") != self._issuer:
            raise FetchFailed("the snapshot is not one of this issuer's keys")
        return Snapshot(keyset.parse(data, self._max_keys), float(at))

    def _read(self) -> bytes:
        with files.open_regular(self._path) as file:
            status = os.fstat(file.fileno())
            if status.st_mode & _OTHERS_MAY_WRITE:
                raise FetchFailed("the snapshot is not a file that its owner alone may write")
            if status.st_uid not in {0, os.geteuid()}:
                raise FetchFailed("the snapshot belongs to somebody else")
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise FetchFailed("the snapshot is larger than a key set may be")
        return data
