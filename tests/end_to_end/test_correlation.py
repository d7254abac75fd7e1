"""A decision is found by the ids of its request: in the sidecar's log, and in the access log of the real Envoy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from support.envoy_bootstrap import VariedBootstrap, connection_manager
from support.mesh import TRANSPORTS, Mesh, running
from support.sidecar_process import HANG_TIMEOUT, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
IDS = {"x-request-id": "8f4b2a4e-5e8e-9c1e-8f6f-0a1b2c3d4e5f", "traceparent": f"00-{TRACE}-{SPAN}-01"}
EXPECTED = {"request_id": IDS["x-request-id"], "trace_id": TRACE, "span_id": SPAN}
MEMBERS = ("decision_id", "decision", "reason", "issuer", "subject", "client_id", *EXPECTED)


@dataclass(frozen=True)
class LoggingBootstrap(VariedBootstrap):
    """An Envoy that keeps the caller's request id and logs the dynamic metadata of each request."""

    access_log: str = ""
    traces: bool = False

    def document(self) -> dict[str, Any]:
        document = super().document()
        manager = connection_manager(document)
        manager["generate_request_id"] = False
        metadata = {name: f"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{name})%" for name in MEMBERS}
        log_format = {"json_format": metadata | {"path": "%REQ(:PATH)%", "envoys_trace": "%TRACE_ID%"}}
        if self.traces:
            manager["tracing"] = {
                "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": self._collector()}
            }
        manager["access_log"] = [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": self.access_log,
                    "log_format": log_format,
                },
            }
        ]
        return document

    def _collector(self) -> dict[str, Any]:
        """The upstream, which accepts whatever it gets: the spans that Envoy sends are not looked at."""
        uri = {"uri": f"http://127.0.0.1:{self.upstream_port}/v1/traces", "cluster": "upstream", "timeout": "1s"}
        return {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "http_service": {"http_uri": uri},
        }


class Logs:
    """The mesh, and the lines of both logs about one path."""

    def __init__(self, mesh: Mesh, envoy: Envoy, access_log: Path) -> None:
        self.mesh = mesh
        self._envoy = envoy
        self._access_log = access_log

    async def lines_of(self, path: str, token: str, **headers: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The line in the sidecar's log and the one in Envoy's about a request."""
        headers |= {"authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self._envoy.port}{path}", headers=headers),
        ):
            pass
        await wait_until(lambda: bool(self._ours(path)))
        async with asyncio.timeout(HANG_TIMEOUT):
            while not self._envoys(path):  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.05)
        (ours,), (envoys,) = self._ours(path), self._envoys(path)
        return ours, envoys

    def _ours(self, path: str) -> list[dict[str, Any]]:
        return [line for line in self.mesh.sidecar.records("decision") if line["path"] == path]

    def _envoys(self, path: str) -> list[dict[str, Any]]:
        written = self._access_log.read_text().splitlines() if self._access_log.exists() else []
        return [line for line in map(json.loads, written) if line["path"] == path]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=TRANSPORTS, ids=str)
async def logs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Logs]:
    folder = tmp_path_factory.mktemp("correlation")
    access_log = folder / "access.log"
    async with running(folder, "logging: {decisions: all}\n", **request.param) as mesh:
        own = mesh.bootstrap
        mesh.bootstrap = LoggingBootstrap(own.sidecar, own.upstream_port, access_log=str(access_log))

        async with mesh.envoy() as envoy:
            yield Logs(mesh, envoy, access_log)


async def test_an_allowance_has_the_ids_in_both_logs(logs: Logs) -> None:
    for place in range(2):  # the second one from the cache
        ours, envoys = await logs.lines_of(f"/v1/appointments/{place}", logs.mesh.provider.access_token(), **IDS)
        assert {name: ours[name] for name in EXPECTED} == EXPECTED
        assert {name: envoys[name] for name in EXPECTED} == EXPECTED
        assert ours["decision_id"] == envoys["decision_id"]


async def test_a_denial_of_a_verified_token_names_whose_it_is_in_both_logs(logs: Logs) -> None:
    ours, envoys = await logs.lines_of("/v1/appointments/expired", logs.mesh.provider.expired_token(), **IDS)
    identity = {"reason": "expired", "issuer": "demo", "subject": "alice"}
    assert ours.items() >= (identity | EXPECTED).items()
    assert envoys.items() >= (identity | EXPECTED).items()
    assert ours["client_id"] == envoys["client_id"] != ""


async def test_what_an_unverified_token_claims_is_in_our_log_only(logs: Logs) -> None:
    token = logs.mesh.provider.access_token(iss="https://evil.demo/")
    ours, envoys = await logs.lines_of("/v1/appointments/evil", token, **IDS)
    assert (ours["reason"], ours["unverified_issuer"]) == ("unknown_issuer", "https://evil.demo/")
    assert "evil" not in json.dumps(envoys).replace(envoys["path"], "")
    assert (envoys["issuer"], envoys["subject"]) == ("", "")


async def test_malformed_ids_are_absent_from_both_logs(logs: Logs) -> None:
    bad = {"x-request-id": "a b", "traceparent": f"00-{TRACE}-{SPAN}"}
    ours, envoys = await logs.lines_of("/v1/appointments/malformed", logs.mesh.provider.access_token(), **bad)
    assert not ours.keys() & EXPECTED.keys()
    assert [envoys[name] for name in EXPECTED] == [None] * 3


@pytest.mark.parametrize("sent", [{}, {"traceparent": IDS["traceparent"]}], ids=["begun by Envoy", "of the client"])
async def test_the_trace_of_an_envoy_that_traces_is_in_both_logs(
    logs: Logs, tmp_path: Path, sent: dict[str, str]
) -> None:
    path = f"/v1/appointments/traced{len(sent)}"
    bootstrap = logs.mesh.bootstrap
    assert isinstance(bootstrap, LoggingBootstrap)
    logs.mesh.bootstrap = replace(bootstrap, traces=True, access_log=str(tmp_path / "access.log"))
    async with logs.mesh.envoy() as envoy:
        traced = Logs(logs.mesh, envoy, tmp_path / "access.log")
        ours, envoys = await traced.lines_of(path, logs.mesh.provider.expired_token(), **sent)
    logs.mesh.bootstrap = bootstrap
    assert ours["trace_id"] == envoys["trace_id"] == envoys["envoys_trace"]
    assert ours["span_id"] == envoys["span_id"] != SPAN  # of Envoy's call, not of the client's
    assert not sent or ours["trace_id"] == TRACE
