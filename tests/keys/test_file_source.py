"""A key set in a file is read by name each time, and a bad file is a failure with a reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.keys.file_source import FileSource
from support.key_source import jwk, jwks, private_key

if TYPE_CHECKING:
    from pathlib import Path


def source_of(path: Path, max_bytes: int = 4096) -> FileSource:
    return FileSource(path, Keys.read({"jwks_file": str(path), "max_bytes": f"{max_bytes}B", "max_keys": 10}))


async def kids(source: FileSource) -> list[str | None] | None:
    key_set = (await source.fetch(have_keys=True)).key_set
    return None if key_set is None else [key.kid for key in key_set.keys]


async def test_a_symlink_swap_as_kubernetes_does_it_is_detected(tmp_path: Path) -> None:
    for generation, kid in (("..2026_01", "old"), ("..2026_02", "new")):
        (tmp_path / generation).mkdir()
        (tmp_path / generation / "jwks.json").write_bytes(jwks(kid))
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "jwks.json").symlink_to("..data/jwks.json")
    source = source_of(tmp_path / "jwks.json")
    assert await kids(source) == ["old"]
    assert await kids(source) is None

    (tmp_path / "..data_tmp").symlink_to("..2026_02")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "..2026_01" / "jwks.json").unlink()

    assert await kids(source) == ["new"]
    assert await kids(source) is None


async def test_a_change_of_equal_length_within_one_tick_of_the_clock_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    source = source_of(file)
    for kid in "abcab":
        file.write_bytes(jwks(kid))
        assert await kids(source) == [kid]


async def test_a_partly_written_file_is_a_failure_until_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    source = source_of(file)
    file.write_bytes(jwks("a"))
    await kids(source)
    file.write_bytes(jwks("b")[:-10])
    with pytest.raises(FetchFailed):
        await kids(source)
    file.write_bytes(jwks("b"))
    assert await kids(source) == ["b"]


@pytest.mark.parametrize("kind", ["absent", "a directory", "a dangling link", "a loop of links"])
async def test_an_unreadable_file_is_a_failure_with_a_reason_but_without_the_path(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "jwks.json"
    match kind:
        case "a directory":
            file.mkdir()
        case "a dangling link":
            file.symlink_to("nowhere")
        case "a loop of links":
            file.symlink_to("jwks.json")
    with pytest.raises(FetchFailed, match=r"^jwks_file cannot be read: \w") as failure:
        await kids(source_of(file))
    assert str(tmp_path) not in str(failure.value)


async def test_a_file_is_read_up_to_the_maximum_size(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    document = jwks("a")
    file.write_bytes(document)
    assert await kids(source_of(file, max_bytes=len(document))) == ["a"]
    with pytest.raises(FetchFailed, match="larger than max_bytes"):
        await kids(source_of(file, max_bytes=len(document) - 1))


def pem_source_of(path: Path) -> FileSource:
    return FileSource(path, Keys.read({"pem_file": str(path), "max_bytes": "4KiB", "max_keys": 2}))


def public_key(kid: str) -> bytes:
    return private_key(kid).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def test_a_file_in_pem_is_read_again_when_it_changes_and_a_bad_one_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "idp.pem"
    source = pem_source_of(file)
    with pytest.raises(FetchFailed, match=r"^pem_file cannot be read: \w"):
        await kids(source)
    file.write_bytes(public_key("a"))
    assert await kids(source) == [None]
    assert await kids(source) is None
    file.write_bytes(public_key("a") + public_key("b"))
    assert await kids(source) == [None, None]
    file.write_bytes(public_key("a")[:-10])
    with pytest.raises(FetchFailed, match="has no END line"):
        await kids(source)
    file.write_bytes(public_key("a") * 3)
    with pytest.raises(FetchFailed, match=r"3 keys, more than keys.max_keys \(2\)"):
        await kids(source)
    file.write_bytes(public_key("a") * 50)
    with pytest.raises(FetchFailed, match=r"pem_file is larger than max_bytes \(4096\)"):
        await kids(source)


async def test_a_file_in_the_other_format_is_a_failure_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(public_key("a"))
    with pytest.raises(FetchFailed, match=r"jwks_file is PEM, .*: write pem_file instead"):
        await kids(source_of(file))
    file.write_bytes(jwks("a"))
    with pytest.raises(FetchFailed, match=r"pem_file has no PEM, .*: for a JSON Web Key Set, write jwks_file instead"):
        await kids(pem_source_of(file))


async def test_a_key_for_jwt_svids_is_used_where_that_use_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps({"keys": [jwk("a") | {"use": "jwt-svid"}]}))
    with pytest.raises(FetchFailed, match="its use is 'jwt-svid', not 'sig'"):
        await kids(source_of(file))
    settings = Keys.read({"jwks_file": str(file)})
    assert await kids(FileSource(file, settings, frozenset({"sig", "jwt-svid"}))) == ["a"]
