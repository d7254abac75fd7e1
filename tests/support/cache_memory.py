"""Measure the memory of a cache that is filled several times over. Runs in its own process:

    python -m support.cache_memory tokens|responses SHAPE MAX_BYTES

Each token is signed, decided by eight rules, and encoded as a CheckResponse. Each introspection response is parsed and
decided in the same way. Prints, as JSON, the growth of the resident memory and the accounted bytes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_service.authorizer import Pending
from authz_service.core import strict_json
from authz_service.core.decision import Allow
from authz_service.transport.ext_authz.codec import encode_response
from support.fake_introspection import FakeClient, IntrospectingAuthorizer, active_response
from support.json_shapes import SHAPES
from support.signing import base64url
from support.trust import ES, NOW, LocalAuthorizer, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.core.decision import Decision

RULES: list[dict[str, Any]] = [{"name": f"rule-{number}", "match": {"paths": [f"/{number}"]}} for number in range(8)]
TOKEN_BYTES = 11_500  # of claims; base64 adds a third, and max_token_bytes is 16 KiB
RESPONSE_BYTES = 60_000  # of at most 64 KiB
_FACTOR = 4  # the inserted bytes, relative to max_bytes
_HEADER = json.dumps({"alg": "ES256", "kid": "es", "typ": "at+jwt"}).encode()


def json_object(shape: str, members: Mapping[str, Any], length: int) -> bytes:
    """A JSON object with these members, padded to this length in this shape."""
    usual = {name: value for name, value in members.items() if name != "scope"}
    return (json.dumps(usual)[:-1] + "," + SHAPES[shape](length)[1:]).encode()


def resident_bytes() -> int:
    """The resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Tokens:
    """JWTs with verified signatures."""

    def __init__(self, shape: str, max_bytes: int) -> None:
        self._shape = shape
        self._trust = LocalAuthorizer(RULES, {"x-auth-subject": "sub", "x-auth-scopes": "scope"}, **_bounds(max_bytes))

    def use(self, number: int) -> None:
        payload = json_object(self._shape, claims(sub=f"u{number}"), TOKEN_BYTES)
        token = ES.sign_parts(base64url(_HEADER), base64url(payload))
        for path in range(8):
            _encode(self._trust.decide(f"/{path}", token))

    def accounted(self) -> tuple[int, int]:
        return len(self._trust.cache), self._trust.cache.used_bytes


class _Server(FakeClient):
    """Sends another response of this size for every token."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self._shape = shape

    async def introspect(self, token: str) -> Mapping[str, Any]:
        members: Mapping[str, Any] = strict_json.loads(
            json_object(self._shape, active_response(sub=token), RESPONSE_BYTES)
        )
        return members


class Responses:
    """Introspection responses for opaque tokens."""

    def __init__(self, shape: str, max_bytes: int) -> None:
        self._trust = IntrospectingAuthorizer({"main": _Server(shape)}, rules=RULES, **_bounds(max_bytes))
        (self._introspector,) = (each.introspector for each in self._trust.issuers if each.introspector is not None)

    def use(self, number: int) -> None:
        async def decide() -> None:
            for path in range(8):
                decision = self._trust.begin(f"/{path}", f"opaque-{number}")
                if isinstance(decision, Pending):
                    await decision.ready()
                    decision = self._trust.authorizer.finish(decision, NOW)
                _encode(decision)

        asyncio.run(decide())

    def accounted(self) -> tuple[int, int]:
        return len(self._introspector._cache), self._introspector._cache.used_bytes


def _bounds(max_bytes: int) -> dict[str, Any]:
    return {"max_entries": 1_000_000, "max_bytes": max_bytes}


def _encode(decision: Decision) -> None:
    assert isinstance(decision, Allow), decision
    encode_response(decision, f"{0:016x}")


_KINDS: dict[str, Callable[[str, int], Tokens | Responses]] = {"tokens": Tokens, "responses": Responses}


def fill(create: Callable[[str, int], Tokens | Responses], shape: str, max_bytes: int) -> dict[str, int]:
    """Fill a small cache first, so that one-time allocations do not count; then one of this size."""
    warm = create(shape, 1 << 20)
    for number in range(4):
        warm.use(number)
    before, cache = resident_bytes(), create(shape, max_bytes)
    number, seen, entries = 0, 0, 0
    while seen < _FACTOR * max_bytes:
        cache.use(number)
        number += 1
        entries, used = cache.accounted()
        seen = number * used // max(entries, 1)  # the bytes of all tokens so far
    return {"grown": resident_bytes() - before, "accounted": cache.accounted()[1], "entries": entries, "tokens": number}


if __name__ == "__main__":
    kind, shape, max_bytes = sys.argv[1:]
    sys.stdout.write(json.dumps(fill(_KINDS[kind], shape, int(max_bytes))))
