from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from support.keycloak_server import unpack

if TYPE_CHECKING:
    from pathlib import Path


def test_an_archive_with_another_digest_is_not_unpacked(tmp_path: Path) -> None:
    archive, folder = tmp_path / "archive.zip", tmp_path / "unpacked"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("bin/kc.sh", "")
    with pytest.raises(AssertionError, match=r"archive\.zip has the SHA-256 [0-9a-f]{64}, expected 0000"):
        unpack(archive, "0" * 64, folder)
    assert not folder.exists()
