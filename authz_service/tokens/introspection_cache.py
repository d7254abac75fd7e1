"""What one introspection server said of tokens, for as long as it is to be believed.

Law: pure; bounded; keyed by a digest, so that no token is kept, in a cache for each server, so that what one says is
never taken for another's word. Acceptable tokens and others are bounded apart: a flood of rubbish displaces no session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz_service.tokens.introspection import Answer


class AnswerCache:
    """The answers of one server. The oldest of its kind makes way."""

    def __init__(self, max_entries: int) -> None:
        """``max_entries`` bounds the acceptable tokens, and as well the others."""
        self._max_entries = max_entries
        self._active: dict[bytes, Answer] = {}
        self._others: dict[bytes, Answer] = {}

    def __len__(self) -> int:
        return len(self._active) + len(self._others)

    def get(self, digest: bytes, now: float) -> Answer | None:
        """The answer, unless its time has passed, or has not come since the clock was set back."""
        answer = self._active.get(digest) or self._others.get(digest)
        if answer is None or answer.since <= now < answer.until:
            return answer
        self._forget(digest)
        return None

    def fill(self, older: AnswerCache) -> None:
        """Take over what another one holds, as far as there is room."""
        for answers in (older._others, older._active):
            for digest, answer in answers.items():
                self.put(digest, answer)

    def put(self, digest: bytes, answer: Answer) -> None:
        """Remember an answer until its end."""
        self._forget(digest)
        if self._max_entries == 0 or answer.until <= answer.since:
            return
        answers = self._others if isinstance(answer.outcome, tuple) else self._active
        if len(answers) >= self._max_entries:
            del answers[next(iter(answers))]
        answers[digest] = answer

    def _forget(self, digest: bytes) -> None:
        self._active.pop(digest, None)
        self._others.pop(digest, None)
