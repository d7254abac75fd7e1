"""An introspection server that the test drives, in this process or over HTTP, and what it says of a good token.

The fake client passes the same contract suite as the real one (``test_introspection_clients.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from authz_service.config.model import Issuer
from authz_service.core.errors import FetchFailed
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.introspector import Introspector
from support.trust import ISSUER, NOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.tokens.introspector import Client

SECRETS = {"client_id": "my-api", "client_secret_file": "secret"}


def issuer_with(introspection: dict[str, Any] | None = None, **settings: Any) -> Issuer:
    """An issuer's settings with introspection."""
    own = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "introspection": SECRETS | (introspection or {})}
    return Issuer.model_validate(own | settings)


def said(**changes: Any) -> dict[str, Any]:
    """The answer about a good token; None takes a member away."""
    own = {
        "active": True,
        "sub": "u1",
        "aud": "api",
        "client_id": "app",
        "iat": NOW,
        "exp": NOW + 600,
        "scope": "a b",
        "token_type": "Bearer",
    }
    return {name: value for name, value in (own | changes).items() if value is not None}


INACTIVE: dict[str, Any] = {"active": False}


class FakeClient:
    """A client of a server. What it says of each token, and when, the test sets."""

    def __init__(self, **tokens: Mapping[str, Any] | Exception) -> None:
        self.tokens: dict[str, Mapping[str, Any] | Exception] = dict(tokens)  # of any other one: not active
        self.every: Mapping[str, Any] | Exception | None = None  # said of every token
        self.seconds = 0.0  # that each call takes
        self.asked: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = False
        self._gate = asyncio.Event()
        self._gate.set()

    async def introspect(self, token: str) -> Mapping[str, Any]:
        self.asked[token] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._gate.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        answer = self.tokens.get(token, INACTIVE) if self.every is None else self.every
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    def hold(self) -> None:
        """Let calls hang until ``release``."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def introspector(
    client: Client,
    issuer: Issuer | None = None,
    *,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    max_entries: int = 100,
) -> Introspector:
    """One that asks this client. Its time is the loop's, its clock stands still."""
    issuer = issuer or issuer_with()
    assert issuer.introspection is not None
    return Introspector(
        issuer,
        issuer.introspection,
        client,
        metrics=(metrics or Metrics(transport="grpcio")).introspection(issuer.label),
        logger=logging.getLogger("authz.introspection"),
        clock=clock or Clock(),
        timer=loop_time,
        max_entries=max_entries,
    )


def loop_time() -> float:
    """By the loop's clock, and outside of a loop at its beginning."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


def failure(text: str = "it can not be reached", **options: Any) -> FetchFailed:
    return FetchFailed(text, **options)
