"""A Kubernetes cluster of one node on this machine, in Linux namespaces of its own.

Its network, mounts and processes are apart from the machine's: no port can clash, and it ends with its first process.
What the kubelet changes outside of them, control groups and kernel settings, is restored.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cluster import certificates, configuration, control_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

_TESTS: Final = Path(__file__).parent.parent
_START_TIMEOUT: Final = 120.0  # seconds
_SETTINGS: Final = (  # of the kernel, which the kubelet sets
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


class Node:
    """The running cluster while its context is open."""

    def __init__(self, cache: Path, programs: Path) -> None:
        self._run = cache / "run"
        self._containers = cache / "containers"
        self._programs = programs
        self._settings: dict[str, str] = {}
        self._first = 0  # process id of the cluster's first process

    def __enter__(self) -> Self:
        self._end_previous()
        shutil.rmtree(self._run, ignore_errors=True)
        self._run.mkdir(parents=True)
        certificates.write(self._run / "certificates", configuration.ADDRESS)
        self._settings = {name: Path("/proc/sys", name).read_text() for name in _SETTINGS}
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def command(self, *command: str) -> list[str]:
        """A command to run inside the cluster's namespaces, with its programs and its kubeconfig."""
        environment = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "KUBECONFIG": str(certificates.kubeconfig(self._run / "certificates", "admin")),
            "CONTAINERD_ADDRESS": configuration.CONTAINERD,
            "CONTAINERD_NAMESPACE": "k8s.io",
            "HELM_CACHE_HOME": str(self._run / "helm"),
            "HELM_CONFIG_HOME": str(self._run / "helm"),
            "HELM_DATA_HOME": str(self._run / "helm"),
        }
        enter = ["nsenter", "--target", str(self._first), "--mount", "--net", "--pid", "--uts", f"--wdns={Path.cwd()}"]
        return [*enter, "env", *(f"{name}={value}" for name, value in environment.items()), *command]

    def run(self, *command: str) -> str:
        """The standard output of a command inside the cluster's namespaces."""
        done = subprocess.run(self.command(*command), check=True, capture_output=True, text=True)
        return done.stdout

    def load_images(self, archives: Sequence[Path]) -> None:
        """Import the archives that have changed since containerd imported them."""
        stamps = self._containers / "imported"
        stamps.mkdir(exist_ok=True)
        for archive in archives:
            stamp = stamps / archive.name
            if not stamp.exists() or stamp.stat().st_mtime_ns != archive.stat().st_mtime_ns:
                self.run("ctr", "images", "import", str(archive))
                stamp.touch()
                os.utime(stamp, ns=(archive.stat().st_mtime_ns,) * 2)

    def logs(self) -> Path:
        """The folder with the log of each program."""
        return self._run / "log"

    def _end_previous(self) -> None:
        """End a cluster whose test process was killed."""
        pid = self._run / "pid"
        if pid.exists() and b"cluster.first_process" in _command_line(int(pid.read_text())):
            self._first = int(pid.read_text())
            self._stop()

    def _start(self) -> None:
        control_groups.make()
        log = (self._run / "first_process.log").open("wb")
        options = ["--mount", "--propagation", "private", "--net", "--pid", "--uts", "--fork", "--kill-child"]
        arguments = [str(self._run), str(self._containers), str(self._programs)]
        outer = subprocess.Popen(
            ["unshare", *options, "--mount-proc", sys.executable, "-m", "cluster.first_process", *arguments],
            cwd=_TESTS,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        self._wait(outer, "its first process", lambda: bool(children.read_text().split()))
        self._first = int(children.read_text().split()[0])
        (self._run / "pid").write_text(str(self._first))
        self._wait(outer, "its API server", lambda: self._succeeds("get", "--raw", "/readyz"))
        self._register_metrics()
        self._wait(
            outer, "its node", lambda: self._succeeds("wait", "--for=condition=Ready", "node/node1", "--timeout=2s")
        )

    def _register_metrics(self) -> None:
        """Let the API server serve what metrics-server, which runs outside of pods, knows of them."""
        subprocess.run(
            self.command("kubectl", "apply", "--filename=-"),
            input=json.dumps({"apiVersion": "v1", "kind": "List", "items": configuration.METRICS_API}),
            check=True,
            capture_output=True,
            text=True,
        )

    def _wait(self, outer: subprocess.Popen[bytes], what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_TIMEOUT
        while not condition():
            if outer.poll() is not None or time.monotonic() > end:
                log = (self._run / "first_process.log").read_text(errors="replace")
                raise RuntimeError(f"the cluster does not start: {what} is missing. Logs: {self.logs()}\n{log[-2000:]}")
            time.sleep(0.2)

    def _succeeds(self, *arguments: str) -> bool:
        return subprocess.run(self.command("kubectl", *arguments), check=False, capture_output=True).returncode == 0

    def _stop(self) -> None:
        """End every process, because they all end with the first; then restore what is not in its namespaces."""
        if self._first:
            with contextlib.suppress(ProcessLookupError):  # it has ended because one of its programs did
                os.kill(self._first, signal.SIGKILL)
            while Path(f"/proc/{self._first}").exists():
                time.sleep(0.05)
            self._first = 0
        control_groups.remove()
        for name, value in self._settings.items():
            if Path("/proc/sys", name).read_text() != value:
                Path("/proc/sys", name).write_text(value)


def _command_line(process: int) -> bytes:
    """The arguments of a process, each with a zero after it; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
