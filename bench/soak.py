"""A million requests through a real Envoy while rules and keys change: none wrong, none lost, flat memory.

h2load must count the expected status for every request.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz_service.demo.envoy import binary
from bench.behind_envoy import FIRST_PORT, bootstrap, ext_authz, listens
from bench.load import memory
from bench.servers import PYTHON, is_ready, running
from bench.subject import ASYNCIO, HOST, PATH, Subject, configuration, token

CHECKS = int(os.environ.get("SOAK_CHECKS", "1000000"))
CHUNK = 25_000  # requests in one run of h2load
KEYS = 3  # published at a time; a token's key stays for two rotations
_OK, _UNAUTHORIZED = 200, 401


class ChangingFiles:
    """The files of a sidecar: its rules change every second, and its keys with each chunk."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._keys: list[tuple[str, Any]] = []
        self._stopped = threading.Event()
        self.reloads = self.rotations = 0

    def rotate(self) -> str:
        """Publish a new key and remove the oldest; returns a token signed by the new one."""
        self.rotations += 1
        self._keys = [*self._keys, (f"key-{self.rotations}", ec.generate_private_key(ec.SECP256R1()))][-KEYS:]
        published = [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} for kid, key in self._keys]
        _replace(self._subject.folder / "jwks.json", json.dumps({"keys": published}))
        kid, key = self._keys[-1]
        return token("ES256", key, kid=kid)

    def change_rules(self) -> None:
        """Change the configuration every second, without an effect on the decisions."""
        while not self._stopped.wait(1):
            self.reloads += 1
            changed = configuration(ASYNCIO).replace("rule-1\n", f"rule-1-{self.reloads % 2}\n")
            _replace(self._subject.config(ASYNCIO), changed)

    def stop(self) -> None:
        """Stop the changes."""
        self._stopped.set()


def _replace(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


def send(bearer: str, calls: int, expected: int) -> None:
    """Send this number of requests, which must all get this status."""
    url = f"http://127.0.0.1:{FIRST_PORT}{PATH}"
    headers = ("-H", f":authority: {HOST}", "-H", f"authorization: Bearer {bearer}")
    command = ["h2load", "-n", str(calls), "-c", "2", "-m", "16", *headers, url]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if f"{calls} done" not in printed or not re.search(rf"\b{calls} {expected // 100}xx", printed):
        raise AssertionError(printed)


def main() -> int:
    """Run; returns the exit status."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        subject = Subject(Path(name))
        changing = ChangingFiles(subject)
        bearer = changing.rotate()
        command = [*PYTHON, "-m", "authz_service", "serve", "--config", str(subject.config(ASYNCIO))]
        sidecar, _ = stack.enter_context(running(command, partial(is_ready, ASYNCIO)))
        config, admin = subject.folder / "envoy.json", subject.folder / "envoy-admin"
        config.write_text(json.dumps(bootstrap({"soak": [ext_authz(ASYNCIO)]})))
        envoy = [binary(), "--config-path", str(config), "--admin-address-path", str(admin), "--disable-hot-restart"]
        stack.enter_context(running([*envoy, "--log-level", "error"], partial(listens, admin)))
        threading.Thread(target=changing.change_rules, daemon=True).start()
        stack.callback(changing.stop)
        done, started = 0, time.perf_counter()
        while done < CHECKS:
            forged = bearer[:-8] + "AAAAAAAA"
            send(bearer, CHUNK * 4 // 5, _OK)
            send(forged, CHUNK // 5, _UNAUTHORIZED)
            done += CHUNK
            bearer = changing.rotate()
            time.sleep(1.5)  # the key file is polled every second
            if done % (CHUNK * 8) == 0:
                seconds = time.perf_counter() - started
                progress = f"{done:,} checks, {changing.reloads} reloads, {changing.rotations} rotations"
                print(f"  {seconds:5.0f} s  {progress}, memory {memory(sidecar.pid):.0f} MB", flush=True)
    print("every request got its expected status")
    return 0


if __name__ == "__main__":
    sys.exit(main())
