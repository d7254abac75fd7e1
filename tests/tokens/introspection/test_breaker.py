"""The circuit breaker opens only by a failed probe, and any response closes it."""

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

TOLERANCE = 1e-6  # of sums of times
MAX_WAIT = 1.0


def permit(breaker: CircuitBreaker, now: float, *, proven: bool = False, max_wait: float = 0.0) -> Permit:
    granted = breaker.permit(now, proven=proven, max_wait=max_wait)
    assert granted is not None
    return granted


def probe(breaker: CircuitBreaker, now: float) -> Permit:
    granted = breaker.permit_probe(now)
    assert granted is not None
    return granted


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
    assert breaker.permit_probe(later) is None  # no request takes part
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


@pytest.mark.parametrize("responder", ["probe", "proven", "other"])
def test_any_response_closes_the_breaker(responder: str) -> None:
    breaker = opened()
    later = breaker.wait(0)
    calls = {"proven": permit(breaker, later, proven=True), "other": permit(breaker, later, proven=False)}
    probing = probe(breaker, later)
    if responder == "probe":
        breaker.record_probe(probing, later, responded=True)
    else:
        breaker.record_response(calls[responder])
    assert breaker.state(later) is BreakerState.CLOSED
    assert not any(map(breaker.is_valid, calls.values()))  # their results change nothing any more
    if responder != "probe":
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


@pytest.mark.parametrize("responded", [True, False])
def test_a_result_from_an_earlier_state_changes_nothing(responded: bool) -> None:  # noqa: FBT001
    breaker = CircuitBreaker()
    early = permit(breaker, 0)
    fail(breaker, 0)
    breaker.record_probe(probe(breaker, 0), 0, responded=False)
    assert not breaker.is_valid(early)
    now = breaker.wait(0)
    breaker.record_response(early) if responded else breaker.record_failure(early, b"late", urgent=True)
    assert breaker.state(now) is BreakerState.HALF_OPEN
    permit(breaker, now)
    breaker.record_probe(probe(breaker, now), now, responded=True)
    assert breaker.state(now) is BreakerState.CLOSED


class StateMachine(RuleBasedStateMachine):
    """The breaker opens by a failed probe only, and always permits another attempt in time."""

    @initialize()
    def begin(self) -> None:
        self.breaker = CircuitBreaker()
        self.now = 0.0
        self.permits: list[Permit] = []
        self.probing: Permit | None = None

    def assert_unchanged_or_closed(self, before: BreakerState) -> None:
        assert self.breaker.state(self.now) in {before, BreakerState.CLOSED}

    @rule(proven=st.booleans(), max_wait=st.sampled_from([0.0, 0.1, 1.0]))
    def request(self, *, proven: bool, max_wait: float) -> None:
        state, wait = self.breaker.state(self.now), self.breaker.wait(self.now)
        granted = self.breaker.permit(self.now, proven=proven, max_wait=max_wait)
        if state is BreakerState.OPEN and wait > max_wait:
            assert granted is None
        if state is BreakerState.CLOSED:
            assert granted is not None
        if granted is not None:
            assert self.breaker.is_valid(granted)
            assert granted.at == self.now + wait
            self.permits.append(granted)

    @precondition(lambda self: self.permits)
    @rule(which=st.integers(0, 100), succeeds=st.booleans(), urgent=st.booleans(), token=st.binary(max_size=1))
    def result(self, which: int, *, succeeds: bool, urgent: bool, token: bytes) -> None:
        granted = self.permits.pop(which % len(self.permits))
        was_valid, before = self.breaker.is_valid(granted), self.breaker.state(self.now)
        if succeeds:
            self.breaker.record_response(granted)
        else:
            self.breaker.record_failure(granted, token, urgent=urgent)
        self.assert_unchanged_or_closed(before)
        if not was_valid or not succeeds:
            assert self.breaker.state(self.now) is before

    @rule()
    def probe(self) -> None:
        granted = self.breaker.permit_probe(self.now)
        if granted is not None:
            assert self.probing is None
            assert self.breaker.state(self.now) is not BreakerState.OPEN
            self.probing = granted

    @precondition(lambda self: self.probing)
    @rule(responded=st.booleans())
    def end_of_probe(self, *, responded: bool) -> None:
        granted, self.probing = self.probing, None
        assert granted is not None
        was_valid, before = self.breaker.is_valid(granted), self.breaker.state(self.now)
        self.breaker.record_probe(granted, self.now, responded=responded)
        if not was_valid:
            assert self.breaker.state(self.now) is before
        if was_valid and responded:
            assert self.breaker.state(self.now) is BreakerState.CLOSED

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def permits_another_attempt(self) -> None:
        assert 0.0 <= self.breaker.wait(self.now) <= 1.1 * MAX_BACKOFF + TOLERANCE
        assert len(self.breaker._failed_tokens) <= FAILURES_TO_PROBE
        then = self.now + self.breaker.wait(self.now) + TOLERANCE
        assert self.breaker.state(then) is not BreakerState.OPEN


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = settings(max_examples=100, stateful_step_count=40)
