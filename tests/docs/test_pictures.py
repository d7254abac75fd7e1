"""Every picture is drawn from its present source, is used, and is described to those who do not see it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from authz_service.core.reasons import DENIALS, Reason
from docs_tools import pictures, recording
from support.documents import DOCS, page, pages

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = sorted(pictures.FOLDER.glob("*.svg"))
_MIN_WORDS = 8  # of the text for those who do not see a picture
_MAX_BYTES = 60_000
_MAX_WIDTH = 660  # pixels; on a telephone, 20-pixel text is 11 pixels high then


@pytest.mark.parametrize("source", pictures.sources(), ids=lambda source: source.stem)
def test_a_picture_is_drawn_from_its_present_source(source: Path) -> None:
    picture = source.with_suffix(".svg")
    assert picture.exists(), "run `make pictures`"
    assert picture.read_text().startswith(f"{pictures.first_line(source)}\n"), "run `make pictures`"


def test_the_recording_shows_what_the_demo_prints() -> None:
    assert recording.PICTURE.read_text() == recording.svg(recording.output()), "run `make pictures`"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_is_small_loads_nothing_and_fits_a_narrow_screen(picture: Path) -> None:
    content = picture.read_text()
    assert len(content) < _MAX_BYTES
    assert set(re.findall(r'(?:href=|url\()["\']?([a-z]+:[^;,)]*)', content)) <= {"data:application/font-woff"}
    assert picture == recording.PICTURE or int(re.findall(r'width="(\d+)"', content)[0]) <= _MAX_WIDTH


def test_there_is_no_picture_without_a_source() -> None:
    assert {picture.with_suffix(".d2") for picture in PICTURES if picture != recording.PICTURE} <= set(
        pictures.sources()
    )


def test_the_picture_of_a_request_has_every_reason_for_a_denial() -> None:
    words = set(re.findall(r"[a-z_]+", (pictures.FOLDER / "request.d2").read_text().replace("\\n", " ")))
    assert words & set(Reason) == set(DENIALS) | {Reason.OK}, "change request.d2, and run `make pictures`"


def test_every_picture_is_on_a_page_and_described_in_a_sentence() -> None:
    shown = {
        (DOCS / f"{name}.md").parent.joinpath(target).resolve(): text
        for name in pages()
        for text, target in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page(name))
    }
    assert sorted(set(PICTURES) - shown.keys()) == [], "no page shows these pictures"
    assert [picture for picture, text in shown.items() if len(text.split()) < _MIN_WORDS] == [], "describe it in [...]"
