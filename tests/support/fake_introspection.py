"""An introspection server that a test controls, in this process or over HTTP, and an authorizer that queries it.

``FakeClient`` passes the same contract suite as the real client
(``tests/tokens/introspection/test_client_contract.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
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
from support.trust import ISSUER, NOW, LocalAuthorizer

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
    return Issuer.read(own | settings)


def active_response(**changes: Any) -> dict[str, Any]:
    """The response body for an active token, with changes; None removes a member."""
    members = {
        "active": True,
        "sub": "u1",
        "aud": "api",
        "client_id": "app",
        "iat": NOW,
        "exp": NOW + 600,
        "scope": "a b",
        "token_type": "Bearer",
    }
    return {name: value for name, value in (members | changes).items() if value is not None}


INACTIVE: dict[str, Any] = {"active": False}


class FakeClient:
    """A client whose responses a test sets, by token."""

    def __init__(self, **responses: Mapping[str, Any] | Exception) -> None:
        self.responses: dict[str, Mapping[str, Any] | Exception] = dict(responses)  # for others: inactive
        self.response_to_all: Mapping[str, Any] | Exception | None = None  # in place of ``responses``
        self.delay = 0.0  # seconds
        self.invented_failure: FetchFailed | None = None  # for tokens that begin with "invented"
        self.invented_delay = 0.0  # seconds
        self.fails_all_unknown = False  # ``invented_failure`` is for all tokens that are not in ``responses``
        self.requests: Counter[str] = Counter()  # by token
        self.in_flight = 0
        self.max_in_flight = 0
        self.closed = False
        self._gate = asyncio.Event()
        self._gate.set()

    async def introspect(self, token: str) -> Mapping[str, Any]:
        self.requests[token] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self._gate.wait()
            if self.invented_failure is not None and self._is_invented(token):
                await asyncio.sleep(self.invented_delay)
                raise self.invented_failure
            await asyncio.sleep(self.delay)
        finally:
            self.in_flight -= 1
        response = self.responses.get(token, INACTIVE) if self.response_to_all is None else self.response_to_all
        if isinstance(response, Exception):
            raise response
        return response

    def _is_invented(self, token: str) -> bool:
        return token not in self.responses and (self.fails_all_unknown or token.startswith("invented"))

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    def hold(self) -> None:
        """Let requests hang until ``release``."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()


class Clock:
    """Seconds since the epoch, set by the test."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def introspector_with(
    client: IntrospectionClient,
    issuer: Issuer | None = None,
    *,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    cache_bounds: Bounds = _BOUNDS,
) -> Introspector:
    """An introspector over this client. Its timer is the loop's; its clock does not advance."""
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
    """The loop's time; outside of a loop, 0."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


def http_client(
    issuer: Issuer, keys: FakeSource | None = None, *, timer: Callable[[], float] = time.monotonic
) -> HttpIntrospectionClient:
    """The real client for an issuer with introspection, whose keys come from this source."""
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


class IntrospectingAuthorizer(LocalAuthorizer):
    """An authorizer for two issuers, of which those with a client are introspected."""

    def __init__(
        self,
        clients: dict[str, FakeClient],
        *,
        rules: list[dict[str, Any]] | None = None,
        introspection: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """``clients`` are by issuer name; ``introspection`` and ``settings`` are those of the first issuer."""
        self.clients = clients
        self.clock = Clock()
        self._introspection = introspection or {}
        super().__init__(rules or [{"name": "any"}], {"x-auth-subject": "sub"}, **settings)

    def _trusted(self, url: str, name: str, settings: dict[str, Any]) -> TrustedIssuer:
        if name not in self.clients:
            return super()._trusted(url, name, settings)
        own = self._introspection if name == "main" else {}
        trusted = super()._trusted(url, name, settings | {"introspection": SECRETS | own})
        introspector = introspector_with(
            self.clients[name], trusted.settings, metrics=self.metrics, clock=self.clock, cache_bounds=self.bounds
        )
        return trusted._replace(introspector=introspector)

    async def decide_after_waiting(self, path: str, token: str, **request: Any) -> Decision:
        """Decide a request that may have to wait."""
        decision = self.begin(path, token, **request)
        if isinstance(decision, Pending):
            await decision.ready()
            decision = self.authorizer.finish(decision, self.clock.now)
        return decision

    def reason_of(self, token: str, path: str = "/", **request: Any) -> str:
        """The reason of the decision. Asserts that its cause does not contain the token."""
        decision = asyncio.run(self.decide_after_waiting(path, token, **request))
        assert len(token) < 5 or token not in decision.cause
        return decision.reason.value
