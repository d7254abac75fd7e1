"""A token with invalid claims is decided as one that is seen for the first time, without being verified again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.core.errors import Rejected
from authz_service.tokens.attempt import LAST
from authz_service.tokens.jwt import jws
from support.trust import ED, ES, NOW, RS, LocalValidator, claims, good

EXPIRED = good(exp=NOW - 3600)


def outcome(local: LocalValidator, token: str, now: float) -> tuple[Any, ...]:
    """The reason, the cause and the identity of a rejection; or the claims."""
    try:
        return ("ok", local.validator.validate(token, now, None, LAST))
    except Rejected as rejected:
        return rejected.reason, rejected.cause, rejected.identity


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The tokens whose signature was verified."""
    tokens: list[object] = []
    verifying_key = jws.verifying_key

    def recorded(*arguments: Any) -> Any:
        tokens.append(arguments[0])
        return verifying_key(*arguments)

    monkeypatch.setattr(jws, "verifying_key", recorded)
    return tokens


def test_the_signature_of_a_repeated_expired_token_is_verified_once(verified: list[object]) -> None:
    local = LocalValidator()
    assert {outcome(local, EXPIRED, NOW + second)[0] for second in range(20)} == {"expired"}
    assert len(verified) == 1
    assert (len(local.cache), len(local.cache.invalid)) == (0, 1)


TIMES = st.none() | st.integers(NOW - 400, NOW + 400)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("exp", "nbf", "iat"), TIMES),
            "aud": st.sampled_from([None, "api", 7]),
            "sub": st.sampled_from([None, "bob", "a\nb", 7, "x" * 300]),
            "nonce": st.just("an ID token"),
            "cnf": st.sampled_from([{"jkt": "?"}, {"kid": "k"}, 1]),
            "client_id": st.sampled_from([None, "", 7]),
        },
    ),
    st.sampled_from([{}, {"max_token_age": "2m"}, {"leeway": "0s"}]),
    st.lists(st.integers(-600, 600), max_size=6),
)
@example({"nbf": NOW + 100, "exp": NOW + 200, "cnf": 1}, {}, [0, 150, 400, 150, 0])
@example({"nbf": NOW + 100, "exp": NOW + 200}, {}, [0, 150, 400, 150, 0])
def test_an_invalid_token_is_decided_at_any_time_as_if_it_had_not_been_seen_before(
    changes: dict[str, Any], settings: dict[str, Any], times: list[int]
) -> None:
    token = ED.sign(claims(**changes))
    local, fresh = LocalValidator(**settings), LocalValidator(**settings)
    for now in times:
        fresh.cache.clear()
        local.cache._entries.clear()  # a valid token is found there, and not validated again
        assert outcome(local, token, NOW + now) == outcome(fresh, token, NOW + now)


def test_a_token_that_becomes_valid_is_accepted_and_cached_as_such() -> None:
    local = LocalValidator()
    token = good(nbf=NOW + 100)
    assert local.reason(token) == "not_yet_valid"
    found = local.claims(token, NOW + 100)
    assert local.claims(token, NOW + 101) is found


def test_a_token_whose_key_was_withdrawn_has_no_key_whatever_its_claims() -> None:
    local = LocalValidator()
    assert local.reason(EXPIRED) == "expired"
    local.publish(ES.jwk(), RS.jwk())
    local.refresh()
    assert local.reason(EXPIRED) == "expired"
    local.publish(ES.jwk())
    local.refresh()
    assert local.reason(EXPIRED) == "unknown_key"


def test_an_invalid_token_is_verified_again_after_max_ttl(verified: list[object]) -> None:
    local = LocalValidator()
    for second in (0, 299, 300, 301):
        assert local.reason(EXPIRED, NOW + second) == "expired"
    assert len(verified) == 2


def test_forged_tokens_do_not_enter_and_expired_ones_evict_no_valid_one() -> None:
    local = LocalValidator(max_entries=3)
    first = local.claims(good())
    tokens = [good(exp=NOW - 60 - number) for number in range(5)]
    assert {local.reason(token) for token in tokens} == {"expired"}
    assert len(local.cache.invalid) == 3
    assert all(local.reason(f"{EXPIRED}{number:02}") != "expired" for number in range(5))
    assert len(local.cache.invalid) == 3
    assert local.claims(good()) is first


def test_cached_invalid_tokens_are_bounded_in_bytes() -> None:
    local = LocalValidator(max_bytes=20_000)
    for number in range(50):
        assert local.reason(ED.sign(claims(exp=NOW - 60 - number, text="x" * 1000))) == "expired"
    assert 0 < len(local.cache.invalid) < 20


def test_without_a_token_cache_each_token_is_verified(verified: list[object]) -> None:
    local = LocalValidator(max_entries=0)
    assert {local.reason(EXPIRED) for _ in range(3)} == {"expired"}
    assert len(verified) == 3
