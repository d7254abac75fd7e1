"""A secret or key of this client in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_INTERVAL = 1.0  # seconds between two reads of a file


class SecretFile:
    """A file with a secret or a key. It is read again when a second has passed since the last time."""

    def __init__(self, path: Path | None, timer: Callable[[], float], what: str = "the client's secret or key") -> None:
        """``what`` names the content in errors."""
        self._path = path
        self._timer = timer
        self._what = what
        self._read_at = 0.0
        self._content: bytes | None = None

    def read(self) -> bytes:
        """The content without a newline at its end; the last usable content if the file has become unusable.

        Raises:
            FetchFailed: if the file was never usable.
        """
        now = self._timer()
        if self._content is None or now - self._read_at >= _READ_INTERVAL:
            self._read_at = now
            try:
                self._content = self._read()
            except FetchFailed:
                if self._content is None:
                    raise
        return self._content

    def _read(self) -> bytes:
        if self._path is None:
            raise FetchFailed(f"no file with {self._what} is configured")
        try:
            content = files.read_secret(self._path)
        except OSError as error:
            raise FetchFailed(f"the file with {self._what} cannot be read: {error.strerror}") from None
        if not content:
            raise FetchFailed(f"the file with {self._what} is empty")
        return content
