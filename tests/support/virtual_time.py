"""An event loop whose clock jumps to the next timer instead of waiting for it: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the time where another selector would block."""

    now = 0.0
    turns = 0  # of the loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the test waits for something that will never happen")
        self.turns += 1
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs tasks and timers only: it does not wait for threads, sockets or processes."""

    def __init__(self) -> None:
        self._selector = _JumpingSelector()
        super().__init__(self._selector)

    def time(self) -> float:
        return self._selector.now

    @property
    def turns(self) -> int:
        """How many iterations the loop has run."""
        return self._selector.turns


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time. It fails if the test leaves a task or an exception that was not retrieved."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        unretrieved: list[dict[str, Any]] = []

        async def run_to_the_end() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unretrieved.append(context))
            await test(*args, **kwargs)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(run_to_the_end())
        assert unretrieved == []

    return run
