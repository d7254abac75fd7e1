"""The programs of a Kubernetes cluster, built from their Go modules into a cache, once for each version.

Only Go and its module proxy are needed. programs/go.mod and go.sum pin every module. To change the version of
Kubernetes, run `python -m cluster.programs v1.34.4` in tests/.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parent / "programs"
# One program that links once, and is each part by the name that starts it.
_HYPERKUBE: Final = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
_PACKAGES: Final = {
    "pause": "./cmd/pause",
    "hyperkube": "./cmd/hyperkube",
    "coredns": "./cmd/coredns",
    "metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server",
}
# Modules with versions of their own.
_BESIDE: Final = ("coredns/coredns", "spf13/cobra", "etcd/server/v3", "sigs.k8s.io/metrics-server")


def version() -> str:
    """The version of Kubernetes, such as v1.34.4."""
    found = re.search(r"^\tk8s\.io/kubernetes (v\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def folder(cache: Path) -> Path:
    """Where the programs of these sources are, or will be."""
    digest = hashlib.sha256()
    for path in sorted(each for each in SOURCE.rglob("*") if each.is_file()):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return cache / f"kubernetes-{version()}-{digest.hexdigest()[:12]}"


def built(cache: Path) -> bool:
    """Whether the programs of these sources are in the cache."""
    return folder(cache).is_dir()


def build(cache: Path) -> Path:
    """Build the programs unless the cache has them, and delete those of other versions.

    It takes four to ten minutes.
    """
    target = folder(cache)
    if not built(cache):
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, package in _PACKAGES.items():
            _go("build", "-ldflags", _linker_flags(), "-o", str(unfinished / name), package)
        for name in _HYPERKUBE:
            (unfinished / name).symlink_to("hyperkube")
        for other in cache.glob("kubernetes-v*"):
            if other != unfinished:
                shutil.rmtree(other)
        unfinished.rename(target)
    return target


def manifests_of_metrics_server() -> Path:
    """The folder for `kubectl apply --kustomize` in a cluster that lacks metrics-server, pinned by go.sum."""
    _go("mod", "download", "sigs.k8s.io/metrics-server")
    module = _go("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/metrics-server").strip()
    return Path(module, "manifests", "overlays", "release")


def _linker_flags() -> str:
    """Charts and clients branch on the version that the API server reports, so it must be the real one."""
    major, minor, _ = version().removeprefix("v").split(".")
    values = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = (f"-X {package}.{name}={value}" for package in packages for name, value in values.items())
    return " ".join(["-s", "-w", *settings])


def _go(*arguments: str, source: Path = SOURCE) -> str:
    settings = {"GOFLAGS": "-trimpath -buildvcs=false", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    environment = [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        ["env", *environment, "go", *arguments], cwd=source, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def update(kubernetes: str) -> None:
    """Write go.mod and go.sum for a version of Kubernetes: its own requirements, and the modules of its repository."""
    _go("mod", "download", f"k8s.io/kubernetes@{kubernetes}", source=Path("/"))
    downloaded = Path(_go("env", "GOMODCACHE", source=Path("/")).strip(), f"k8s.io/kubernetes@{kubernetes}", "go.mod")
    text = downloaded.read_text()
    staged = re.findall(r"^\s*(k8s\.io/\S+) => \./staging", text, re.MULTILINE)
    required = re.findall(r"^\s*(\S+) (v\S+)(?: // indirect)?$", text.partition("replace")[0], re.MULTILINE)
    release = f"v0.{kubernetes.removeprefix('v1.')}"
    lines = ["module cluster", "", "go 1.24.0", "", "godebug default=go1.24", "", "require ("]
    kept = [line for line in (SOURCE / "go.mod").read_text().splitlines() if any(name in line for name in _BESIDE)]
    lines += [f"\tk8s.io/kubernetes {kubernetes}", *kept]
    lines += [f"\t{module} {release if number == 'v0.0.0' else number}" for module, number in required]
    lines += [")", "", "replace (", *(f"\t{module} => {module} {release}" for module in staged), ")"]
    (SOURCE / "go.mod").write_text("\n".join(lines) + "\n")
    _go("mod", "tidy")


if __name__ == "__main__":
    update(sys.argv[1])
