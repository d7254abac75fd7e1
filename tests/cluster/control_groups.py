"""The control group below which the kubelet creates those of pods."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cluster.configuration import CONTROL_GROUP


def _hierarchies() -> list[Path]:
    """The control group hierarchies: one with cgroup v2, one for each controller with v1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [each for each in root.iterdir() if (each / "cgroup.procs").exists()]


def make() -> None:
    """Create it."""
    remove()
    for hierarchy in _hierarchies():
        folder = hierarchy / CONTROL_GROUP
        folder.mkdir()
        if (folder / "cpuset.cpus").exists():  # v1 does not inherit them
            for name in ("cpuset.cpus", "cpuset.mems"):
                (folder / name).write_text((hierarchy / name).read_text())


def remove() -> None:
    """Remove it with all groups below it, whose processes have ended."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CONTROL_GROUP, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                Path(folder).rmdir()
