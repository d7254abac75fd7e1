"""A bearer token of this client, read from a file, such as the projected token of a Kubernetes service account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from authz_service.core.errors import FetchFailed
from authz_service.providers.secret_file import SecretFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TOKEN = re.compile(rb"[!-~]+")


class BearerToken:
    """The token in a file, which is read again when it changes."""

    def __init__(self, path: Path, timer: Callable[[], float]) -> None:
        """``timer`` returns seconds of a monotonic clock."""
        self._file = SecretFile(path, timer, "the bearer token")

    def authorization(self) -> str:
        """The value of Authorization.

        Raises:
            FetchFailed: if the file was never usable, or holds no token.
        """
        token = self._file.read()
        if not _TOKEN.fullmatch(token):
            raise FetchFailed("the file with the bearer token holds more than a token: write one line without spaces")
        return f"Bearer {token.decode('ascii')}"
