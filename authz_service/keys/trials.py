"""Finds the key that verifies a signature among many, where no ``kid`` selects one.

Anyone can send forged tokens, and each could cost as many verifications as there are keys. So forged tokens share a
budget per issuer. Tokens that verify cost nothing of it, and their keys are tried first from then on: keys that really
sign are found whatever the budget.

Invariants:

* None means that every key was tried. What was not tried is ``EXHAUSTED``, so a valid token is never called forged.
* At most ``MAX_FREE`` + ``_MAX_PROVEN`` keys are tried without budget, and fewer of those that take longer.
* What is tried without budget is not charged, so the budget is never far from being refilled.
"""

from __future__ import annotations

import itertools
import random
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from authz_service.keys.jwk import Key

MAX_FREE: Final = 8  # keys that every token may try; fewer candidates need no budget
_MAX_PROVEN: Final = 16  # keys that have verified a token; the one that did so longest ago is dropped first
MAX_BUDGET: Final = 200.0  # failed verifications at once; one takes up to 1 ms (P-384, P-521)
MAX_COST: Final = MAX_BUDGET  # of one search, unless the keys are more
REFILL: Final = 50.0  # failed verifications per second: 5 % of a core at most


class Exhausted(Enum):
    """Why a search ended without a result."""

    EXHAUSTED = "forged tokens have used up the budget for trying keys"


EXHAUSTED: Final = Exhausted.EXHAUSTED


class KeyTrials:
    """The searches among one issuer's keys. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._proven: dict[tuple[str | None, bytes], None] = {}  # identities, the last one the most recent
        self._budget = MAX_BUDGET
        self._refilled_at = 0.0

    def verifying_key(
        self, candidates: Sequence[Key], algorithm: str, signing_input: bytes, signature: bytes, now: float
    ) -> Key | Literal[Exhausted.EXHAUSTED] | None:
        """The key that verifies the signature, None if none does."""
        if len(candidates) == 1:  # as a kid nearly always selects
            return candidates[0] if candidates[0].verifies(algorithm, signing_input, signature) else None
        keys = [key for key in candidates if algorithm in key.algorithms]
        if len(keys) <= 1 or _cost(keys) <= MAX_FREE:
            return next((key for key in keys if key.verifies(algorithm, signing_input, signature)), None)
        self._refill(now)
        chosen = self._chosen(keys)
        for key in chosen:
            if key.verifies(algorithm, signing_input, signature):
                self._prove(key)
                return key
        if self._budget > 0:
            self._budget -= _cost(chosen) - MAX_FREE
        return None if len(chosen) == len(keys) else EXHAUSTED

    def _chosen(self, keys: Sequence[Key]) -> Sequence[Key]:
        """The keys to try, in this order: all of them, or without budget the proven ones and some of the others."""
        recent = {identity: place for place, identity in enumerate(reversed(self._proven))}
        proven = sorted((key for key in keys if key.identity in recent), key=lambda key: recent[key.identity])
        others = [key for key in keys if key.identity not in recent]
        random.shuffle(others)  # where not all are tried, the next token tries others: each key has its chance
        if self._budget > 0:
            return _first([*proven, *others], max(MAX_COST, len(keys)))
        return [*_first(proven, _MAX_PROVEN), *_first(others, MAX_FREE)]

    def _prove(self, key: Key) -> None:
        self._proven.pop(key.identity, None)
        self._proven[key.identity] = None
        if len(self._proven) > _MAX_PROVEN:
            del self._proven[next(iter(self._proven))]

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self._refilled_at)  # less than 0 if the clock was set back
        self._budget = min(MAX_BUDGET, self._budget + REFILL * elapsed)
        self._refilled_at = now


def _cost(keys: Iterable[Key]) -> float:
    return sum(key.cost for key in keys)


def _first(keys: Sequence[Key], max_cost: float) -> Sequence[Key]:
    """The first keys that together cost at most this, and at least one."""
    costs = itertools.accumulate(key.cost for key in keys)
    return keys[: max(1, sum(cost <= max_cost for cost in costs))]
