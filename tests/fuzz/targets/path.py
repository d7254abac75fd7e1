"""A path has one reading, or none.

* A rejected path is ``ambiguous_path``, and the cause does not quote it.
* Envoy, the URL standard, file servers, servers that decode twice, and the other readers in ``support/path_readers.py``
  read an accepted path alike.
* The query changes nothing.
"""

from __future__ import annotations

from authz_service.core import paths
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from support import path_readers

OUTCOMES = {"accepted", "rejected"}
MAX_BYTES = 512


def run(data: bytes) -> str:
    target = data.decode("latin-1")  # as Envoy's raw header values are decoded
    path, _, _ = target.partition("?")
    segments = _split(target)
    assert segments == _split(path) == _split(f"{path}?/../%00")
    if segments is None:
        return "rejected"
    path_readers.require_one_reading(path, segments)
    return "accepted"


def _split(target: str) -> tuple[str, ...] | None:
    try:
        return paths.split(target)
    except Rejected as rejected:
        assert rejected.reason is Reason.AMBIGUOUS_PATH
        assert len(target) < 4 or target not in rejected.cause
        return None
