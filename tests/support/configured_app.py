"""An app that serves by a configuration of the test, and reloads another one."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transport.wire import Answer, check_request, read, signed

from authz_service.runtime import preflight
from authz_service.runtime.application import App
from support.key_source import jwks
from support.samples import collected
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.config.model import Logging
    from authz_service.runtime.preflight import Loaded
    from authz_service.telemetry.metrics import Metrics
    from support.http_provider import Provider


class LogLevels(list[str]):
    """The configured log levels."""

    def append(self, level: str) -> None:
        """A method of its own, which a test can replace."""
        super().append(level)


class ConfigFolder:
    """A folder with a configuration file and a key set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.yaml"
        self.log_levels = LogLevels()
        (folder / "jwks.json").write_bytes(jwks("a"))

    def load(self, *issuers: dict[str, Any], **parts: Any) -> Loaded:
        """Write a configuration and read it as the service does."""
        server = {"grpc_address": f"unix:{self.folder / 's'}", "admin_address": "127.0.0.1:0"}
        configuration = {
            "server": server | parts.pop("server", {}),
            "issuers": issuers or [issuer()],
            "rules": parts.pop("rules", [{"name": "everything"}]),
        }
        self.file.write_text(json.dumps(configuration | parts))
        return preflight.read(self.file)

    def configure_logs(self, settings: Logging) -> None:
        self.log_levels.append(settings.level)

    @contextlib.asynccontextmanager
    async def serving(self, loaded: Loaded) -> AsyncIterator[App]:
        app = App(loaded.settings, self.configure_logs)
        try:
            await app.start()
            await wait_until(lambda: app.missing() == [])
            yield app
        finally:
            await app.close()

    def serve_introspection(self, provider: Provider, **members: Any) -> None:
        """Make a provider report every token as active, with these members."""
        (self.folder / "secret").write_text("s")
        response = {"active": True, "sub": "u1", "aud": "api", "exp": int(time.time()) + 600} | members
        provider.serve("/introspect", json.dumps(response), content_type="application/json")


def issuer(name: str = "main", **settings: Any) -> dict[str, Any]:
    own = {"issuer": f"https://{name}.example", "name": name, "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    return own | settings


def introspected_issuer(provider: Provider, **settings: Any) -> dict[str, Any]:
    endpoint = {"endpoint": f"{provider.origin}/introspect", "client_id": "api", "client_secret_file": "secret"}
    return issuer(introspection=endpoint | settings)


def token(name: str = "main", kid: str = "a", **claims: Any) -> str:
    given: dict[str, Any] = {"iss": f"https://{name}.example", "aud": "api"} | claims
    return signed(kid, now=time.time(), **given)


async def decide(app: App, credential: str) -> Answer:
    return read(await app.servicer.check(check_request(token=credential), None))


async def reload(app: App, loaded: Loaded) -> None:
    """Reload as after a change of the file; a failure is logged and counted."""
    reloader = app.reloader(Path("not-read"), loaded)
    reloader._load = lambda _: loaded
    await reloader._reload(requested=True)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of the first sample with this name and at least these labels."""
    samples = (each for family in collected(metrics.registry) for each in family.samples)
    return next((each.value for each in samples if each.name == name and labels.items() <= each.labels.items()), None)
