"""Nonces for DPoP proofs (RFC 9449 section 9): a proof with a current one was made a short time ago.

Pure, and stateless: a nonce is the time at which it was issued, authenticated with a key. Any process that has the key
accepts it, and no number of requests for nonces takes memory.
"""

from __future__ import annotations

import hmac

from authz_service.core import base64url

_LABEL = b"DPoP-Nonce\0"  # the key may have other uses
_TIME_BYTES = 8  # milliseconds since the epoch
_TAG_BYTES = 16
_CHARACTERS = (_TIME_BYTES + _TAG_BYTES) * 4 // 3
_MAX_AHEAD = 5.0  # seconds by which the clock of another replica may be ahead


class Nonces:
    """Issues and verifies nonces. Times are seconds since the epoch."""

    def __init__(self, key: bytes, lifetime: float, previous: tuple[tuple[bytes, float], ...] = ()) -> None:
        """``previous`` has keys that were replaced, each with the time until which its nonces are accepted."""
        self.key = key
        self.lifetime = lifetime
        self._previous = previous

    def replaced_by(self, key: bytes, lifetime: float, now: float) -> Nonces:
        """Those of a new key or lifetime, which accept the current key until its last nonce expires."""
        if (key, lifetime) == (self.key, self.lifetime):
            return self
        accepted = ((self.key, now + self.lifetime), *self._previous)
        return Nonces(key, lifetime, tuple((old, until) for old, until in accepted if until > now and old != key))

    def issue(self, now: float) -> str:
        """A new nonce."""
        time = int(now * 1000).to_bytes(_TIME_BYTES, "big")
        return base64url.encode(time + _tag(self.key, time))

    def age(self, nonce: str, now: float) -> float | None:
        """How many seconds ago a nonce was issued; None if it has expired, or was not issued with one of the keys."""
        if len(nonce) != _CHARACTERS:
            return None
        try:
            octets = base64url.decode(nonce)
        except ValueError:
            return None
        time, tag = octets[:_TIME_BYTES], octets[_TIME_BYTES:]
        age = now - int.from_bytes(time, "big") / 1000
        if not -_MAX_AHEAD <= age < self.lifetime or not self._is_ours(time, tag, now):
            return None
        return max(0.0, age)

    def _is_ours(self, time: bytes, tag: bytes, now: float) -> bool:
        if hmac.compare_digest(tag, _tag(self.key, time)):
            return True
        return any(now < until and hmac.compare_digest(tag, _tag(key, time)) for key, until in self._previous)


def _tag(key: bytes, time: bytes) -> bytes:
    return hmac.digest(key, _LABEL + time, "sha256")[:_TAG_BYTES]
