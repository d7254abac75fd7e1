"""Where a key set comes from: the interface between ``cache`` and what fetches.

A source fetches when it is called. It does not schedule, retry or keep keys.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from authz_service.keys.keyset import KeySet

_FOREVER = 10 * 365 * 86_400.0  # seconds


class Fetched(NamedTuple):
    """The result of a fetch."""

    key_set: KeySet | None  # None: not modified since the last fetch
    lifetime: float  # seconds until the next fetch


class KeySource(Protocol):
    """Fetches one issuer's key set."""

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """Fetch the key set. It may be reported as not modified only if ``have_keys``.

        Raises:
            FetchFailed: if there is no usable key set.
        """

    async def close(self) -> None:
        """Close the connections."""


class NoSource:
    """For an issuer without keys, whose tokens are introspected: an empty key set."""

    async def fetch(self, *, have_keys: bool) -> Fetched:
        """See KeySource."""
        return Fetched(None if have_keys else KeySet(()), _FOREVER)

    async def close(self) -> None:
        """See KeySource."""
