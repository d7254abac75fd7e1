"""The entries of the JWT cache, and their packed form: bytes, from which an entry is made again when its token is seen.

Pure. A packed entry names its key and the rules of its responses; the cache finds them.
"""

from __future__ import annotations

import itertools
import marshal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.confirmation import Confirmation

if TYPE_CHECKING:
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.jwk import Key
    from authz_service.keys.keyset import KeySet


@dataclass(slots=True)
class CachedJwt:
    """A validated JWT, and what its validity depends on."""

    token: ValidatedToken
    until: float  # seconds since the epoch: when it expires
    keys: KeyCache
    key: Key
    key_set: KeySet  # the last one in which the key was found


class RuleNumbers:
    """A number for each rule, different from those in other caches: a response is found by its own rule only."""

    _next = itertools.count()

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._rules: dict[int, object] = {}

    def number_of(self, rule: object) -> int:
        """The number of a rule."""
        number = self._numbers.get(rule)
        if number is None:
            number = self._numbers[rule] = next(self._next)
            self._rules[number] = rule
        return number

    def rule_of(self, number: int) -> object | None:
        """The rule with this number; None if it is one of another cache."""
        return self._rules.get(number)


def pack(entry: CachedJwt, size: int, rules: RuleNumbers) -> bytes:
    """Pack an entry of this size in bytes."""
    claims, responses = entry.token.claims, entry.token.responses
    confirmation = None if claims.confirmation is None else tuple(claims.confirmation)
    members: tuple[Any, ...] = (*claims._replace(confirmation=None), confirmation)
    prepared = [(rules.number_of(rule), response.values) for rule, response in responses.items()]
    bare = size - responses.charged
    return marshal.dumps((entry.until, bare, entry.key.identity, members, responses.charged, prepared))


class UnpackedJwt:
    """A packed entry, apart from its keys, which the packed form only names."""

    __slots__ = ("identity", "size", "token", "until")

    def __init__(self, packed: bytes, rules: RuleNumbers) -> None:
        self.until: float
        self.size: int  # bytes as an object
        self.identity: tuple[str | None, bytes]  # of the key
        # The bytes are our own, and never leave the process.
        self.until, self.size, self.identity, members, charged, prepared = marshal.loads(packed)  # noqa: S302
        *values, confirmation = members
        claims = Claims(*values)
        if confirmation is not None:
            claims = claims._replace(confirmation=Confirmation(*confirmation))
        self.token = ValidatedToken(claims)
        responses = [(rules.rule_of(number), values) for number, values in prepared]
        if all(rule is not None for rule, _ in responses):
            for rule, values in responses:
                self.token.responses.restore(rule, values, charged)
            self.size += self.token.responses.charged
