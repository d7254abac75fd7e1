"""A path has one reading, or none.

* A rejected path is ``ambiguous_path``, and the cause does not quote it.
* Envoy, the URL standard, file servers, servers that decode twice, and the other readers in ``support/path_readers.py``
  read an accepted path alike.
* The query changes nothing.
* With encoded slashes allowed, the readings are the same as before, except for an accepted path with encoded slashes:
  it has two, with slashes in segments and with separators in their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.core import paths
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from support import path_readers

if TYPE_CHECKING:
    from collections.abc import Callable

OUTCOMES = {"accepted", "rejected", "slashed"}
MAX_BYTES = 512


def run(data: bytes) -> str:
    target = data.decode("latin-1")  # as Envoy's raw header values are decoded
    path, _, _ = target.partition("?")
    segments = _split(target)
    assert segments == _split(path) == _split(f"{path}?/../%00")
    slashed = _split(target, paths.split_with_encoded_slashes)
    if isinstance(slashed, paths.SlashedPath):
        assert segments is None
        assert slashed == _split(f"{path}?/../%00", paths.split_with_encoded_slashes)
        assert slashed.decoded == _split(path.replace("%2f", "/").replace("%2F", "/"))
        path_readers.require_two_readings(path, slashed)
        return "slashed"
    assert slashed == segments
    if segments is None:
        return "rejected"
    path_readers.require_one_reading(path, segments)
    return "accepted"


def _split(target: str, split: Callable[[str], tuple[str, ...]] = paths.split) -> tuple[str, ...] | None:
    try:
        return split(target)
    except Rejected as rejected:
        assert rejected.reason is Reason.AMBIGUOUS_PATH
        assert len(target) < 4 or target not in rejected.cause
        return None
