"""The decision log of the real program in a file of its own: complete through workers, rotations and reloads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from support.mesh import running
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.demo.envoy import Envoy

REQUESTS = 30


async def send(envoy: Envoy, path: str, token: str) -> None:
    """Several requests, each over a connection of its own."""
    for _ in range(REQUESTS):
        async with (
            aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session,
            session.get(f"http://127.0.0.1:{envoy.port}{path}") as response,
        ):
            assert response.status == 200


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.asyncio
async def test_every_decision_is_one_line_of_the_file_through_rotations_and_a_reload(tmp_path: Path) -> None:
    logged = "logging: {decisions: all, decisions_file: decisions.log}\n"
    file, moved, other = (tmp_path / name for name in ("decisions.log", "decisions.log.1", "other.log"))
    async with running(tmp_path, logged, workers=2) as mesh, mesh.envoy(checks_per_connection=1) as envoy:
        token = mesh.provider.access_token()
        await send(envoy, "/v1/appointments/1", token)
        await wait_until(lambda: len(lines(file)) == REQUESTS)
        assert {line["worker"] for line in lines(file)} == {1, 2}
        file.rename(moved)
        await send(envoy, "/v1/appointments/2", token)
        await wait_until(lambda: len(lines(file)) == REQUESTS)
        assert {line["path"] for line in lines(moved)} == {"/v1/appointments/1"}
        assert {line["path"] for line in lines(file)} == {"/v1/appointments/2"}
        mesh.config.write_text(mesh.config.read_text().replace("decisions.log", "other.log"))
        for _ in range(100):
            await send(envoy, "/v1/appointments/3", token)
            if {line["worker"] for line in lines(other)} == {1, 2}:
                break
        assert {line["worker"] for line in lines(other)} == {1, 2}
        assert mesh.sidecar.records("decision") == []
        assert await mesh.sidecar.metric("authz_decision_log_lines_lost_total") == [0.0]
