"""A snapshot is complete and private, and refused if another user could have written it."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.snapshot import Snapshot, SnapshotFile
from support.key_source import jwks

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://issuer.example/"


def snapshot_file(path: Path, issuer: str = ISSUER) -> SnapshotFile:
    return SnapshotFile(path, issuer=issuer, max_bytes=10_000, max_keys=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    snapshot_file(path).save(Snapshot(keyset.parse(jwks("a", "b"), 10), 1000.5))
    return path


def test_a_saved_snapshot_is_loaded(path: Path) -> None:
    loaded = snapshot_file(path).load()
    assert loaded is not None
    assert loaded.at == 1000.5
    assert [key.identity for key in loaded.key_set.keys] == [
        key.identity for key in keyset.parse(jwks("a", "b"), 10).keys
    ]


def test_only_the_members_of_a_signature_key_are_saved(tmp_path: Path) -> None:
    document = json.loads(jwks("a"))
    document["keys"][0] |= {"alg": "ES256", "x5c": ["certificate"], "comment": "x"}
    path = tmp_path / "keys.json"
    snapshot_file(path).save(Snapshot(keyset.parse(json.dumps(document).encode(), 10), 1.0))
    (written,) = json.loads(path.read_text())["keys"]
    assert set(written) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_a_key_for_jwt_svids_is_loaded_only_where_those_are_accepted(tmp_path: Path) -> None:
    document = json.loads(jwks("a", "svid"))
    document["keys"][1]["use"] = "jwt-svid"
    path, uses = tmp_path / "keys.json", {"sig", "jwt-svid"}
    snapshot_file(path).save(Snapshot(keyset.parse(json.dumps(document).encode(), 10, uses), 1.0))
    again = SnapshotFile(path, issuer=ISSUER, max_bytes=10_000, max_keys=10, uses=uses)
    kids = [
        [key.kid for key in loaded.key_set.keys] for each in (snapshot_file(path), again) if (loaded := each.load())
    ]
    assert kids == [["a"], ["a", "svid"]]


def test_without_a_file_there_is_no_snapshot(tmp_path: Path) -> None:
    assert snapshot_file(tmp_path / "none").load() is None


def test_a_snapshot_of_another_issuer_is_refused(path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"another issuer: 'https://issuer\.example/', not 'https://other\.example/'"):
        snapshot_file(path, "https://other.example/").load()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_snapshot_that_other_users_may_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(FetchFailed, match=rf"writable by other users \(mode {mode:04o}\)"):
        snapshot_file(path).load()


def test_a_snapshot_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:  # only root can change the owner of a file, so change our own id
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(FetchFailed, match="belongs to another user"):
        snapshot_file(path).load()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "not JSON",
        '{"issuer": "https://issuer.example/", "at": true, "keys": []}',
        '{"issuer": "https://issuer.example/", "at": "now", "keys": []}',
        '{"issuer": "https://issuer.example/", "at": 1}',
        '{"issuer": "https://issuer.example/", "at": 1, "keys": []}',
        '{"issuer": "https://issuer.example/", "at": 1, "keys": [{"kty": "oct", "k": "AAAA"}]}',
        '{"issuer": "https://issuer.example/", "at": 1e999, "keys": []}',
        '{"at": 1, "keys": []}',
        "x" * 30_000,
    ],
)
def test_an_invalid_snapshot_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(FetchFailed):
        snapshot_file(path).load()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed):
        snapshot_file(tmp_path).load()


def test_a_failed_save_leaves_the_old_file_and_no_temporary_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        snapshot_file(path).save(Snapshot(keyset.parse(jwks("c"), 10), 2000.0))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
