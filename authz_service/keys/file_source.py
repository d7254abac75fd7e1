"""A key set in a file, read again when it changes.

Law: the file is found anew by its name each time, since Kubernetes changes a mounted file by swapping a symbolic link;
what is compared is what the name leads to, not the file that was opened first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.keys.keyset import KeySet

_LOOK_INTERVAL = 1.0  # seconds between two looks at the file: reading a small file costs next to nothing


class FileSource:
    """Keys from ``jwks_file``."""

    def __init__(self, path: Path, *, max_bytes: int, max_keys: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._seen: bytes | None = None

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Read the file; not modified when it holds what it held before.

        Raises:
            FetchFailed: when it cannot be read, is too large or holds no key set.
        """
        data = await asyncio.to_thread(self._octets)
        if have_keys and data == self._seen:
            return Fetched(None, _LOOK_INTERVAL)
        key_set = keyset.parse(data, self._max_keys)
        self._seen = data
        return Fetched(key_set, _LOOK_INTERVAL)

    def read(self) -> KeySet:
        """Read the file once, waiting for it.

        Raises:
            FetchFailed: as ``fetch``.
        """
        return keyset.parse(self._octets(), self._max_keys)

    async def close(self) -> None:
        """Nothing is held open."""

    def _octets(self) -> bytes:
        try:
            data = files.read(self._path, self._max_bytes)
        except OSError as error:
            raise FetchFailed(f"jwks_file cannot be read: {error.strerror}") from None
        if len(data) > self._max_bytes:
            raise FetchFailed(f"jwks_file is larger than max_bytes ({self._max_bytes})")
        return data
