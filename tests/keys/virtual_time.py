"""An event loop whose clock jumps to the next timer instead of waiting for it: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Story = ParamSpec("Story")


class _ImpatientSelector(selectors.DefaultSelector):
    """Where it would wait, it moves the time on."""

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
    """Serves tasks and timers; nothing outside the process."""

    def __init__(self) -> None:
        self._clock = _ImpatientSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    @property
    def turns(self) -> int:
        """How often it has looked for what is to be done."""
        return self._clock.turns


def in_virtual_time(story: Callable[Story, Coroutine[Any, Any, None]]) -> Callable[Story, None]:
    """Run an async test so. It fails when the test leaves a task behind, or an error that nobody took."""

    @functools.wraps(story)
    def run(*args: Story.args, **kwargs: Story.kwargs) -> None:
        unheard: list[dict[str, Any]] = []

        async def told_to_the_end() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
            await story(*args, **kwargs)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(told_to_the_end())
        assert unheard == []

    return run
