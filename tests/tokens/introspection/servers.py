"""An introspection server that the test drives, in this process or over HTTP, and what it says of a good token.

The fake client passes the same contract suite as the real one (``test_introspection_clients.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from authz_service.authorizer import Pending
from authz_service.config.model import Issuer
from authz_service.core.bounded import Bounds
from authz_service.core.errors import FetchFailed
from authz_service.keys.cache import KeyCache
from authz_service.providers.client_authentication import authentication_of
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.introspection.http_client import HttpIntrospectionClient
from authz_service.tokens.introspection.introspector import Introspector
from support.key_source import FakeSource
from support.trust import ISSUER, NOW, Deciding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.core.decision import Decision
    from authz_service.tokens.introspection.client import IntrospectionClient
    from authz_service.tokens.validator import TrustedIssuer

_BOUNDS = Bounds(100, 1 << 20)
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
        self.trouble: FetchFailed | None = None  # what tokens cause that begin with "invented"
        self.seconds_of_trouble = 0.0
        self.knows_no_other = False  # then every token causes it that is not among ``tokens``
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
            if self.trouble is not None and self._is_troublesome(token):
                await asyncio.sleep(self.seconds_of_trouble)
                raise self.trouble
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        answer = self.tokens.get(token, INACTIVE) if self.every is None else self.every
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _is_troublesome(self, token: str) -> bool:
        return token not in self.tokens and (self.knows_no_other or token.startswith("invented"))

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
    client: IntrospectionClient,
    issuer: Issuer | None = None,
    *,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    cache_bounds: Bounds = _BOUNDS,
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
        cache_bounds=cache_bounds,
    )


def loop_time() -> float:
    """By the loop's clock, and outside of a loop at its beginning."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


def http_client(
    issuer: Issuer, keys: FakeSource | None = None, *, timer: Callable[[], float] = time.monotonic
) -> HttpIntrospectionClient:
    """The real client of an issuer with introspection, whose keys come from this source."""
    assert issuer.introspection is not None
    cache = KeyCache(
        keys or FakeSource(),
        issuer.keys,
        issuer=issuer.label,
        metrics=Metrics(transport="grpcio").issuer(issuer.label),
        logger=logging.getLogger("authz.keys"),
        clock=time.time,
    )
    authentication = authentication_of(issuer.introspection, issuer.issuer, clock=time.time, timer=timer)
    return HttpIntrospectionClient(issuer, issuer.introspection, authentication, cache, clock=time.time, timer=timer)


def failure(text: str = "it cannot be reached", **options: Any) -> FetchFailed:
    return FetchFailed(text, **options)


class Asking(Deciding):
    """An authorizer over the two issuers, some of which are asked about tokens by these clients."""

    def __init__(
        self,
        clients: dict[str, FakeClient],
        *,
        rules: list[dict[str, Any]] | None = None,
        introspection: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """``clients`` are by the name of the issuer; ``introspection`` and ``settings`` are those of the first one."""
        self.clients = clients
        self.clock = Clock()
        self._introspection = introspection or {}
        super().__init__(rules or [{"name": "any"}], {"x-auth-subject": "sub"}, **settings)

    def _trusted(self, url: str, name: str, settings: dict[str, Any]) -> TrustedIssuer:
        if name not in self.clients:
            return super()._trusted(url, name, settings)
        own = self._introspection if name == "main" else {}
        trusted = super()._trusted(url, name, settings | {"introspection": SECRETS | own})
        asks = introspector(
            self.clients[name], trusted.settings, metrics=self.metrics, clock=self.clock, cache_bounds=self.bounds
        )
        return replace(trusted, introspector=asks)

    async def ask(self, path: str, token: str, **request: Any) -> Decision:
        """What becomes of a request that may have to wait."""
        decision = self.begin(path, token, **request)
        if isinstance(decision, Pending):
            await decision.ready()
            decision = self.authorizer.finish(decision, self.clock.now)
        return decision

    def reason_of(self, token: str, path: str = "/", **request: Any) -> str:
        """The reason of the decision; its cause holds no token."""
        decision = asyncio.run(self.ask(path, token, **request))
        assert len(token) < 5 or token not in decision.cause
        return decision.reason.value
