"""A checkout of the last release, from which `helm upgrade` is tested."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

TAG: Final = "last-release"  # of its image
VARIABLE: Final = "CLUSTER_LAST_RELEASE"  # the environment variable that names its folder for the tests
_BEFORE_THE_FIRST: Final = "03786c4dcadfba003db37dde722ba8aa1c5c4a58"  # stands for it until there is one


def checkout(cache: Path, source: Path) -> Path:
    """The folder with its files, which the cache keeps."""
    found = _git(source, "describe", "--tags", "--match=v*", "--abbrev=0", "HEAD^")  # which may be a release itself
    revision = found.stdout.strip() or _BEFORE_THE_FIRST
    folder = cache / f"release-{revision}"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        archive = unfinished / "archive.tar"
        done = _git(source, "archive", f"--output={archive}", revision)
        if done.returncode:
            raise RuntimeError(
                f"the last release, {revision}, is not in this clone (git fetch --unshallow): {done.stderr}"
            )
        shutil.unpack_archive(archive, unfinished, filter="data")
        archive.unlink()
        unfinished.rename(folder)
    return folder


def _git(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(source), "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)
