"""A million checks through a real Envoy while rules and keys change: none wrong, none lost, flat memory.

Law: what is expected of each request is said before it is sent; h2load must count every one of them as it was said.
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
CHUNK = 25_000  # of one h2load
KEYS = 3  # published at a time; a token's key stays for two rotations
_OK, _UNAUTHORIZED = 200, 401


class Changing:
    """The files of a sidecar, which change: its rules once a second, its keys at each chunk."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._keys: list[tuple[str, Any]] = []
        self._ended = threading.Event()
        self.reloads = self.rotations = 0

    def rotate(self) -> str:
        """Publish a new key and take the oldest away; returns a token signed by the new one."""
        self.rotations += 1
        self._keys = [*self._keys, (f"key-{self.rotations}", ec.generate_private_key(ec.SECP256R1()))][-KEYS:]
        published = [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} for kid, key in self._keys]
        _replace(self._subject.folder / "jwks.json", json.dumps({"keys": published}))
        kid, key = self._keys[-1]
        return token("ES256", key, kid=kid)

    def reload_for_ever(self) -> None:
        """Change what decides nothing about the requests, but makes the configuration another one."""
        while not self._ended.wait(1):
            self.reloads += 1
            changed = configuration(ASYNCIO).replace("rule-1\n", f"rule-1-{self.reloads % 2}\n")
            _replace(self._subject.config(ASYNCIO), changed)

    def end(self) -> None:
        """Change nothing more."""
        self._ended.set()


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def sent(bearer: str, calls: int, expected: int) -> None:
    """Send so many requests, each of which must have this status."""
    url = f"http://127.0.0.1:{FIRST_PORT}{PATH}"
    headers = ("-H", f":authority: {HOST}", "-H", f"authorization: Bearer {bearer}")
    command = ["h2load", "-n", str(calls), "-c", "2", "-m", "16", *headers, url]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if f"{calls} done" not in printed or not re.search(rf"\b{calls} {expected // 100}xx", printed):
        raise AssertionError(printed)


def main() -> int:
    """Soak; returns the exit status."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        subject = Subject(Path(name))
        changing = Changing(subject)
        bearer = changing.rotate()
        command = [*PYTHON, "-m", "authz_service", "serve", "--config", str(subject.config(ASYNCIO))]
        sidecar, _ = stack.enter_context(running(command, partial(is_ready, ASYNCIO)))
        config, admin = subject.folder / "envoy.json", subject.folder / "envoy-admin"
        config.write_text(json.dumps(bootstrap({"soak": [ext_authz(ASYNCIO)]})))
        envoy = [binary(), "--config-path", str(config), "--admin-address-path", str(admin), "--disable-hot-restart"]
        stack.enter_context(running([*envoy, "--log-level", "error"], partial(listens, admin)))
        threading.Thread(target=changing.reload_for_ever, daemon=True).start()
        stack.callback(changing.end)
        done, started = 0, time.perf_counter()
        while done < CHECKS:
            forged = bearer[:-8] + "AAAAAAAA"
            sent(bearer, CHUNK * 4 // 5, _OK)
            sent(forged, CHUNK // 5, _UNAUTHORIZED)
            done += CHUNK
            bearer = changing.rotate()
            time.sleep(1.5)  # a key file is looked at once a second
            if done % (CHUNK * 8) == 0:
                seconds = time.perf_counter() - started
                told = f"{done:,} checks, {changing.reloads} reloads, {changing.rotations} rotations"
                print(f"  {seconds:5.0f} s  {told}, memory {memory(sidecar.pid):.0f} MB", flush=True)
    print("every one of them was decided as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
