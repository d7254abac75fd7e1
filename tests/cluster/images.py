"""The container images of the cluster tests.

``build`` makes them with buildah on a base by debootstrap, and writes archives for containerd. ``build_with_docker``
makes the same ones on the official Python image for a cluster that loads them from Docker, such as kind. An image whose
inputs have not changed is not built again.

Invariants: Nothing outside of the cache folder is written. All that buildah mounts and starts is in namespaces that end
with this process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from authz_service.demo.envoy import binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ENVOY = "docker.io/envoyproxy/envoy:distroless-v1.40.0"  # as the chart's values name it
TOOLS = "localhost/cluster-tools:1"
PROVIDER = "localhost/oidc-provider:1"
PAUSE = "localhost/pause:1"

_SUITE = "trixie"
_BASE = f"localhost/base:{_SUITE}"
_DOCKER_BASE = "docker.io/library/python:3.13-slim"
_DOCKERFILES = Path(__file__).parent / "images"
_PODS = Path(__file__).parent / "pods"
_PROVIDER = Path(__file__).parent.parent / "end_to_end" / "oidc_provider"
_CA_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "authz_service", "docker", "requirements")  # as .dockerignore
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")
_TIMEOUT = 900.0  # seconds for one command

# Mounts and processes end with this process, even if it is killed.
_CONTAINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


class BuildError(Exception):
    """A command failed; the message has its output."""


@dataclass(frozen=True)
class Image:
    """An image and all that it depends on."""

    name: str
    dockerfile: Path
    files: Mapping[str, Path] = field(default_factory=dict)  # the build context: names and what is copied to them
    base: str = ""  # the name of the image below, as the build argument BASE
    prepare: tuple[str, ...] = ()  # a command that completes the build context

    def digest(self, base: str) -> str:
        """The digest of all inputs; ``base`` is that of the image below."""
        total = hashlib.sha256(repr((self.name, self.prepare, base)).encode())
        for name, path in sorted({"Dockerfile": self.dockerfile, **self.files}.items()):
            for relative, each in _walk(path):
                total.update(f"\0{name}/{relative}\0{each.stat().st_mode:o}\0".encode())
                with each.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def stage(self, context: Path, run: Callable[[Sequence[str], Path], str]) -> None:
        """Fill the build context."""
        for name, path in self.files.items():
            if path.is_dir():
                shutil.copytree(path, context / name, ignore=_IGNORED)
            else:
                shutil.copy2(path, context / name)
        if self.prepare:
            run(self.prepare, context)


def build(cache: Path, source: Path, pause: Path, releases: Iterable[tuple[Path, str]] = ()) -> list[Path]:
    """Archives of all images, of which it builds those that have changed.

    ``source`` is a checkout of the project; ``releases`` are further checkouts, each with the tag of its image.
    ``pause`` is the program that holds the namespaces of a pod.
    """
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    base = Image(
        name=_BASE,
        dockerfile=_DOCKERFILES / "base.Dockerfile",
        files={"base.sh": _DOCKERFILES / "base.sh", "ca-certificates.crt": _CA_CERTIFICATES},
        prepare=("sh", "base.sh", _SUITE),
    )
    envoy = Image(ENVOY, _DOCKERFILES / "envoy.Dockerfile", {"envoy": Path(binary())}, base.name)
    holder = Image(PAUSE, _DOCKERFILES / "pause.Dockerfile", {"pause": pause})
    published = [envoy, holder, *_images(source, releases, base.name)]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building
        with _Buildah(folder) as buildah:
            digests = {"": ""}
            for image in [base, *published]:
                digests[image.name] = buildah.provide(image, digests[image.base], archive=image is not base)
    return [_archive(folder, image) for image in published]


def build_with_docker(source: Path, releases: Iterable[tuple[Path, str]] = ()) -> list[str]:
    """The names of all images that are built, for `kind load docker-image`. Docker caches what has not changed.

    The node itself pulls Envoy: Docker may have the index of all its platforms and the layers of one, and kind cannot
    load that. Attestations would make such an index of an image that is built.
    """
    images = _images(source, releases, _DOCKER_BASE)
    for image in images:
        with tempfile.TemporaryDirectory(prefix="cluster-image-") as context:
            image.stage(Path(context), lambda command, folder: _run(command, cwd=folder))
            command = ["docker", "build", "--quiet", "--tag", image.name, "--file", str(image.dockerfile)]
            environment = os.environ | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
            _run([*command, "--build-arg", f"BASE={image.base}", context], environment=environment)
    return [image.name for image in images]


def authz_service(source: Path) -> str:
    """The name of the image that the chart of this checkout installs."""
    chart = (source / "helm" / "authz-service" / "Chart.yaml").read_text()
    version = re.search(r'^appVersion: "?([^"\n]+)', chart, re.MULTILINE)
    assert version is not None
    return f"localhost/authz-service:{version[1]}"


def _images(source: Path, releases: Iterable[tuple[Path, str]], base: str) -> list[Image]:
    """What is built from sources, each after the image that it is based on."""
    current = authz_service(source)
    checkouts = [(source, current), *((folder, f"localhost/authz-service:{tag}") for folder, tag in releases)]
    names = ("provider.mjs", "package.json", "package-lock.json", ".npmrc")
    return [
        *(
            Image(name, folder / "Dockerfile", {each: folder / each for each in _SOURCES}, base)
            for folder, name in checkouts
        ),
        Image(TOOLS, _DOCKERFILES / "tools.Dockerfile", {"pods": _PODS}, current),
        Image(
            name=PROVIDER,
            dockerfile=_DOCKERFILES / "provider.Dockerfile",
            files={"node": _program("node"), **{each: _PROVIDER / each for each in names}},
            base=base,
            prepare=("npm", "ci"),
        ),
    ]


class _Buildah:
    """buildah with a store of its own, while its context is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._work = folder / "work"  # for this process only
        # The state in runroot is about mounts, and these end with each command.
        self._store = ["--root", str(folder / "store"), "--runroot", str(self._work / "run")]

    def __enter__(self) -> Self:
        self._clear()  # the files and the containers of a build that was interrupted
        self._work.mkdir()
        if (self._folder / "store").exists():
            self._buildah("rm", "--all")
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._work.exists():
            shutil.rmtree(self._work)

    def provide(self, image: Image, base: str, *, archive: bool) -> str:
        """Build the image and write its archive, unless its inputs are those of the last time. Return their digest."""
        digest, began = image.digest(base), time.monotonic()
        target = _archive(self._folder, image)
        stamp = target.with_suffix(".digest")
        if not stamp.exists() or stamp.read_text() != digest:
            stamp.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            self._build(image)
            if archive:
                self._buildah("push", "--quiet", image.name, f"docker-archive:{target}:{image.name}")
            self._buildah("rmi", "--prune")  # what had this name before
            stamp.write_text(digest)
            sys.stderr.write(f"built {image.name} in {time.monotonic() - began:.0f} s\n")
        return digest

    def _build(self, image: Image) -> None:
        with tempfile.TemporaryDirectory(dir=self._work) as context:
            image.stage(Path(context), self._run)
            options = ["--quiet", "--tag", image.name, "--file", str(image.dockerfile), "--isolation", "chroot"]
            self._buildah("build", *options, "--build-arg", f"BASE={image.base}", context)

    def _buildah(self, *arguments: str) -> str:
        return self._run(["buildah", *self._store, *arguments], self._folder)

    def _run(self, command: Sequence[str], folder: Path) -> str:
        own = {"HOME": str(self._folder / "home"), "TMPDIR": str(self._work)}
        return _run([*_CONTAINED, *command], cwd=folder, environment=os.environ | own)


def _archive(folder: Path, image: Image) -> Path:
    return folder / (re.sub(r"[/:]", "_", image.name) + ".tar")


def _walk(path: Path) -> Iterator[tuple[str, Path]]:
    """The files in a folder with their relative names, without byte code; or the one file."""
    if path.is_file():
        yield "", path
        return
    for each in sorted(path.rglob("*")):
        if each.is_file() and each.suffix != ".pyc":
            yield str(each.relative_to(path)), each


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise BuildError(f"{name} is not installed")
    return Path(found).resolve()


def _run(command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
