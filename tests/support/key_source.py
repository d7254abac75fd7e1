"""Keys, their published form, and a key source that a test controls.

``FakeSource`` passes the same contract suite as the real sources (``tests/keys/test_sources.py``).
"""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.source import Fetched


@functools.cache
def private_key(kid: str) -> ec.EllipticCurvePrivateKey:
    """The private key for a ``kid``: the same one in every call."""
    return ec.generate_private_key(ec.SECP256R1())


def jwk(kid: str) -> dict[str, Any]:
    """The public key for a ``kid``, as a JWK."""
    return ECAlgorithm.to_jwk(private_key(kid).public_key(), as_dict=True) | {"kid": kid}


def jwks(*kids: str) -> bytes:
    """A published key set."""
    return json.dumps({"keys": [jwk(kid) for kid in kids]}).encode()


class FakeSource:
    """A key source; the test sets what it fetches, its lifetime, and when the fetch returns."""

    def __init__(self, published: bytes | None = None, *, lifetime: float = 300.0) -> None:
        self.published = published  # a key set, or anything else; None: the provider is unreachable
        self.error: Exception | None = None  # raised instead
        self.lifetime = lifetime
        self.retry_after = 0.0  # the provider's Retry-After while it is unreachable
        self.max_keys = 100
        self.fetches = 0
        self.fetch_started = asyncio.Event()
        self.closed = False
        self._last_fetched: bytes | None = None
        self._may_return = asyncio.Event()
        self._may_return.set()

    async def fetch(self, *, have_keys: bool) -> Fetched:
        self.fetches += 1
        self.fetch_started.set()
        await self._may_return.wait()
        if self.error is not None:
            raise self.error
        if self.published is None:
            raise FetchFailed("the provider is unreachable", retry_after=self.retry_after)
        if have_keys and self.published == self._last_fetched:
            return Fetched(None, self.lifetime)
        key_set = keyset.parse(self.published, self.max_keys)
        self._last_fetched = self.published
        return Fetched(key_set, self.lifetime)

    async def close(self) -> None:
        self.closed = True

    async def wait_for_fetches(self, count: int) -> None:
        """Wait until so many fetches have started."""
        while self.fetches < count:
            self.fetch_started.clear()
            await self.fetch_started.wait()

    def pause(self) -> None:
        """Make fetches hang until ``resume``."""
        self.fetch_started.clear()
        self._may_return.clear()

    def resume(self) -> None:
        self._may_return.set()

    def ignore_validators(self) -> None:
        """Return the whole key set from the next fetch, changed or not."""
        self._last_fetched = None
