"""A sidecar without sockets and clocks: the bytes of a CheckRequest in, the bytes of a CheckResponse out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
from typing import TYPE_CHECKING, Any

from authz_service.authorizer import Pending
from authz_service.config.model import Settings
from authz_service.policy_tools.explain import explained
from authz_service.policy_tools.explanation import as_json
from authz_service.runtime.assembly import assemble, key_cache_of
from authz_service.telemetry import logs
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.validator import TrustedIssuer
from authz_service.transport.ext_authz.servicer import Servicer
from fuzz.issuers import AUDIENCE, MAIN, NOW, OTHER, published
from support.key_source import FakeSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.core.attributes import Attributes

IDENTITY: dict[str, Any] = {
    "x-auth-subject": "sub",
    "x-auth-scopes": "scope",
    "x-auth-tenant": "tenant",
    "x-auth-claims": {"claim": "*", "encoding": "base64url-json"},
}
RULES: list[dict[str, Any]] = [
    {"name": "admin", "match": {"paths": ["/admin/**"]}, "require": {"scopes": ["admin"]}},
    {
        "name": "tenant",
        "match": {"paths": ["/tenants/{tenant}", "/tenants/{tenant}/**"], "methods": ["GET", "HEAD"]},
        "require": {"claims": {"tenant": {"equals_path": "tenant"}}},
    },
    {
        "name": "fresh",
        "match": {"hosts": ["bank.example", "*.bank.example"]},
        "require": {"issuers": ["main"], "max_auth_age": "5m", "acr_values": ["urn:mfa"]},
    },
    {
        "name": "orders-v2",
        "match": {"paths": ["/orders/**"], "headers": {"x-api-version": "2"}},
        "require": {"scopes": {"any": ["write", "admin"]}, "claims": {"realm_access.roles": {"contains": "user"}}},
    },
    {"name": "orders", "match": {"paths": ["/orders/**"]}, "require": {"scopes": ["read"]}},
    {"name": "internal", "policy": "internal", "require": {"clients": ["robot"]}},
    {"name": "public", "match": {"paths": ["/public/**", "/healthz"]}, "access": "public"},
    {"name": "optional", "match": {"paths": ["/news/{id}"]}, "access": "optional"},
    {"name": "tried-out", "match": {"paths": ["/beta/**"]}, "require": {"scopes": ["beta"]}, "mode": "shadow"},
    {"name": "packages", "match": {"paths": ["/{name}:pack"], "encoded_slash": True}, "access": "public"},
    {"name": "elsewhere", "match": {"paths": ["/elsewhere/**"]}, "credential": {"header": "x-jwt"}},
    {"name": "items", "match": {"paths": ["/{collection}/{id}"]}},
]
RESOURCES = {"api.example": "https://api.example/orders", "bank.example": "https://bank.example"}
CONFIGURATION: dict[str, Any] = {
    "issuers": [
        {"issuer": MAIN, "name": "main", "audiences": [AUDIENCE]},
        {"issuer": OTHER, "name": "other", "audiences": [AUDIENCE]},
    ],
    "rules": RULES,
    "upstream": {"headers": IDENTITY, "metadata": {"tenant": "tenant", "roles": "realm_access.roles"}},
    "resources": [{"resource": resource} for resource in RESOURCES.values()],
}
MAX_REQUEST_BYTES = 1 << 20


def now() -> float:
    return float(NOW)


@functools.cache
def settings() -> Settings:
    return Settings.read(CONFIGURATION)


class Sidecar:
    """Everything that decides is real, and has its issuers' keys from the start."""

    def __init__(self) -> None:
        metrics = Metrics(transport="asyncio")
        trusted = []
        for issuer in settings().issuers:
            source = FakeSource(published(issuer.issuer), lifetime=3600.0)
            trusted.append(TrustedIssuer(issuer, key_cache_of(issuer, source, metrics.issuer(issuer.label), now)))
        self._loop = asyncio.Runner()
        for each in trusted:
            self._loop.run(each.keys.refresh())
        self._active = assemble(settings(), trusted, metrics, now=now())._replace(
            decision_log=DecisionLog("all"),
            check_deadline=1.0,
            max_request_bytes=MAX_REQUEST_BYTES,
        )
        self._authorizer = self._active.authorizer
        self.validator = self._authorizer.validator
        self._servicer = Servicer(self._active, metrics=metrics, clock=now, timer=now)

    def answer(self, request: bytes) -> bytes:
        """Decide, and wait for the decision if it needs the network."""
        answer = self._servicer.answer(request, None)
        return answer if isinstance(answer, bytes) else self._loop.run(answer)

    def explain(self, attributes: Attributes) -> str:
        """What ``explain`` prints about a request; it raises if its steps end in another reason than the decision."""
        decision = self._authorizer.begin(attributes, now())
        if isinstance(decision, Pending):
            decision = self._authorizer.finish(decision, now())
        return as_json(explained(settings(), self._authorizer, attributes, decision, now()), attributes)

    def clear_caches(self) -> None:
        """Clear the token caches, so that the outcome of an input does not depend on earlier inputs."""
        self._active.token_cache.clear()


@functools.cache
def sidecar() -> Sidecar:
    return Sidecar()


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """The lines that are logged meanwhile, in the program's own format."""
    loggers = [logging.getLogger("authz"), logging.getLogger()]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    decisions = logs.decision_output()
    lines = io.StringIO()
    logs.configure("info", "json", lines)
    try:
        yield lines
    finally:
        logs._decisions = decisions
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
