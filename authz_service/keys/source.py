"""Where a key set comes from: the interface that the cache relies on.

Law: a source fetches when told to and says what it got; it never decides when, never retries, and keeps no keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from authz_service.keys.keyset import KeySet

_NEVER = 10 * 365 * 86_400.0  # seconds: there will be nothing to fetch


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch gave."""

    key_set: KeySet | None  # None: not modified since the last one
    lifetime: float  # seconds until it should be fetched again


class NoSource:
    """Of an issuer whose tokens are known by introspection alone: no keys, from the first moment on."""

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """See KeySource."""
        return Fetched(None if have_keys else KeySet(()), _NEVER)

    async def close(self) -> None:
        """See KeySource."""


class KeySource(Protocol):
    """Gets one issuer's key set."""

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Get the key set, or learn that it has not changed, which only counts where ``have_keys``.

        Raises:
            FetchFailed: when there is none to be had.
        """

    async def close(self) -> None:
        """Let go of connections."""
