"""A token's responses are few, and the cache entry that holds the token pays for them."""

from __future__ import annotations

import pytest

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.response_cache import MAX_RULES, ResponseCache

OVERWRITE = (("x-auth-subject", "alice"),)


@pytest.fixture
def entries() -> BoundedMap[str, ResponseCache]:
    return BoundedMap(Bounds(10, 1 << 20))


@pytest.fixture
def responses(entries: BoundedMap[str, ResponseCache]) -> ResponseCache:
    cache = ResponseCache()
    entries.put("token", cache, 100)
    cache.charge_to(entries, "token")
    return cache


def test_a_response_is_found_by_its_rule_and_holds_what_was_added(responses: ResponseCache) -> None:
    added = responses.add("rule", OVERWRITE, ("cookie",))
    assert responses.get("rule") is added
    assert (added.overwrite, added.remove, added.attached) == (OVERWRITE, ("cookie",), None)
    assert responses.get("other") is None


def test_what_a_transport_attaches_stays_with_the_response(responses: ResponseCache) -> None:
    response = responses.add("rule", OVERWRITE, ())
    assert response.attach(b"encoded") == b"encoded"
    assert response.attached == b"encoded"


def test_responses_and_attachments_are_charged_to_the_entry_of_the_token(
    entries: BoundedMap[str, ResponseCache], responses: ResponseCache
) -> None:
    response = responses.add("rule", OVERWRITE, ())
    with_headers = entries.size("token")
    response.attach(b"x" * 1000)
    assert 100 < with_headers < with_headers + 1000 < entries.size("token")
    assert entries.size("token") == 100 + responses.charged


def test_beyond_the_number_of_rules_all_responses_are_dropped_and_refunded(
    entries: BoundedMap[str, ResponseCache], responses: ResponseCache
) -> None:
    responses.add("first", OVERWRITE, ())
    one = entries.size("token")
    for number in range(1, MAX_RULES):
        responses.add(number, OVERWRITE, ()).attach(b"x" * 1000)
    assert len(responses) == MAX_RULES
    responses.add("one more", OVERWRITE, ())
    assert len(responses) == 1
    assert responses.get("first") is None
    assert entries.size("token") == one


def test_the_responses_of_a_token_that_was_evicted_are_charged_to_no_entry(
    entries: BoundedMap[str, ResponseCache], responses: ResponseCache
) -> None:
    entries.discard("token")
    responses.add("rule", OVERWRITE, ()).attach(b"x")
    assert responses.get("rule") is not None
    assert entries.used_bytes == 0
