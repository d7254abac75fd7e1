"""One real Keycloak for all processes of a test run: fetched once, built once, started by its first user.

It is fetched from Maven Central into a folder beside the tests and verified by its digest. Its database is in memory:
each start is a new one. It ends with its last user, see while_used.py. A test can also have its own, with a database in
a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, build_opener

from support.missing import not_proved, program

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "26.7.3"
_SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
_ARCHIVE = f"keycloak-quarkus-dist-{VERSION}.zip"
_CENTRAL = f"https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/{VERSION}/{_ARCHIVE}"
_MIN_JAVA = 17

_FOLDER = Path(__file__).parent.parent / "end_to_end" / ".keycloak"
_DOWNLOAD = _FOLDER / "download"
_HOME = _FOLDER / f"keycloak-{VERSION}"
_LOG = _FOLDER / "keycloak.log"
_WHILE_USED = Path(__file__).with_name("while_used.py")
_FETCH_TIMEOUT, _BUILD_TIMEOUT, _START_TIMEOUT, _RESPONSE_TIMEOUT = 300.0, 300.0, 300.0, 10.0  # seconds
_POLL_INTERVAL = 0.1

# Clients' certificates are in the header that Envoy writes, as if an Envoy in front of Keycloak terminated mutual TLS.
# Only realms that are configured to do so transmit security events (the feature ssf).
_BUILD = ("build", "--db=dev-mem", "--features=ssf", "--spi-x509cert-lookup--provider=envoy")
_START = (
    *("start", "--optimized", "--cache=local", "--http-enabled=true", "--http-host=127.0.0.1"),
    *("--hostname-strict=false", "--log-level=warn,io.quarkus:info"),
)
# A JVM that starts fast and stays small.
_JAVA_OPTS = "-Xms96m -Xmx384m -XX:MaxMetaspaceSize=256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
_LISTENING = re.compile(r"Listening on: (http://127\.0\.0\.1:\d+)")
_ADMIN = "test-admin"
_DIRECT = build_opener(ProxyHandler({}))  # not through a proxy of the environment


@dataclass(frozen=True, slots=True)
class Server:
    """Where a running Keycloak listens, and the secret of its administrator, a client of the realm ``master``."""

    url: str
    secret: str = field(repr=False)

    @property
    def administrator(self) -> dict[str, str]:
        """The client's credentials, as members of a token request."""
        return {"client_id": _ADMIN, "client_secret": self.secret}


@contextmanager
def keycloak(promise: str) -> Iterator[Server]:
    """The running Keycloak; started if it does not run. Without Java, ``promise`` is not proved."""
    _require_java(promise)
    with ExitStack() as stack:
        with _installing():
            users = stack.enter_context((_FOLDER / "users").open("ab"))
            fcntl.flock(users, fcntl.LOCK_SH)
            server = _running() or _started(promise)
        yield server


def run_kcadm(server: Server, commands: str, folder: Path) -> str:
    """Run shell commands that call ``kcadm.sh`` as the administrator; returns what they print."""
    script = f"set -eu\n{kcadm_script(server, 'kcadm.sh')}\n{commands}"
    return _run(["bash", "-c", script], _BUILD_TIMEOUT, folder)


def kcadm_script(server: Server, name: str = "kcadm") -> str:
    """Shell commands that define the function ``name``, which is ``kcadm.sh`` as the administrator."""
    return f"""{name}() {{ JAVA_OPTS="{_JAVA_OPTS}" bash "{_HOME}/bin/kcadm.sh" "$@" --config kcadm.config; }}
        {name} config credentials --server {server.url} --realm master --client {_ADMIN} --secret {server.secret}"""


class OwnKeycloak:
    """A Keycloak that stops and starts again at the same address, with the data that it keeps in ``folder``."""

    def __init__(self, folder: Path, promise: str) -> None:
        """Without Java, ``promise`` is not proved."""
        _require_java(promise)
        with _installing():
            _install(promise)
        self._users, self._log = folder / "users", folder / "keycloak.log"
        self._database = f"--db-url=jdbc:h2:file:{folder}/keycloak;NON_KEYWORDS=VALUE;WRITE_DELAY=0"
        self._lock: BinaryIO | None = None
        self._pid = 0
        self.server = Server("", secrets.token_urlsafe(24))

    def start(self) -> None:
        """Start it."""
        self._lock = self._users.open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        port = urlsplit(self.server.url).port or 0
        self._pid = _spawn(self._users, self._log, self.server.secret, f"--http-port={port}", self._database)
        self.server = replace(self.server, url=_url(self._pid, self._log))

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            os.waitpid(self._pid, 0)


@contextmanager
def _installing() -> Iterator[None]:
    """No other process installs or starts it meanwhile."""
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Running.


def _running() -> Server | None:
    state = _FOLDER / "running.json"
    if not state.exists():
        return None
    server = Server(**json.loads(state.read_text()))
    form = urlencode(server.administrator | {"grant_type": "client_credentials"}).encode()
    url = f"{server.url}/realms/master/protocol/openid-connect/token"
    try:
        with _DIRECT.open(url, form, timeout=_RESPONSE_TIMEOUT):
            return server
    except (URLError, TimeoutError):
        return None


def _started(promise: str) -> Server:
    _install(promise)
    secret = secrets.token_urlsafe(24)
    server = Server(_url(_spawn(_FOLDER / "users", _LOG, secret, "--http-port=0"), _LOG), secret)
    state = _FOLDER / "running.json"
    state.touch(mode=0o600)
    state.write_text(json.dumps(asdict(server)))
    return server


def _spawn(users: Path, log: Path, secret: str, *options: str) -> int:
    """Start it for as long as ``users`` is locked; returns the process id."""
    environment = _environment() | {
        "KC_BOOTSTRAP_ADMIN_CLIENT_ID": _ADMIN,
        "KC_BOOTSTRAP_ADMIN_CLIENT_SECRET": secret,
    }
    log.write_text("")
    command = [sys.executable, str(_WHILE_USED), str(users), str(log), *_kc(*_START, *options)]
    null = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in range(3)]
    # Not subprocess, which warns about a child that outlives this process.
    return os.posix_spawn(sys.executable, command, environment, file_actions=null, setsid=True)


def _url(pid: int, log: Path) -> str:
    """Wait until it listens."""
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if found := _LISTENING.search(log.read_text(errors="replace")):
            return found[1]
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(_POLL_INTERVAL)
    raise AssertionError(f"Keycloak does not listen: {log.read_text(errors='replace')[-2000:]}")


# Installing.


def _require_java(promise: str) -> None:
    home = os.environ.get("JAVA_HOME")
    java = program(f"{home}/bin/java" if home else "java", promise)
    output = subprocess.run([java, "-version"], check=False, capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', output)
    if found is None or int(found[1]) < _MIN_JAVA:
        not_proved(promise, missing=f"Java {_MIN_JAVA} or newer")


def _install(promise: str) -> None:
    """Fetch and unpack it once, and build it when the options are not those of the last build."""
    unpacked, built = _HOME / ".unpacked", _HOME / ".built"
    if _text(unpacked) != _SHA256:
        for leftover in (_DOWNLOAD, _HOME):  # of an installation that was interrupted
            shutil.rmtree(leftover, ignore_errors=True)
        _DOWNLOAD.mkdir()
        _fetch(promise)
        unpack(_DOWNLOAD / _ARCHIVE, _SHA256, _FOLDER)
        unpacked.write_text(_SHA256)
        shutil.rmtree(_DOWNLOAD)
    if _text(built) != (options := json.dumps(_BUILD)):
        _run(_kc(*_BUILD), _BUILD_TIMEOUT)
        built.write_text(options)


def _text(stamp: Path) -> str | None:
    return stamp.read_text() if stamp.exists() else None


def unpack(archive: Path, sha256: str, folder: Path) -> None:
    """Unpack the archive if it is the expected one."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert digest == sha256, f"{archive.name} has the SHA-256 {digest}, expected {sha256}"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)


def _fetch(promise: str) -> None:
    """Download the archive, by Maven where there is one, since it knows this machine's mirrors."""
    maven = shutil.which("mvn")
    if maven:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
        command = [maven, "-B", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={_DOWNLOAD}"]
    else:
        command = [program("curl", promise), "-fsSL", "--output", str(_DOWNLOAD / _ARCHIVE), _CENTRAL]
    done = subprocess.run(command, cwd=_DOWNLOAD, check=False, capture_output=True, text=True, timeout=_FETCH_TIMEOUT)
    if done.returncode:
        not_proved(promise, missing=f"{_ARCHIVE} of Maven Central ({(done.stdout + done.stderr).strip()[-500:]})")


def _kc(*arguments: str) -> list[str]:
    return ["bash", str(_HOME / "bin" / "kc.sh"), *arguments]


def _run(command: list[str], timeout: float, folder: Path | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    """This process's environment without options of another Keycloak or JVM, and without measuring coverage."""
    others = ("KC_", "JAVA_OPTS", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {"JAVA_OPTS": _JAVA_OPTS}
