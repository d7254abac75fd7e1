"""Files for targets that read some, in a folder of this process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="authz-fuzz-")


def written(name: str, data: bytes) -> Path:
    """A file with this name and content."""
    file = Path(_folder().name, name)
    file.write_bytes(data)
    return file
