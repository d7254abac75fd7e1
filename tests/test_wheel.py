"""The published artifacts: a wheel with the program only, and an sdist that builds the same wheel."""

from __future__ import annotations

import email
import json
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz_service import __version__
from support.key_source import jwks
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"authz_service-{__version__}"
INFO = f"{NAME}.dist-info"
TIMEOUT = 120.0  # of a program


def ran(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(sources: Path, folder: Path, *targets: str) -> None:
    """Build as a release does: with the locked build backend, without the network."""
    options = [word for target in targets for word in ("--target", target)]
    ran(sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options, cwd=sources)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    build(ROOT, folder, "sdist", "wheel")
    return folder


@pytest.fixture(scope="module")
def wheel(published: Path) -> Path:
    (wheel,) = published.glob("*.whl")
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    return wheel


@pytest.fixture(scope="module")
def sources(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extracted sdist."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(published / f"{NAME}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


def test_the_wheel_has_only_the_program_with_types_and_license(wheel: Path) -> None:
    package = {path for path in (ROOT / "authz_service").rglob("*") if path.suffix in {".py", ".pyi"}}
    package |= {ROOT / "authz_service" / "py.typed", ROOT / "authz_service" / "_pb" / "services.binpb"}
    assert not [path for path in package if path.name.startswith(("test_", "conftest"))]
    described = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == {
            *(path.relative_to(ROOT).as_posix() for path in package),
            *(f"{INFO}/{name}" for name in described),
        }
        assert archive.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_has_complete_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{INFO}/METADATA"))
        scripts = archive.read(f"{INFO}/entry_points.txt").decode()
    assert (metadata["Name"], metadata["Version"]) == ("authz-service", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    needed = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert len(needed) == len(PROJECT["dependencies"])
    assert "authz-service = authz_service.cli:main" in scripts


def test_the_sdist_has_the_sources_and_nothing_of_the_machine(sources: Path) -> None:
    published = {path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.is_file()}
    assert published >= {
        *("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "Makefile", "Dockerfile", ".ci/run"),
        *("tests/test_wheel.py", "tests/vectors/providers.json", "bench/bench.py", "proto/generate.py"),
        *("examples/keycloak/config.yaml", "helm/authz-service/Chart.yaml", "docs/reference/alerts.md"),
    }
    parts = {part for name in published for part in Path(name).parts}
    assert not parts & {".git", ".venv", "__pycache__", "node_modules", ".go", ".prometheus", ".hypothesis", "dist"}


def test_the_sdist_builds_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    build(sources, tmp_path, "wheel")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel; its dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    ran(sys.executable, "-m", "pip", "--python", str(python), *install, cwd=folder)
    # After the installation, or pip would find the editable installation of this project. Python ignores its .pth file
    # here, because the folder is not a site directory; the next test checks that the wheel is used.
    here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    there = ran(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(there) / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(here)))
    return folder / "bin"


def test_the_installed_package_is_the_wheel(installed: Path) -> None:
    code = "import authz_service, importlib.metadata as m; print(authz_service.__file__, m.version('authz-service'))"
    file, version = ran(str(installed / "python"), "-I", "-c", code, cwd=installed).split()
    assert Path(file).is_relative_to(installed.parent)
    assert version == __version__


@pytest.mark.parametrize("arguments", [["version"], ["--version"]], ids=" ".join)
def test_the_installed_program_prints_its_version(installed: Path, arguments: Sequence[str]) -> None:
    assert ran(str(installed / "authz-service"), *arguments, cwd=installed).startswith(f"authz-service {__version__}, ")


def test_the_installed_program_checks_a_configuration(installed: Path) -> None:
    config = ROOT / "examples" / "keycloak" / "config.yaml"
    assert ran(str(installed / "authz-service"), "check-config", str(config), cwd=installed) == f"{config}: valid\n"


async def test_the_installed_program_serves(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(jwks("a"))
    config = tmp_path / "config.yaml"
    server = {"grpc_address": f"unix:{tmp_path / 's'}", "admin_address": "127.0.0.1:0"}
    issuer = {"issuer": "https://issuer.example", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    config.write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [{"name": "all"}]}))
    program = str(installed / "authz-service")
    async with SidecarProcess(config, tmp_path / "log", program=[program]) as sidecar:
        assert ran(program, "healthcheck", "--config", str(config), cwd=tmp_path).endswith(" is SERVING\n")
        assert await sidecar.stop() == 0
