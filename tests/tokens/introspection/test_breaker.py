"""What callers' tokens cause opens no breaker; what a probe meets does, and any answer closes it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz_service.tokens.introspection.breaker import (
    FAILURES_TO_PROBE,
    INITIAL_BACKOFF,
    MAX_BACKOFF,
    PROBE_INTERVAL,
    BreakerState,
    CircuitBreaker,
    Permit,
)

A_LITTLE = 1e-6  # what sums of times are off
MAX_WAIT = 1.0


def permit(breaker: CircuitBreaker, now: float, *, proven: bool = False, max_wait: float = 0.0) -> Permit:
    given = breaker.permit(now, proven=proven, max_wait=max_wait)
    assert given is not None
    return given


def probe(breaker: CircuitBreaker, now: float) -> Permit:
    given = breaker.permit_probe(now)
    assert given is not None
    return given


def fail(breaker: CircuitBreaker, now: float, tokens: int = FAILURES_TO_PROBE) -> None:
    for number in range(tokens):
        breaker.record_failure(permit(breaker, now), bytes([number]), urgent=False)


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    fail(breaker, now)
    breaker.record_probe(probe(breaker, now), now, responded=False)
    assert breaker.state(now) is BreakerState.OPEN
    return breaker


def test_a_probe_is_due_after_enough_different_tokens_in_a_row() -> None:
    breaker = CircuitBreaker()
    fail(breaker, 0, FAILURES_TO_PROBE - 1)
    assert breaker.permit_probe(0) is None
    breaker.record_response(permit(breaker, 0))
    fail(breaker, 0, FAILURES_TO_PROBE - 1)
    assert breaker.permit_probe(0) is None
    breaker.record_failure(permit(breaker, 0), b"one more", urgent=False)
    probe(breaker, 0)


def test_one_token_that_fails_again_and_again_causes_no_probe() -> None:
    breaker = CircuitBreaker()
    for _ in range(100):
        breaker.record_failure(permit(breaker, 0), b"the same", urgent=False)
    assert breaker.permit_probe(0) is None


def test_an_urgent_failure_causes_a_probe_at_once() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(permit(breaker, 0), b"a", urgent=True)
    probe(breaker, 0)


def test_callers_tokens_open_nothing_while_probes_get_responses() -> None:
    breaker, now = CircuitBreaker(), 0.0
    for _ in range(100):
        fail(breaker, now)
        breaker.record_probe(probe(breaker, now), now, responded=True)
        assert breaker.state(now) is BreakerState.CLOSED
        now += PROBE_INTERVAL


def test_there_is_one_probe_at_a_time_and_one_per_interval() -> None:
    breaker = CircuitBreaker()
    fail(breaker, 0)
    first = probe(breaker, 0)
    fail(breaker, 5)
    assert breaker.permit_probe(5) is None
    breaker.record_probe(first, 5, responded=True)
    fail(breaker, 5)
    probe(breaker, 5)
    breaker = CircuitBreaker()
    fail(breaker, 0)
    breaker.record_probe(probe(breaker, 0), 0, responded=True)
    fail(breaker, 0)
    assert breaker.permit_probe(PROBE_INTERVAL - 0.1) is None
    probe(breaker, PROBE_INTERVAL)


def test_a_failed_probe_opens_the_breaker() -> None:
    breaker = opened()
    assert 0.9 * INITIAL_BACKOFF <= breaker.wait(0) <= 1.1 * INITIAL_BACKOFF
    assert breaker.permit(0, proven=False, max_wait=0) is None
    assert breaker.permit(0, proven=True, max_wait=0) is None
    assert breaker.permit_probe(0) is None


def test_a_failed_probe_opens_nothing_if_a_request_got_a_response_meanwhile() -> None:
    breaker = CircuitBreaker()
    fail(breaker, 0)
    probing = probe(breaker, 0)
    breaker.record_response(permit(breaker, 0))
    breaker.record_probe(probing, 0, responded=False)
    assert breaker.state(0) is BreakerState.CLOSED


def test_an_attempt_is_a_probe_and_one_request_of_each_kind() -> None:
    breaker = opened()
    later = breaker.wait(0)
    assert breaker.state(later) is BreakerState.HALF_OPEN
    assert breaker.permit_probe(later) is None  # nobody wants to know
    for proven in (False, True):
        permit(breaker, later, proven=proven)
        assert breaker.permit(later + 1000, proven=proven, max_wait=MAX_WAIT) is None
    probe(breaker, later)
    assert breaker.permit_probe(later) is None


def test_one_request_of_each_kind_may_wait_for_the_next_attempt() -> None:
    breaker = opened()
    wait = breaker.wait(0)
    assert breaker.permit(0, proven=False, max_wait=wait - 0.01) is None
    for proven in (False, True):
        assert permit(breaker, 0, proven=proven, max_wait=wait).at == wait
        assert breaker.permit(0, proven=proven, max_wait=wait) is None
    assert breaker.permit_probe(wait - 0.01) is None
    probe(breaker, wait)


@pytest.mark.parametrize("who", ["probe", "proven", "other"])
def test_any_response_closes_the_breaker(who: str) -> None:
    breaker = opened()
    later = breaker.wait(0)
    calls = {"proven": permit(breaker, later, proven=True), "other": permit(breaker, later, proven=False)}
    probing = probe(breaker, later)
    if who == "probe":
        breaker.record_probe(probing, later, responded=True)
    else:
        breaker.record_response(calls[who])
    assert breaker.state(later) is BreakerState.CLOSED
    assert not any(map(breaker.is_valid, calls.values()))  # what the others bring back changes nothing any more
    if who != "probe":
        breaker.record_probe(probing, later, responded=False)
        assert breaker.state(later) is BreakerState.CLOSED
    fail(breaker, later + PROBE_INTERVAL, FAILURES_TO_PROBE - 1)
    assert breaker.permit_probe(later + PROBE_INTERVAL) is None


def test_a_failed_request_does_not_end_an_attempt() -> None:
    breaker = opened()
    later = breaker.wait(0)
    breaker.record_failure(permit(breaker, later), b"hangs", urgent=True)
    probing = probe(breaker, later)
    assert breaker.state(later + 1) is BreakerState.HALF_OPEN
    breaker.record_probe(probing, later + 1, responded=True)
    assert breaker.state(later + 1) is BreakerState.CLOSED


def test_each_failed_attempt_doubles_the_pause_up_to_a_maximum() -> None:
    breaker, now = opened(), 0.0
    expected = INITIAL_BACKOFF
    for _ in range(12):
        pause = breaker.wait(now)
        assert 0.9 * expected <= pause <= 1.1 * expected
        now += pause
        permit(breaker, now)
        breaker.record_probe(probe(breaker, now), now, responded=False)
        expected = min(expected * 2, MAX_BACKOFF)
    now += breaker.wait(now)
    breaker.record_response(permit(breaker, now))
    now += PROBE_INTERVAL
    fail(breaker, now)
    breaker.record_probe(probe(breaker, now), now, responded=False)
    assert breaker.wait(now) <= 1.1 * INITIAL_BACKOFF


@pytest.mark.parametrize("answered", [True, False])
def test_a_result_from_an_earlier_state_changes_nothing(answered: bool) -> None:  # noqa: FBT001
    breaker = CircuitBreaker()
    early = permit(breaker, 0)
    fail(breaker, 0)
    breaker.record_probe(probe(breaker, 0), 0, responded=False)
    assert not breaker.is_valid(early)
    now = breaker.wait(0)
    breaker.record_response(early) if answered else breaker.record_failure(early, b"late", urgent=True)
    assert breaker.state(now) is BreakerState.HALF_OPEN
    permit(breaker, now)
    breaker.record_probe(probe(breaker, now), now, responded=True)
    assert breaker.state(now) is BreakerState.CLOSED


class Story(RuleBasedStateMachine):
    """Whatever calls do, it opens by a probe that fails and by nothing else, and it always comes back."""

    @initialize()
    def begin(self) -> None:
        self.breaker = CircuitBreaker()
        self.now = 0.0
        self.out: list[Permit] = []
        self.probing: Permit | None = None

    def unchanged_unless_closing(self, before: BreakerState) -> None:
        assert self.breaker.state(self.now) in {before, BreakerState.CLOSED}

    @rule(proven=st.booleans(), max_wait=st.sampled_from([0.0, 0.1, 1.0]))
    def call(self, *, proven: bool, max_wait: float) -> None:
        state, wait = self.breaker.state(self.now), self.breaker.wait(self.now)
        given = self.breaker.permit(self.now, proven=proven, max_wait=max_wait)
        if state is BreakerState.OPEN and wait > max_wait:
            assert given is None
        if state is BreakerState.CLOSED:
            assert given is not None
        if given is not None:
            assert self.breaker.is_valid(given)
            assert given.at == self.now + wait
            self.out.append(given)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 100), succeeds=st.booleans(), urgent=st.booleans(), token=st.binary(max_size=1))
    def answer(self, which: int, *, succeeds: bool, urgent: bool, token: bytes) -> None:
        given = self.out.pop(which % len(self.out))
        held, before = self.breaker.is_valid(given), self.breaker.state(self.now)
        if succeeds:
            self.breaker.record_response(given)
        else:
            self.breaker.record_failure(given, token, urgent=urgent)
        self.unchanged_unless_closing(before)
        if not held or not succeeds:
            assert self.breaker.state(self.now) is before

    @rule()
    def probe(self) -> None:
        given = self.breaker.permit_probe(self.now)
        if given is not None:
            assert self.probing is None
            assert self.breaker.state(self.now) is not BreakerState.OPEN
            self.probing = given

    @precondition(lambda self: self.probing)
    @rule(answered=st.booleans())
    def end_of_probe(self, *, answered: bool) -> None:
        given, self.probing = self.probing, None
        assert given is not None
        held, before = self.breaker.is_valid(given), self.breaker.state(self.now)
        self.breaker.record_probe(given, self.now, responded=answered)
        if not held:
            assert self.breaker.state(self.now) is before
        if held and answered:
            assert self.breaker.state(self.now) is BreakerState.CLOSED

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def comes_back(self) -> None:
        assert 0.0 <= self.breaker.wait(self.now) <= 1.1 * MAX_BACKOFF + A_LITTLE
        assert len(self.breaker._failed_tokens) <= FAILURES_TO_PROBE
        then = self.now + self.breaker.wait(self.now) + A_LITTLE
        assert self.breaker.state(then) is not BreakerState.OPEN


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=100, stateful_step_count=40)
