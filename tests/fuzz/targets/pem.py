"""Only public keys are taken from a file in PEM, and each of them is a key like a published one.

* Anything without a usable key is rejected with ``FetchFailed``, and so is every file with a private key.
* Neither that text nor the remarks about single blocks quote the content of a block.
* There are no more keys and remarks than blocks begin. A key has no kid, and passes the promises of ``key_set``.
"""

from __future__ import annotations

import re

from authz_service.core.errors import FetchFailed
from authz_service.keys import pem
from fuzz.secrets import is_secret
from fuzz.targets.key_set import require_right

OUTCOMES = {"usable", "usable in part", "rejected"}
MAX_BYTES = 8192
_MAX_KEYS = 8
_CONTENT = re.compile(rb"^[A-Za-z0-9+/=]{16,}$", re.MULTILINE)


def run(data: bytes) -> str:
    try:
        keys = pem.parse(data, _MAX_KEYS)
    except FetchFailed as failure:
        _require_no_content(str(failure), data)
        return "rejected"
    begins = [line.strip() for line in data.splitlines() if line.strip().startswith(b"-----BEGIN ")]
    assert not any(line.endswith(b"PRIVATE KEY-----") for line in begins)
    assert 0 < len(keys.keys) + len(keys.refused) <= min(_MAX_KEYS, len(begins))
    _require_no_content("\n".join(keys.refused), data)
    for key in keys.keys:
        assert key.kid is None
        require_right(key)
    return "usable in part" if keys.refused else "usable"


def _require_no_content(text: str, data: bytes) -> None:
    for line in _CONTENT.findall(data):
        assert not (is_secret(line.decode(), data) and line.decode() in text)
