"""What holds for every list of problems with a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.core.errors import ConfigError

_MAX_PROBLEM = 2500  # characters: a deeply nested key, and the message
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def require_located(error: ConfigError, file: Path, data: bytes) -> None:
    """Fail unless each problem is one line of text that names a line of the file."""
    assert error.problems
    last = len(re.split(rb"\r\n|[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]", data))  # every line break of YAML
    for problem in error.problems:
        assert problem.startswith(f"{file}:")
        line, _, text = problem.removeprefix(f"{file}:").partition(": ")
        assert 1 <= int(line) <= last
        assert text
        assert len(problem) <= _MAX_PROBLEM
        assert not _CONTROL.search(problem)
