"""Reading the key of the nonces, which replicas and workers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config import files
from authz_service.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MIN_BYTES = 32  # as many as the output of HMAC-SHA256: RFC 2104 section 3
PROBLEM_AT = "dpop.nonce_key_file: "  # how each problem begins


def read_nonce_key(file: Path) -> bytes:
    """The content of a file, with every byte: a random key ends in what looks like a newline once in 256 times.

    Raises:
        ConfigError: if the file cannot be read, or the key is too short.
    """
    try:
        key = files.read(file, files.MAX_SECRET_BYTES)
    except OSError as error:
        raise ConfigError([f"{PROBLEM_AT}cannot be read: {error.strerror}"]) from None
    if len(key) < MIN_BYTES:
        problem = f"has {len(key)} bytes, expected {MIN_BYTES} or more: make one with openssl rand -base64 48"
        raise ConfigError([f"{PROBLEM_AT}{problem}"])
    return key
