"""A file that holds something else is noticed, however it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz_service.config.model import Settings
from authz_service.config.watch import digests_of, named_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def mounted(folder: Path, name: str, text: str) -> None:
    """Put the next version of a file where Kubernetes would, and swap the link to it."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    (version / name).write_text(text)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / name).is_symlink():
        (folder / name).symlink_to(f"..data/{name}")


def rewritten(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def renamed_over(folder: Path, name: str, text: str) -> None:
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


@pytest.mark.parametrize("change", [mounted, rewritten, renamed_over])
def test_a_change_is_seen_however_it_is_made(tmp_path: Path, change: Callable[[Path, str, str], None]) -> None:
    file = tmp_path / "config.yaml"
    change(tmp_path, file.name, "a: 1")
    first = digests_of([file])
    assert digests_of([file]) == first
    change(tmp_path, file.name, "a: 2")
    assert digests_of([file]) != first
    change(tmp_path, file.name, "a: 1")
    assert digests_of([file]) == first


def test_a_file_that_goes_and_comes_back_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    absent = digests_of([file])
    file.write_text("")
    empty = digests_of([file])
    file.unlink()
    file.mkdir()
    directory = digests_of([file])
    assert len({tuple(each.values()) for each in (absent, empty, directory)}) == 3


def test_the_files_that_are_watched_are_those_that_nobody_else_reads_again(tmp_path: Path) -> None:
    keys = [{"ca_file": "a.pem"}, {"jwks_file": "jwks.json"}, {}]
    issuers = [
        {"issuer": f"https://{place}.example/", "audiences": ["a"], "keys": each} for place, each in enumerate(keys)
    ]
    settings = Settings.model_validate({"issuers": issuers, "rules": [{"name": "r"}]})
    assert [str(file) for file in named_in(settings)] == ["a.pem"]
