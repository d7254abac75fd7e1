"""The cache of answers is bounded in each of its two kinds, forgets in time, and holds one answer for a token."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.claims import Claims
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection import Answer
from authz_service.tokens.introspection_cache import AnswerCache

CLAIMS = Claims("main", "u", "c", frozenset(), frozenset(), "", {})
REFUSED = (Reason.INACTIVE, "a cause")


class Story(RuleBasedStateMachine):
    """Whatever is put in and looked up, an answer is only found while it is to be believed, and the last one counts."""

    @initialize(max_entries=st.integers(0, 3))
    def begin(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.cache = AnswerCache(max_entries)
        self.now = 100.0
        self.newest: dict[bytes, Answer] = {}

    @rule(token=st.integers(0, 5), seconds=st.sampled_from([-5, 0, 5, 50]), good=st.booleans(), active=st.booleans())
    def put(self, *, token: int, seconds: float, good: bool, active: bool) -> None:
        digest = bytes([token])
        answer = Answer(active or good, CLAIMS if good else REFUSED, self.now, self.now + seconds)
        self.cache.put(digest, answer)
        self.newest[digest] = answer
        assert self.cache.get(digest, self.now) is (answer if seconds > 0 and self.max_entries else None)

    @rule(token=st.integers(0, 5))
    def get(self, token: int) -> None:
        digest = bytes([token])
        before = len(self.cache)
        found = self.cache.get(digest, self.now)
        if found is not None:
            assert found is self.newest[digest]
            assert found.since <= self.now < found.until
        else:
            assert digest not in {*self.cache._active, *self.cache._others}  # what is not found takes no room
        assert before - len(self.cache) in {0, 1}

    @rule(seconds=st.sampled_from([-10, 1, 10, 60]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hand_over(self) -> None:
        newer = AnswerCache(self.max_entries)
        newer.fill(self.cache)
        assert (newer._active, newer._others) == (self.cache._active, self.cache._others)
        self.cache = newer

    @invariant()
    def is_bounded_in_each_kind(self) -> None:
        assert len(self.cache._active) <= self.max_entries
        assert len(self.cache._others) <= self.max_entries
        assert not self.cache._active.keys() & self.cache._others.keys()


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_smaller_cache_takes_over_what_was_put_in_last() -> None:
    older, newer = AnswerCache(5), AnswerCache(2)
    for number in range(5):
        older.put(bytes([number]), Answer(active=True, outcome=CLAIMS, since=0.0, until=9.0))
    newer.fill(older)
    assert [newer.get(bytes([number]), 1.0) is not None for number in range(5)] == [False, False, False, True, True]
