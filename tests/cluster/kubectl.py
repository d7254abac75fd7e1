"""A namespace of the cluster, by the program kubectl. KUBECONFIG names the cluster."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

T = TypeVar("T")
_OURS: Final = "authz-service/cluster-test"
_LABELS: Final = {
    _OURS: "",
    # Every pod in every test is admitted under the strictest Pod Security Standard.
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",
}
_KUBECTL_TIMEOUT: Final = 300.0  # seconds; only a test that hangs takes this long


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Namespace:
    """A namespace of the cluster while its context is open. It admits restricted pods only."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        # That of an earlier run may still be there or end, but one that is not ours is an error.
        kubectl("delete", "namespace", f"--selector={_OURS}", f"--field-selector=metadata.name={self.name}")
        metadata = {"name": self.name, "labels": _LABELS}
        kubectl(
            "create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        )
        # Without it, no pod is admitted.
        wait_until(
            lambda: self.kubectl("get", "serviceaccount", "default", check=False).status == 0, what="its ServiceAccount"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kubectl("delete", "namespace", self.name, "--wait=false")

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> Outcome:
        """Run kubectl in this namespace."""
        return kubectl("--namespace", self.name, *arguments, stdin=stdin, check=check)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects of this namespace."""
        apply(*({**each, "metadata": {**each["metadata"], "namespace": self.name}} for each in objects))

    def get(self, kind: str, name: str = "", *, selector: str = "") -> dict[str, Any]:
        """An object or, without a name, a list of them."""
        chosen = [name] if name else [f"--selector={selector}"]
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, *chosen, "--output=json").stdout)
        return found

    def config_map(self, name: str, files: Mapping[str, str]) -> None:
        """Create or replace a ConfigMap with these files."""
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(files)})

    def secret(self, name: str, files: Mapping[str, str], kind: str = "Opaque") -> None:
        """Create or replace a Secret with these files."""
        metadata = {"name": name}
        self.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": dict(files)}
        )

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels, without those that terminate."""
        items = self.get("pods", selector=selector)["items"]
        return [each for each in items if "deletionTimestamp" not in each["metadata"]]

    def wait_rollout(self, deployment: str, timeout: float = 120) -> None:
        """Wait until a Deployment has the newest pods only, and all of them are ready."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={timeout}s")

    def execute(self, target: str, *command: str, container: str = "", stdin: str = "", check: bool = True) -> Outcome:
        """Run a command in a container of a pod, or of one of a Deployment's pods (deployment/NAME)."""
        options = ["--container", container] if container else []
        return self.kubectl("exec", "--stdin", target, *options, "--", *command, stdin=stdin, check=check)

    def start(self, *arguments: str, stdin: str = "") -> subprocess.Popen[str]:
        """Run kubectl in the background."""
        pipe = subprocess.PIPE
        command = ["kubectl", "--namespace", self.name, *arguments]
        started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert started.stdin is not None
        started.stdin.write(stdin)
        started.stdin.close()
        started.stdin = None
        return started

    def logs(self, target: str, container: str = "", *, previous: bool = False) -> str:
        """The log of a pod's container so far, or of the one before its last restart."""
        options = [*(["--container", container] if container else []), *(["--previous"] if previous else [])]
        return self.kubectl("logs", target, *options).stdout


def kubectl(*arguments: str, stdin: str = "", check: bool = True) -> Outcome:
    """Run kubectl."""
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, check=False, capture_output=True, text=True, timeout=_KUBECTL_TIMEOUT
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    if check:
        assert outcome.status == 0, f"kubectl {' '.join(arguments)}: {outcome.stderr}{outcome.stdout[-2000:]}"
    return outcome


def apply(*objects: Mapping[str, Any]) -> None:
    """Create or change objects."""
    kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def wait_until(condition: Callable[[], T], timeout: float = 60, what: str = "the condition") -> T:
    """Wait for a change in the cluster, and return the condition's first true value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} is not there after {timeout:g} s"
        time.sleep(0.2)
    return value
