"""The last good keys on disk, so that a sidecar that restarts while the provider is unreachable still works.

Invariants:

* A snapshot holds public keys only. It is written as a whole or not at all, and readable by its owner only.
* What is read back is parsed as strictly as what a provider sends, and ages as if the sidecar had never stopped.
* A file that other users may write is refused, since they could add keys of their own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from authz_service.config import own_files
from authz_service.core.errors import FetchFailed, quoted
from authz_service.keys import keyset
from authz_service.keys.jwk import SIGNATURE_USE
from authz_service.providers import json_object

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from authz_service.keys.keyset import KeySet


class Snapshot(NamedTuple):
    """A key set, and when it was current, in seconds since the epoch."""

    key_set: KeySet
    at: float


class SnapshotFile:
    """One issuer's ``keys.snapshot_file``. Blocks for file I/O: call it outside the event loop's thread."""

    def __init__(
        self, path: Path, *, issuer: str, max_bytes: int, max_keys: int, uses: Collection[str] = SIGNATURE_USE
    ) -> None:
        """``issuer`` is its identifier: a snapshot of another issuer's keys is refused.

        ``uses`` are the values of a JWK's ``use`` that are accepted now; when it was saved, others may have been.
        """
        self._path = path
        self._issuer = issuer
        self._max_bytes = 2 * max_bytes  # the same keys may take more room here than in the provider's key set
        self._max_keys = max_keys
        self._uses = uses

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file.

        Raises:
            OSError: if it cannot be written. The old file is then unchanged.
        """
        document = {"issuer": self._issuer, "at": snapshot.at, "keys": [dict(key.jwk) for key in snapshot.key_set.keys]}
        own_files.replace(self._path, [json.dumps(document).encode("ascii")])

    def load(self) -> Snapshot | None:
        """The snapshot; None if there is no file yet.

        Raises:
            FetchFailed: if the file cannot be read or is not trustworthy.
        """
        try:
            data = self._read()
        except FileNotFoundError:
            return None
        except own_files.UntrustedFileError as error:
            raise FetchFailed(f"the snapshot {error}") from None
        except OSError as error:
            raise FetchFailed(f"the snapshot cannot be read: {error.strerror}") from None
        document = json_object.parse(data, "the snapshot")
        if (issuer := document.get("issuer")) != self._issuer:
            raise FetchFailed(f"the snapshot holds the keys of another issuer: {quoted(issuer)}, not '{self._issuer}'")
        at = document.get("at")
        if isinstance(at, bool) or not isinstance(at, (int, float)):
            raise FetchFailed("the snapshot has no time 'at' in seconds")
        return Snapshot(keyset.parse(data, self._max_keys, self._uses), float(at))

    def _read(self) -> bytes:
        with own_files.open_own(self._path) as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise FetchFailed(f"the snapshot is larger than a key set may be ({self._max_bytes} bytes)")
        return data
