"""A sidecar imports what its configuration uses, and the remainder when a reload begins to use it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.runtime import assembly
from support.configured_app import ConfigFolder, issuer
from support.key_source import jwks
from support.sidecar_process import SidecarProcess, wait_until
from support.uncovered import PYTHON

if TYPE_CHECKING:
    from pathlib import Path

# The modules of each feature that a plain configuration does not use, and what these alone need.
INTROSPECTION = {
    *("tokens.introspection.introspector", "tokens.introspection.http_client", "providers.client_authentication"),
    *("tokens.introspection.query", "tokens.introspection.response"),
    "jwt",  # which signs client assertions
}
SECURITY_EVENTS = {"tokens.revocation.receiver", "tokens.revocation.poll_client", "tokens.revocation.event_file"}
TRACING = {"runtime.tracing", "transport.otlp"}
PROVIDERS = {"providers.client", "keys.http_source"}  # of an issuer whose keys are not in a file
UNUSED = {
    *("grpc", "transport.grpcio_server"),  # of transport: grpcio
    *("transport.tls.certificates", "transport.tls.listener", "cryptography.x509"),  # of certificates
    *("keys.pem", "config.revocations", "tokens.revocation.file"),  # of files
    *("runtime.worker_channel", "runtime.supervisor", "telemetry.merged_metrics"),  # of several workers
    *("demo", "policy_tools", "initial_config", "transport.healthcheck"),  # of other commands
    "google.protobuf.json_format",  # of explain
    *("email", "http.client", "importlib.metadata", "multiprocessing", "prometheus_client", "pydantic"),  # of nothing
}


PROGRAM = """
import atexit, pathlib, sys, threading
modules, watched, found = map(pathlib.Path, {paths!r})

def watch(event, arguments):
    if event == "import" and threading.current_thread() is threading.main_thread() and watched.exists():
        with found.open("a") as file:
            file.write(f"{{arguments[0]}}\\n")

sys.addaudithook(watch)
atexit.register(lambda: modules.write_text("\\n".join(sys.modules)))
from authz_service.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Sidecar:
    """A running sidecar that writes what it has imported when it ends, and what its event loop imports meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.yaml"
        self.modules = folder / "modules"
        self.watched = folder / "watched"  # exists while the imports of the event loop are recorded
        self.by_event_loop = folder / "by-event-loop"
        (folder / "jwks.json").write_bytes(jwks("a"))
        self.issuer: dict[str, Any] = {"issuer": "https://issuer.example", "audiences": ["api"]}
        self.issuer["keys"] = {"jwks_file": "jwks.json"}

    def write(self, issuer: dict[str, Any] | None = None, **parts: Any) -> None:
        server = {"grpc_address": f"unix:{self.folder / 's'}", "admin_address": "127.0.0.1:0"}
        issuers = [self.issuer | (issuer or {})]
        self.file.write_text(json.dumps({"server": server, "issuers": issuers, "rules": [{"name": "all"}], **parts}))

    def process(self) -> SidecarProcess:
        code = PROGRAM.format(paths=[str(self.modules), str(self.watched), str(self.by_event_loop)])
        return SidecarProcess(self.file, self.folder / "log", program=[*PYTHON, "-c", code])

    def imported(self) -> set[str]:
        """The modules, ours without the package's name, and their packages."""
        names = {name.removeprefix("authz_service.") for name in self.modules.read_text().split()}
        return {".".join(name.split(".")[: size + 1]) for name in names for size in range(name.count(".") + 1)}


async def test_a_plain_sidecar_imports_no_feature_that_it_does_not_use(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.write()
    async with sidecar.process() as process:
        await process.get("/metrics")
    imported = sidecar.imported()
    assert "transport.asyncio_server" in imported
    assert imported & (INTROSPECTION | SECURITY_EVENTS | TRACING | PROVIDERS | UNUSED) == set()


async def test_a_thread_imports_the_features_that_a_reload_begins_to_use(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.write()
    async with sidecar.process() as process:
        (tmp_path / "secret").write_text("s")
        client = {"client_id": "c", "client_secret_file": "secret"}
        endpoint = "http://127.0.0.1:1/introspect"
        sidecar.write(
            {
                "introspection": client | {"endpoint": endpoint},
                "security_events": client | {"poll_endpoint": "http://127.0.0.1:1/poll", "audience": "events"},
                "keys": {"jwks_uri": "http://127.0.0.1:1/", "timeout": "50ms"},
            },
            tracing={"otlp_endpoint": "http://127.0.0.1:1"},
        )
        assert process.process is not None
        sidecar.watched.touch()
        process.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: bool(process.records("configuration applied")))
        sidecar.watched.unlink()
    assert sidecar.imported() >= INTROSPECTION | SECURITY_EVENTS | TRACING | PROVIDERS
    imports = sidecar.by_event_loop.read_text().split() if sidecar.by_event_loop.exists() else []
    assert [name for name in imports if name.startswith("authz_service.")] == []  # a thread has imported them


async def test_a_feature_that_cannot_be_imported_rejects_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ConfigFolder(tmp_path)
    async with config.serving(config.load()) as app:
        before = app.active

        def fail(name: str) -> Any:
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(assembly, "import_module", fail)
        changed = config.load(issuer(), tracing={"otlp_endpoint": "http://127.0.0.1:1"})
        with pytest.raises(ModuleNotFoundError):
            await app.apply_config(changed)
        assert app.active is before
