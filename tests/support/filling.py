"""How much memory a cache takes that is filled several times over, in a process of its own.

    python -m support.filling tokens|answers SHAPE MAX_BYTES

Tokens are signed, decided by eight rules each, and answered in the bytes of the wire; answers of an introspection
server are parsed and decided likewise. What is printed, as JSON, is by how much the resident memory grew, and what was
accounted.
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
from support.shapes import SHAPES
from support.signing import base64url
from support.trust import ES, NOW, Deciding, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.core.decision import Decision

RULES: list[dict[str, Any]] = [{"name": f"rule-{number}", "match": {"paths": [f"/{number}"]}} for number in range(8)]
TOKEN_BYTES = 11_500  # of claims: base64 makes a third more of them, and max_token_bytes is 16 KiB
ANSWER_BYTES = 60_000  # of 64 KiB
_TIMES = 4  # as much is put in as there may be
_HEADER = json.dumps({"alg": "ES256", "kid": "es", "typ": "at+jwt"}).encode()


def shaped(shape: str, own: Mapping[str, Any], length: int) -> bytes:
    """A JSON object with these members, made as long as that in this shape."""
    usual = {name: value for name, value in own.items() if name != "scope"}
    return (json.dumps(usual)[:-1] + "," + SHAPES[shape](length)[1:]).encode()


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Tokens:
    """JWTs, each verified by its signature."""

    def __init__(self, shape: str, max_bytes: int) -> None:
        self._shape = shape
        self._trust = Deciding(RULES, {"x-auth-subject": "sub", "x-auth-scopes": "scope"}, **_bounds(max_bytes))

    def use(self, number: int) -> None:
        payload = shaped(self._shape, claims(sub=f"u{number}"), TOKEN_BYTES)
        token = ES.sign_parts(base64url(_HEADER), base64url(payload))
        for path in range(8):
            _answer(self._trust.decide(f"/{path}", token))

    def accounted(self) -> tuple[int, int]:
        return len(self._trust.cache), self._trust.cache.used_bytes


class _Server(FakeClient):
    """Says of every token another thing, in so many bytes."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self._shape = shape

    async def introspect(self, token: str) -> Mapping[str, Any]:
        members: Mapping[str, Any] = strict_json.loads(shaped(self._shape, active_response(sub=token), ANSWER_BYTES))
        return members


class Answers:
    """What an introspection server says of opaque tokens."""

    def __init__(self, shape: str, max_bytes: int) -> None:
        self._trust = IntrospectingAuthorizer({"main": _Server(shape)}, rules=RULES, **_bounds(max_bytes))
        (self._introspector,) = (each.introspector for each in self._trust.issuers if each.introspector is not None)

    def use(self, number: int) -> None:
        async def story() -> None:
            for path in range(8):
                decision = self._trust.begin(f"/{path}", f"opaque-{number}")
                if isinstance(decision, Pending):
                    await decision.ready()
                    decision = self._trust.authorizer.finish(decision, NOW)
                _answer(decision)

        asyncio.run(story())

    def accounted(self) -> tuple[int, int]:
        return len(self._introspector._cache), self._introspector._cache.used_bytes


def _bounds(max_bytes: int) -> dict[str, Any]:
    return {"max_entries": 1_000_000, "max_bytes": max_bytes}


def _answer(decision: Decision) -> None:
    assert isinstance(decision, Allow), decision
    encode_response(decision, f"{0:016x}")


_KINDS: dict[str, Callable[[str, int], Tokens | Answers]] = {"tokens": Tokens, "answers": Answers}


def fill(made: Callable[[str, int], Tokens | Answers], shape: str, max_bytes: int) -> dict[str, int]:
    """Fill a small cache first, so that all that is made once was made; then one of this size."""
    warm = made(shape, 1 << 20)
    for number in range(4):
        warm.use(number)
    before, cache = resident(), made(shape, max_bytes)
    number, seen, entries = 0, 0, 0
    while seen < _TIMES * max_bytes:
        cache.use(number)
        number += 1
        entries, used = cache.accounted()
        seen = number * used // max(entries, 1)  # as much as all tokens so far would take
    return {"grown": resident() - before, "accounted": cache.accounted()[1], "entries": entries, "tokens": number}


if __name__ == "__main__":
    kind, shape, max_bytes = sys.argv[1:]
    sys.stdout.write(json.dumps(fill(_KINDS[kind], shape, int(max_bytes))))
