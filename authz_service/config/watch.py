"""Noticing that files hold something else than before.

Law: files are found by name and compared by content. Kubernetes changes a mounted file by swapping a symbolic link
somewhere above it, editors by renaming over it: neither changes anything about the file that was opened first, and
times of modification tell little in either case.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.config.document import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from authz_service.config.model import Settings


def digests_of(paths: Iterable[Path]) -> dict[Path, bytes]:
    """What stands for what each file holds now; one that cannot be read holds the reason why."""
    return {file: hashlib.sha256(_content(file)).digest() for file in paths}


def _content(file: Path) -> bytes:
    try:
        return files.read(file, MAX_BYTES)
    except OSError as error:
        return f"errno {error.errno}".encode()


def named_in(settings: Settings) -> tuple[Path, ...]:
    """The files that take effect by a reload. The others are read again by who uses them: keys and certificates."""
    return tuple(issuer.keys.ca_file for issuer in settings.issuers if issuer.keys.ca_file is not None)
