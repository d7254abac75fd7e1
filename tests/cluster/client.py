"""A client in a pod: it reaches what a pod reaches, on any cluster."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cluster.images import TOOLS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from cluster.kubectl import Namespace

_NAME: Final = "client"
_PROBLEM_TYPE: Final = "urn:authz-service:denial:"
# Process 1 ignores a signal without a handler, so it waits for SIGTERM.
_WAIT: Final = "import signal; s = [signal.SIGTERM]; signal.pthread_sigmask(signal.SIG_BLOCK, s); signal.sigwait(s)"

# What the Pod Security Standard `restricted` requires of a pod and of its containers, and a little more.
POD_SECURITY: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@dataclass(frozen=True)
class Request:
    """A request."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    ca: str = ""  # PEM; what the server's certificate is verified with
    certificate: str = ""  # PEM; the client's certificate and its key


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int  # 0 without a response
    headers: dict[str, str]  # by names in lower case
    body: str
    error: str = ""  # why there is no response

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason of a denial; empty for any other answer."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        kind: str = self.json()["type"]
        return kind.removeprefix(_PROBLEM_TYPE)


@dataclass(frozen=True)
class LoadResult:
    """What became of the requests of a load."""

    requests: int
    answers: dict[str, int]  # by status, or the kind of failure
    lost: int  # requests without the expected answer
    failures: list[str]  # the first of them
    connections: int
    announced: int  # connections that the server closed after an answer with `connection: close`
    unannounced: int  # connections that the server closed between two requests without announcing it
    p50_ms: float
    p99_ms: float
    max_ms: float


class Load:
    """A load in the background."""

    def __init__(self, namespace: Namespace, name: str, process: subprocess.Popen[str]) -> None:
        self._namespace = namespace
        self._name = name
        self._process = process

    def wait_started(self) -> None:
        """Wait for the first expected answer."""
        line = self._read()
        assert line == {}, f"the load has ended without an expected answer: {line}"

    def result(self) -> LoadResult:
        """Wait until its time has passed."""
        with self._process:  # closes its pipes
            result = LoadResult(**(self._read() or self._read()))  # the first line may be that it has started
            assert self._process.wait() == 0, self._error()
        return result

    def stop(self) -> LoadResult:
        """End it now: requests in flight are answered before."""
        self._namespace.execute(_NAME, "python3", "/tools/load.py", "stop", self._name)
        return self.result()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._error()
        value: dict[str, Any] = json.loads(line)
        return value

    def _error(self) -> str:
        assert self._process.stderr is not None
        self._process.wait()
        return f"the load failed: {self._process.stderr.read()[-2000:]}"


class Client:
    """The pod `client` of a namespace. It exists until the namespace is deleted."""

    def __init__(self, namespace: Namespace, labels: Mapping[str, str] | None = None) -> None:
        """``labels`` are those of the pod, for network policies."""
        self._namespace = namespace
        self._loads = itertools.count(1)
        namespace.apply(_pod(labels or {}))
        namespace.kubectl("wait", "--for=condition=Ready", f"pod/{_NAME}", "--timeout=120s")

    def send(self, *requests: Request) -> list[Answer]:
        """Send requests, one after another, each on a connection of its own."""
        stdin = json.dumps([asdict(request) for request in requests])
        done = self._namespace.execute(_NAME, "python3", "/tools/call.py", stdin=stdin)
        return [Answer(**each) for each in json.loads(done.stdout)]

    def get(self, url: str, token: str = "", *, ca: str = "", **headers: str) -> Answer:
        """The answer to one request. In the names of headers, an underscore is a hyphen."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["authorization"] = f"Bearer {token}"
        (answer,) = self.send(Request(url, headers=sent, ca=ca))
        return answer

    def load(
        self,
        url: str,
        *,
        token: str,
        seconds: float,
        connections: int,
        rate: float,
        keep: bool = True,
        expected: int = 200,
        ca: str = "",
        wait: bool = True,
    ) -> Load:
        """Send requests in the background for this long, or until ``Load.stop``. ``rate`` is requests per second.

        With ``wait``, it returns once the first expected answer has come.
        """
        name = f"{next(self._loads)}"
        orders = {
            "name": name,
            "url": url,
            "rate": rate,
            "seconds": seconds,
            "connections": connections,
            "keep": keep,
            "expected": expected,
            "token": token,
            "ca": ca,
        }
        command = ["exec", "--stdin", _NAME, "--", "python3", "/tools/load.py"]
        load = Load(self._namespace, name, self._namespace.start(*command, stdin=json.dumps(orders)))
        if wait:
            load.wait_started()
        return load


def _pod(labels: Mapping[str, str]) -> dict[str, Any]:
    container = {
        "name": _NAME,
        "image": TOOLS,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _WAIT],
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _NAME, "labels": {"app": _NAME, **labels}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": POD_SECURITY,
            "containers": [container],
        },
    }
