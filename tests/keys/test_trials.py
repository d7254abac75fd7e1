"""Among many keys, the right one is found, and forged tokens cost a bounded number of verifications."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from authz_service.keys import jwk
from authz_service.keys.trials import EXHAUSTED, MAX_BUDGET, MAX_FREE, REFILL, KeyTrials
from support.signing import Signer

NOW = 1_800_000_000.0
KEYS = 100


@dataclass
class CountingKey:
    """Verifies the signature that is its name, and counts how often it was tried."""

    name: str
    algorithms: frozenset[str] = frozenset({"ES256"})
    cost: float = 1.0
    tried: int = field(default=0, compare=False)

    @property
    def identity(self) -> tuple[None, bytes]:
        return None, self.name.encode()

    def verifies(self, _algorithm: str, _signing_input: bytes, signature: bytes) -> bool:
        self.tried += 1
        return signature == self.name.encode()


class Searches:
    """Searches among keys that count."""

    def __init__(self, count: int = KEYS, cost: float = 1.0) -> None:
        self.keys = [CountingKey(str(number), cost=cost) for number in range(count)]
        self.trials = KeyTrials()

    def search(self, signature: str, now: float = NOW, algorithm: str = "ES256") -> Any:
        keys: Any = self.keys
        return self.trials.verifying_key(keys, algorithm, b"a.b", signature.encode(), now)

    def cost(self, signature: str, now: float = NOW) -> int:
        before = sum(key.tried for key in self.keys)
        self.search(signature, now)
        return sum(key.tried for key in self.keys) - before

    def exhaust(self, now: float = NOW) -> None:
        while self.search("forged", now) is None:
            pass


def test_every_key_is_found_without_forged_tokens_however_many_there_are() -> None:
    searches = Searches()
    for _ in range(10):
        for key in searches.keys:
            assert searches.search(key.name) is key


def test_no_key_verifies_a_forged_token() -> None:
    assert Searches().search("forged") is None
    assert Searches(MAX_FREE).search("forged") is None
    assert Searches(0).search("forged") is None


def test_a_few_keys_need_no_budget() -> None:
    searches = Searches(MAX_FREE)
    for _ in range(10_000):
        assert searches.search("forged") is None
    assert searches.search("7") is searches.keys[7]


def test_a_key_that_verified_is_tried_first() -> None:
    searches = Searches()
    searches.search("99")
    searches.search("50")
    assert searches.cost("50") == 1
    assert searches.cost("99") == 2
    assert searches.cost("50") == 2


def test_forged_tokens_cost_a_bounded_number_of_verifications() -> None:
    searches = Searches()
    total = sum(searches.cost("forged") for _ in range(1000))
    assert total <= MAX_BUDGET + KEYS + 1000 * MAX_FREE
    assert searches.cost("forged") == MAX_FREE
    assert searches.search("forged") is EXHAUSTED


def test_a_key_that_verified_is_found_without_budget() -> None:
    searches = Searches()
    searches.search("99")
    searches.exhaust()
    assert searches.search("99") is searches.keys[99]


def test_without_budget_another_key_is_found_after_some_attempts_and_never_called_forged() -> None:
    searches = Searches()
    searches.exhaust()
    found = [searches.search("99") for _ in range(1000)]
    assert {id(each) for each in found} <= {id(EXHAUSTED), id(searches.keys[99])}
    first = found.index(searches.keys[99])
    assert all(each is searches.keys[99] for each in found[first:])


def test_the_budget_refills_with_time_and_not_when_the_clock_is_set_back() -> None:
    searches = Searches()
    searches.exhaust()
    assert searches.search("forged", NOW - 3600) is EXHAUSTED
    assert searches.search("forged", NOW - 3600 + KEYS / REFILL) is None
    searches.exhaust(NOW)
    assert searches.search("forged", NOW + 1e9) is None


def test_the_keys_that_are_always_tried_are_bounded() -> None:
    searches = Searches()
    for key in searches.keys:
        searches.search(key.name)
    searches.exhaust()
    assert searches.cost("forged") <= 3 * MAX_FREE


def test_keys_for_another_algorithm_are_not_tried() -> None:
    searches = Searches()
    for key in searches.keys[:95]:
        key.algorithms = frozenset({"RS256"})
    assert searches.search("0") is None
    assert searches.search("97") is searches.keys[97]
    assert sum(key.tried for key in searches.keys[:95]) == 0


def test_the_budget_refills_as_fast_after_any_number_of_forged_tokens() -> None:
    searches = Searches()
    for key in searches.keys[:12]:  # few enough that all are tried without budget
        key.algorithms = frozenset({"RS256"})
    for key in searches.keys[:8]:
        assert searches.search(key.name, algorithm="RS256") is key
    for _ in range(10_000):
        searches.search("forged", algorithm="RS256")
    assert searches.search("99", NOW + KEYS / REFILL) is searches.keys[99]


def test_keys_that_take_longer_count_for_as_many() -> None:
    heavy = 16.0
    few, many = Searches(2, heavy), Searches(KEYS, heavy)
    for searches in (few, many):
        assert searches.cost("forged") * heavy <= MAX_BUDGET
        searches.search(searches.keys[1].name)
        for _ in range(100):
            searches.search("forged")
        assert searches.cost("forged") <= 2
    assert few.search("0", NOW + 60) is few.keys[0]
    assert Searches(1, heavy).search("forged") is None


def test_a_key_that_takes_longer_is_found_after_some_attempts() -> None:
    searches = Searches(KEYS, 16.0)
    searches.exhaust()
    assert any(searches.search("99") is searches.keys[99] for _ in range(1000))


def test_the_cost_of_a_key_is_that_of_its_size() -> None:
    assert [jwk.parse(Signer(algorithm).jwk()).cost for algorithm in ("RS256", "ES256", "EdDSA")] == [1.0, 1.0, 1.0]
    modulus = base64.urlsafe_b64encode(b"\xff" * 2048).decode()
    assert jwk.parse({"kty": "RSA", "n": modulus, "e": "AQAB"}).cost == 16.0
