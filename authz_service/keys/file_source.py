"""A key set in a file (``keys.jwks_file``), read again when the file changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.config.files import FileTooLargeError
from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.files import FileVersion
    from authz_service.keys.keyset import KeySet

_READ_INTERVAL = 1.0  # seconds; reading a small file costs next to nothing


class FileSource:
    """Keys from ``jwks_file``."""

    def __init__(self, path: Path, *, max_bytes: int, max_keys: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._parsed_digest: bytes | None = None

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Read the file; not modified if the content equals that of the last successful fetch.

        Raises:
            FetchFailed: if it cannot be read, is too large or is not a usable key set.
        """
        version = await asyncio.to_thread(files.version_of, self._path, self._max_bytes)
        if have_keys and version.digest == self._parsed_digest:
            return Fetched(None, _READ_INTERVAL)
        key_set = self._parse(version)
        self._parsed_digest = version.digest
        return Fetched(key_set, _READ_INTERVAL)

    def read(self) -> KeySet:
        """Read the file in the calling thread.

        Raises:
            FetchFailed: as ``fetch``.
        """
        return self._parse(files.version_of(self._path, self._max_bytes))

    async def close(self) -> None:
        """See KeySource."""

    def _parse(self, version: FileVersion) -> KeySet:
        try:
            content = version.require()
        except FileTooLargeError:
            raise FetchFailed(f"jwks_file is larger than max_bytes ({self._max_bytes})") from None
        except OSError as error:
            raise FetchFailed(f"jwks_file cannot be read: {error.strerror}") from None
        return keyset.parse(content, self._max_keys)
