"""Images of the cluster tests are built again only when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.images import Image, authz_service

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("a = 1\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return Image("localhost/a:1", tmp_path / "Dockerfile", {"package": tmp_path / "package"})


def test_the_digest_changes_with_each_input(image: Image, tmp_path: Path) -> None:
    digests = [image.digest("base")]

    def changed() -> bool:
        digests.append(image.digest("base"))
        return len(set(digests)) == len(digests)

    (tmp_path / "package" / "module.py").write_text("a = 2\n")
    assert changed()
    (tmp_path / "package" / "module.py").rename(tmp_path / "package" / "other.py")
    assert changed()
    (tmp_path / "package" / "other.py").chmod(0o755)
    assert changed()
    (tmp_path / "Dockerfile").write_text("FROM scratch\nUSER 1\n")
    assert changed()
    assert image.digest("another base") not in digests


def test_the_digest_does_not_depend_on_times_and_byte_code(image: Image, tmp_path: Path) -> None:
    before = image.digest("base")
    (tmp_path / "package" / "module.py").write_text("a = 1\n")
    (tmp_path / "package" / "__pycache__").mkdir()
    (tmp_path / "package" / "__pycache__" / "module.pyc").write_bytes(b"")
    assert image.digest("base") == before


def test_the_build_context_has_the_files_without_byte_code(image: Image, tmp_path: Path) -> None:
    (tmp_path / "package" / "module.pyc").write_bytes(b"")
    context = tmp_path / "context"
    context.mkdir()
    image.stage(context, lambda command, folder: "")
    assert [str(each.relative_to(context)) for each in context.rglob("*.*")] == ["package/module.py"]


def test_the_tag_is_the_version_that_the_chart_installs() -> None:
    assert authz_service(ROOT).startswith("localhost/authz-service:0.")
