"""A nonce is accepted for its lifetime by every process that has the key, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import base64url
from authz_service.tokens.proof.nonce import Nonces

KEY, OTHER, THIRD = b"k" * 32, b"o" * 32, b"t" * 48
NOW, LIFETIME = 1_800_000_000.0, 300.0
TIMES = st.floats(1e9, 1e11, allow_nan=False)


@given(TIMES, st.floats(0, LIFETIME - 0.01))
def test_the_age_is_that_since_it_was_issued(at: float, age: float) -> None:
    issuer, other_process = Nonces(KEY, LIFETIME), Nonces(KEY, LIFETIME)
    found = other_process.age(issuer.issue(at), at + age)
    assert found == pytest.approx(age, abs=0.002)


@pytest.mark.parametrize(("age", "accepted"), [(299.9, True), (300, False), (1e6, False), (-4.9, True), (-5.1, False)])
def test_it_is_accepted_for_its_lifetime_and_from_a_clock_slightly_ahead(age: float, *, accepted: bool) -> None:
    nonces = Nonces(KEY, LIFETIME)
    found = nonces.age(nonces.issue(NOW), NOW + age)
    assert (found is not None) == accepted
    assert found is None or found >= 0


@given(st.integers(0, 23), st.integers(1, 255))
def test_any_other_octet_is_refused(place: int, difference: int) -> None:
    nonces = Nonces(KEY, LIFETIME)
    octets = bytearray(base64url.decode(nonces.issue(NOW)))
    octets[place] ^= difference
    assert nonces.age(base64url.encode(bytes(octets)), NOW) is None


@given(st.text(max_size=40) | st.binary(min_size=24, max_size=24).map(base64url.encode))
def test_what_was_not_issued_is_refused(nonce: str) -> None:
    assert Nonces(KEY, LIFETIME).age(nonce, NOW) is None


def test_another_spelling_is_refused() -> None:
    nonces = Nonces(KEY, LIFETIME)
    nonce = nonces.issue(NOW)
    for other in (nonce + "=", nonce + "A", nonce[:-1], f" {nonce}", nonce.swapcase()):
        assert nonces.age(other, NOW) is None


def test_it_has_only_characters_that_a_header_and_a_nonce_may_have() -> None:
    nonces = {Nonces(KEY, LIFETIME).issue(NOW + each / 1000) for each in range(500)}
    assert len(nonces) == 500  # no two alike
    assert all(
        len(each) == 32 and each.isascii() and each.replace("-", "").replace("_", "").isalnum() for each in nonces
    )


def test_that_of_another_key_is_refused() -> None:
    assert Nonces(KEY, LIFETIME).age(Nonces(OTHER, LIFETIME).issue(NOW), NOW) is None


def test_a_replaced_key_is_accepted_for_one_lifetime() -> None:
    old = Nonces(KEY, LIFETIME)
    new = old.replaced_by(OTHER, LIFETIME, NOW)
    assert new.age(old.issue(NOW - 100), NOW) == 100
    assert new.age(old.issue(NOW), NOW + 299) == 299
    assert new.age(old.issue(NOW + 200), NOW + 299.9) is not None
    assert new.age(old.issue(NOW + 200), NOW + 300) is None  # by a process that still has the old key
    assert new.age(new.issue(NOW), NOW) == 0
    assert old.age(new.issue(NOW), NOW) is None


def test_keys_that_are_replaced_quickly_are_all_accepted_for_their_time() -> None:
    first = Nonces(KEY, LIFETIME)
    third = first.replaced_by(OTHER, LIFETIME, NOW).replaced_by(THIRD, LIFETIME, NOW + 100)
    for key in (KEY, OTHER, THIRD):
        assert third.age(Nonces(key, LIFETIME).issue(NOW + 100), NOW + 200) is not None
    assert third.age(Nonces(KEY, LIFETIME).issue(NOW + 200), NOW + 300) is None
    assert third.age(Nonces(OTHER, LIFETIME).issue(NOW + 200), NOW + 300) is not None


def test_a_key_that_returns_is_current_again() -> None:
    first = Nonces(KEY, LIFETIME)
    again = first.replaced_by(OTHER, LIFETIME, NOW).replaced_by(KEY, LIFETIME, NOW + 1)
    assert again.age(first.issue(NOW + 1000), NOW + 1001) == 1
    assert again.age(Nonces(OTHER, LIFETIME).issue(NOW), NOW + 200) == 200


def test_keys_that_have_expired_are_dropped() -> None:
    nonces = Nonces(KEY, LIFETIME)
    for time in range(1000):
        nonces = nonces.replaced_by(bytes([time % 251]) * 32, LIFETIME, NOW + 400 * time)
    assert len(nonces._previous) == 1


def test_the_same_key_and_lifetime_change_nothing() -> None:
    nonces = Nonces(KEY, LIFETIME)
    assert nonces.replaced_by(KEY, LIFETIME, NOW) is nonces


def test_a_shorter_lifetime_applies_at_once() -> None:
    old = Nonces(KEY, LIFETIME)
    new = old.replaced_by(KEY, 60.0, NOW)
    assert new.age(old.issue(NOW - 59), NOW) == 59
    assert new.age(old.issue(NOW - 60), NOW) is None
