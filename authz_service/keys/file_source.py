"""Keys in a file (``keys.jwks_file`` or ``keys.pem_file``), read again when the file changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.config.files import FileTooLargeError
from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.jwk import SIGNATURE_USE
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from authz_service.config.files import FileVersion
    from authz_service.config.model import Keys
    from authz_service.keys.keyset import KeySet

_READ_INTERVAL = 1.0  # seconds; reading a small file costs next to nothing


class FileSource:
    """Keys from ``jwks_file`` or ``pem_file``."""

    def __init__(self, path: Path, settings: Keys, uses: Collection[str] = SIGNATURE_USE) -> None:
        """``path`` is the file of the settings; ``uses`` are the values of a JWK's ``use`` that are accepted."""
        self._path = path
        self._settings = settings
        self._uses = uses
        self._parsed_digest: bytes | None = None

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Read the file; not modified if the content equals that of the last successful fetch.

        Raises:
            FetchFailed: if it cannot be read, is too large or has no usable key.
        """
        version = await asyncio.to_thread(self._version)
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
        return self._parse(self._version())

    async def close(self) -> None:
        """See KeySource."""

    def _version(self) -> FileVersion:
        return files.version_of(self._path, self._settings.max_bytes)

    def _parse(self, version: FileVersion) -> KeySet:
        settings = self._settings
        key = "pem_file" if settings.jwks_file is None else "jwks_file"
        try:
            content = version.require()
        except FileTooLargeError:
            raise FetchFailed(f"{key} is larger than max_bytes ({settings.max_bytes})") from None
        except OSError as error:
            raise FetchFailed(f"{key} cannot be read: {error.strerror}") from None
        if settings.jwks_file is None:
            from authz_service.keys import pem

            return pem.parse(content, settings.max_keys)
        if content.lstrip().startswith(b"-----BEGIN "):
            raise FetchFailed("jwks_file is PEM, expected a JSON Web Key Set: write pem_file instead")
        return keyset.parse(content, settings.max_keys, self._uses)
