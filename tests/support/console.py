"""Commands in pages, and the output that a page shows for them."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from support.documents import Block

_END: Final = "end of the output"
_HANG_TIMEOUT = 120.0  # seconds; only commands that hang take this long


def commands(block: Block) -> list[str]:
    """The commands of a block, each on one line, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def expression(shown: str) -> str:
    """What is shown, as a regular expression: ``...`` is any lines, and ``…`` anything in a line."""
    lines = [
        "(?:.*\n)*?" if line.strip() == "..." else f"{'.*'.join(map(re.escape, line.split('…')))}\n"
        for line in shown.splitlines()
    ]
    return re.sub(r"(?:\\ )+", " +", "".join(lines))


def assert_shows(shown: str, printed: str) -> None:
    """The output is what a page shows; see ``expression``."""
    lines = printed + ("" if printed.endswith("\n") or not printed else "\n")
    difference = "\n".join(difflib.unified_diff(shown.splitlines(), lines.splitlines(), "page", "output", lineterm=""))
    assert re.fullmatch(expression(shown), lines), f"the output is not what the page shows:\n{difference}"


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """With our program, and this Python, before others."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "120", **variables}


def printed(script: str, folder: Path, *, given: str = "", may_fail: bool = False, **variables: str) -> str:
    """What a script prints on both streams, with ``given`` as its input. It succeeds, unless it may fail."""
    done = subprocess.run(
        ["/bin/sh", "-ec", script],
        cwd=folder,
        env=_environment(variables),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_HANG_TIMEOUT,
        check=False,
    )
    assert may_fail or done.returncode == 0, done.stdout
    return done.stdout


class Shell:
    """A shell in which commands run one after another, with variables, functions and jobs, as a reader would."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        (folder / ".curlrc").write_text("silent\n")  # as if its output was a terminal's, without a progress meter
        self._process = subprocess.Popen(
            ["/bin/bash", "--norc"],
            cwd=folder,
            env=_environment({"HOME": str(folder), **variables}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("kill $(jobs -p); wait")
        self._process.communicate("exit\n")

    def run(self, script: str) -> str:
        """What the commands print."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{script}\necho {_END}\n")
        self._process.stdin.flush()
        hanging = threading.Timer(_HANG_TIMEOUT, self._process.kill)
        hanging.start()
        output = ""
        while not output.endswith(f"{_END}\n"):
            line = self._process.stdout.readline()
            assert line, f"the shell ended: {script}\n{output}"
            output += line.replace("\r", "")
        hanging.cancel()
        return output.removesuffix(f"{_END}\n")

    def follow(self, block: Block) -> None:
        """Run the commands of a console block. They print what the block shows."""
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command = re.match(r"(?:.*\\\n)*.*\n", part)
            assert command is not None, part
            assert_shows(part.removeprefix(command[0]), self.run(command[0]))


@dataclass(frozen=True)
class Reader:
    """Runs commands in a shell, in a thread, because the application serves in this one."""

    shell: Shell

    async def run(self, command: str) -> str:
        return await asyncio.to_thread(self.shell.run, command)

    async def follow(self, block: Block) -> None:
        await asyncio.to_thread(self.shell.follow, block)


@contextmanager
def reader(folder: Path, **variables: str) -> Iterator[Reader]:
    """A shell in a new folder, with these variables."""
    (folder / "home").mkdir()
    with Shell(folder / "home", variables) as shell:
        yield Reader(shell)
