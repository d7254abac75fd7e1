"""A server that fails is left alone for a while, and tried with one call."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz_service.tokens.breaker import (
    FAILURES_TO_OPEN,
    FIRST_REST,
    LONGEST_REST,
    LONGEST_WISH,
    Breaker,
    State,
    whole_seconds,
)

A_LITTLE = 1e-6  # what sums of times are off


def permit(breaker: Breaker, now: float) -> int:
    given = breaker.permit(now)
    assert given is not None
    return given


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(permit(breaker, now), now)
    return breaker


def test_it_opens_after_that_many_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(permit(breaker, 0), 0)
    assert breaker.state(0) is State.CLOSED
    breaker.succeeded(permit(breaker, 0))
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.state(0) is State.CLOSED
        breaker.failed(permit(breaker, 0), 0)
    assert breaker.state(0) is State.OPEN
    assert breaker.permit(0) is None


def test_after_a_rest_one_call_may_try_and_no_second_one() -> None:
    breaker = opened()
    later = breaker.wait(0)
    assert 0.9 * FIRST_REST <= later <= 1.1 * FIRST_REST
    assert breaker.permit(later - 0.001) is None
    assert breaker.state(later) is State.HALF_OPEN
    permit(breaker, later)
    assert breaker.permit(later) is None
    assert breaker.permit(later + 1000) is None


def test_a_probe_that_succeeds_closes_it_for_all() -> None:
    breaker = opened()
    later = breaker.wait(0)
    breaker.succeeded(permit(breaker, later))
    assert breaker.state(later) is State.CLOSED
    assert [breaker.permit(later) is not None for _ in range(3)] == [True] * 3
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(permit(breaker, later), later)
    assert breaker.state(later) is State.CLOSED


def test_with_each_probe_that_fails_the_rest_doubles_up_to_the_longest() -> None:
    breaker, now = opened(), 0.0
    expected = FIRST_REST
    for _ in range(12):
        rest = breaker.wait(now)
        assert 0.9 * expected <= rest <= 1.1 * expected
        now += rest
        breaker.failed(permit(breaker, now), now)
        expected = min(expected * 2, LONGEST_REST)
    breaker.succeeded(permit(breaker, now + breaker.wait(now)))
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(permit(breaker, now), now)
    assert breaker.wait(now) <= 1.1 * FIRST_REST


def test_the_failures_of_a_crowd_are_one_failure() -> None:
    breaker = Breaker()
    crowd = [permit(breaker, 0) for _ in range(64)]
    for each in crowd:
        breaker.failed(each, 0)
    assert breaker.wait(0) <= 1.1 * FIRST_REST


@pytest.mark.parametrize("late_success", [True, False])
def test_what_was_begun_before_it_opened_changes_nothing_when_it_ends(late_success: bool) -> None:  # noqa: FBT001
    breaker = Breaker()
    early = permit(breaker, 0)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(permit(breaker, 0), 0)
    assert not breaker.holds(early)
    now = breaker.wait(0)
    probe = permit(breaker, now)
    breaker.succeeded(early) if late_success else breaker.failed(early, now)
    assert breaker.state(now) is State.HALF_OPEN
    assert breaker.permit(now) is None
    breaker.succeeded(probe)
    assert breaker.state(now) is State.CLOSED


@pytest.mark.parametrize(("wish", "rest"), [(7.0, 7.0), (86_400.0, LONGEST_WISH), (1e12, LONGEST_WISH)])
def test_a_server_that_asks_to_be_left_alone_is_left_alone_at_once_within_bounds(wish: float, rest: float) -> None:
    breaker = Breaker()
    breaker.failed(permit(breaker, 0), 0, wish)
    assert breaker.state(0) is State.OPEN
    assert breaker.wait(0) == rest
    breaker.succeeded(permit(breaker, rest))
    assert breaker.state(rest) is State.CLOSED


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (300.0, 300)])
def test_a_time_to_wait_is_told_in_whole_seconds_and_is_never_nothing(wait: float, seconds: int) -> None:
    assert whole_seconds(wait) == seconds


class Story(RuleBasedStateMachine):
    """Whatever calls do, an open breaker lets none through, a half-open one lets one, and it always comes back."""

    @initialize()
    def begin(self) -> None:
        self.breaker = Breaker()
        self.now = 0.0
        self.out: list[int] = []

    @rule()
    def call(self) -> None:
        state = self.breaker.state(self.now)
        given = self.breaker.permit(self.now)
        if state is State.OPEN:
            assert given is None
        if state is State.CLOSED:
            assert given is not None
        if given is not None:
            assert self.breaker.holds(given)
            self.out.append(given)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 100), succeeds=st.booleans(), wish=st.sampled_from([0.0, 0.0, 3.0, 1e6]))
    def answer(self, which: int, *, succeeds: bool, wish: float) -> None:
        given = self.out.pop(which % len(self.out))
        held, before = self.breaker.holds(given), self.breaker.state(self.now)
        if succeeds:
            self.breaker.succeeded(given)
        else:
            self.breaker.failed(given, self.now, wish)
        if not held:
            assert self.breaker.state(self.now) is before

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def comes_back(self) -> None:
        assert 0.0 <= self.breaker.wait(self.now) <= LONGEST_WISH + A_LITTLE
        if not any(map(self.breaker.holds, self.out)):  # no probe is out
            then = self.now + self.breaker.wait(self.now) + A_LITTLE
            assert self.breaker.state(then) is not State.OPEN


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=100, stateful_step_count=40)
