"""Draws the pictures of the site: each source with D2, which Go builds, and the output of `make demo`.

An SVG contains the digest of its source, so that a test without Go finds one that is out of date. Each has both color
schemes: a browser selects one by the page's `color-scheme`, or else by that of the system.

    PYTHONPATH=tests python -m docs_tools.pictures      (make pictures)
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs_tools import recording
from support.go import built

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
STYLE = FOLDER / "style.d2"
D2 = "oss.terrastruct.com/d2@v0.7.2"
# Each color of the light mode that a picture uses, and its counterpart in the dark mode.
DARK = {
    "#0a0f25": "#e7ecf1",  # text
    "#ffffff": "#14181d",  # background
    "#f4f6f8": "#1f262e",  # a box
    "#6b7785": "#93a0ae",  # its border, and a line
    "#d6efe9": "#123f39",  # a box of ours
    "#00796b": "#5fd0bd",
    "#fdebe7": "#43201a",  # a failure
    "#b3412a": "#f0937d",
}
_THEMED = {"fill-N1": "#0a0f25", "fill-N7": "#ffffff"}  # what D2 colors by classes: text, and the background
_GENERIC = ("sans-serif", "monospace")  # where a page's policy forbids the font in the file
_SHAPES = ".shape,.connection{stroke-linejoin:round}.connection{stroke-linecap:round}"


def sources() -> list[Path]:
    """Every picture's source."""
    return sorted(set(FOLDER.glob("*.d2")) - {STYLE})


def digest(source: Path) -> str:
    """What the picture depends on: its source, the style, D2 and this file."""
    parts = (source.read_bytes(), STYLE.read_bytes(), Path(__file__).read_bytes())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def first_line(source: Path) -> str:
    """The first line of a picture, for those who open it."""
    return f"<!-- Drawn by `make pictures` from {source.name}, which is what to edit: {digest(source)} -->"


def main() -> None:
    """Draw every picture."""
    if shutil.which("go") is None:
        sys.exit("Go builds D2, which draws the pictures: install Go")
    d2 = built(D2, "the pictures can be drawn")
    recording.PICTURE.write_text(recording.svg(recording.output()))
    for source in sources():
        source.with_suffix(".svg").write_text(drawn(d2, source))


def drawn(d2: str, source: Path) -> str:
    """The picture as SVG."""
    command = [d2, "--scale", "1", "--omit-version", "--no-xml-tag", str(source), "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        sys.exit(done.stderr)
    return f"{first_line(source)}\n{in_both_schemes(done.stdout)}\n"


def in_both_schemes(svg: str) -> str:
    """Replace D2's style of hundreds of colors by those in use, for the light and the dark mode."""
    fonts, theme = re.findall(r"<style.*?</style>", svg, re.DOTALL)
    unstyled = svg.replace(theme, "")
    classes = set(re.findall(r"\b(?:fill|stroke)-[NAB]\w+", unstyled))
    colored = {f".{name}": ("fill", _THEMED.get(name, name)) for name in classes}
    for attribute, color in set(re.findall(r'(fill|stroke)="(#\w+)"', unstyled)):
        colored[f'[{attribute}="{color}"]'] = (attribute, color)
    if unknown := {color.lower() for _, color in colored.values()} - DARK.keys():
        sys.exit(f"no color of the dark mode for {', '.join(sorted(unknown))}")
    light = "".join(f"{selector}{{{name}:{color}}}" for selector, (name, color) in sorted(colored.items()))
    dark = "".join(f"{selector}{{{name}:{DARK[color.lower()]}}}" for selector, (name, color) in sorted(colored.items()))
    style = f"<style>{_SHAPES}{light}@media (prefers-color-scheme:dark){{{dark}}}</style>"
    fallback = re.sub(r'font-family: "[^"]*"', lambda found: f"{found[0]}, {_GENERIC['-mono' in found[0]]}", fonts)
    return (
        svg.replace(fonts, fallback).replace(theme, style).replace('rx="0.000000"', 'rx="12"', 1)
    )  # the background has round corners


if __name__ == "__main__":
    main()
