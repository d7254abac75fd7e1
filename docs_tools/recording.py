"""The output of `make demo ONCE=1` on a terminal, as a picture.

It is the output of a real run, which is the same every time.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "demo.svg"
COLUMNS = 84  # of which the table without challenges needs 83
_PROMPT = "\x1b[2m$ \x1b[0m\x1b[1mmake demo ONCE=1\x1b[0m"
_CHARACTER, _LINE, _PAD, _BAR = (
    8.4,
    19,
    20,
    34,
)  # pixels: a character's width, a line, the margin, the window's title bar
_CLASSES = {"0": "", "1": "strong", "2": "dim", "31": "bad", "32": "good", "33": "caution"}  # as authz_service.terminal
_STYLE = (
    "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace;fill:#e7ecf1}"
    ".strong{font-weight:bold}.dim{fill:#93a0ae}.bad{fill:#f0937d}.good{fill:#5fd0bd}.caution{fill:#e8c36a}"
)


def output() -> str:
    """What the demo prints on a terminal of this width, with the codes of its colors."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    demo = subprocess.Popen(
        [sys.executable, "-m", "authz_service", "demo", "--once"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment | {"COLUMNS": str(COLUMNS), "TERM": "xterm"},
    )
    os.close(theirs)
    printed = _read(ours)
    _, errors = demo.communicate()
    if demo.returncode:
        raise RuntimeError(f"the demo failed: {printed}{errors.decode()}")
    return printed


def _read(terminal: int) -> str:
    """Everything until the program's end."""
    chunks = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        try:
            while chunk := stream.read(65536):
                chunks.append(chunk)
        except OSError:  # EIO: on Linux, how a terminal whose program has ended reports it
            pass
    return b"".join(chunks).decode().replace("\r\n", "\n")


def svg(printed: str) -> str:
    """A terminal's window with the command and its output; dark on a light page as well, as terminals are."""
    lines = [_PROMPT, *printed.rstrip("\n").split("\n")]
    width, height = round(COLUMNS * _CHARACTER) + 2 * _PAD, _BAR + len(lines) * _LINE + _PAD
    dots = "".join(f'<circle cx="{_PAD + 20 * each}" cy="18" r="6" fill="#3a434d"/>' for each in range(3))
    rows = [row for number, line in enumerate(lines) for row in _runs(line, _BAR + (number + 1) * _LINE - 5)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    window = f'<rect width="{width}" height="{height}" rx="10" fill="#14181d"/>{dots}'
    note = "<!-- What `make demo ONCE=1` prints, recorded by `make pictures` -->"
    return "\n".join([note, head, f"<style>{_STYLE}</style>", window, *rows, "</svg>", ""])


def _runs(line: str, y: int) -> list[str]:
    """The cells of a line. Each is as long as its characters, whatever font the reader has."""
    parts, runs, column = re.split(r"\x1b\[(\d+)m", line), [], 0
    for code, text in zip(["0", *parts[1::2]], parts[::2], strict=True):
        kind = f' class="{_CLASSES[code]}"' if _CLASSES[code] else ""
        for cell in re.finditer(r"\S+(?: \S+)*", text):
            x, length = _PAD + (column + cell.start()) * _CHARACTER, len(cell[0]) * _CHARACTER
            runs.append(f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}"{kind}>{escape(cell[0])}</text>')
        column += len(text)
    return runs
