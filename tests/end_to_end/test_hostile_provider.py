"""The real program with an issuer whose provider or proxy sends endlessly: others and the memory are not affected.

What is read in one turn of the event loop, and how much of it is parsed, is proved in ``tests/providers``.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from transport.wire import AUDIENCE, ISSUER, check_request, read, signed

from authz_service.transport.services import SERVICE
from support.key_source import jwks
from support.raw_provider import RawProvider, send_endless
from support.sidecar_process import HANG_TIMEOUT, SidecarProcess, wait_until

if TYPE_CHECKING:
    from transport.wire import Answer

MAX_GROWTH = 16 * 1024  # KiB; a single response once added 140 MB
METHOD = f"/{SERVICE}/Check"


def config(folder: Path, provider: str, proxy: str) -> Path:
    """One issuer with keys in a file, and one whose keys and introspection are the provider's."""
    (folder / "jwks.json").write_bytes(jwks("a"))
    (folder / "secret").write_text("secret")
    introspection = {
        "endpoint": f"{provider}/introspect",
        "client_id": "api",
        "client_secret_file": "secret",
        "timeout": "5s",
    }
    settings = {
        "server": {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0", "check_deadline": "10s"},
        "issuers": [
            {"issuer": ISSUER, "name": "good", "audiences": [AUDIENCE], "keys": {"jwks_file": "jwks.json"}},
            {
                "issuer": "https://hostile.example",
                "name": "hostile",
                "audiences": [AUDIENCE],
                "keys": {"jwks_uri": f"{provider}/keys", "proxy": proxy},
                "introspection": introspection,
            },
        ],
        "rules": [{"name": "all"}],
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(settings))
    return file


def resident(sidecar: SidecarProcess) -> int:
    """The resident memory in KiB."""
    assert sidecar.process is not None
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{sidecar.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _has_logged(sidecar: SidecarProcess, event: str) -> bool:
    return bool(sidecar.records(event))


@pytest.mark.parametrize("kind", ["informational responses", "header lines", "chunks with extensions", "content"])
async def test_twenty_endless_responses_end_and_do_not_affect_other_issuers(tmp_path: Path, kind: str) -> None:
    async with RawProvider(send_endless(kind)) as hostile:
        file = config(tmp_path, hostile.origin, "none")
        await _require_unaffected(file, tmp_path, f"the response from {hostile.origin}/PLACE ")


@pytest.mark.parametrize("kind", ["informational responses", "header lines", "content"])
async def test_twenty_endless_responses_of_a_proxy_end_and_do_not_affect_other_issuers(
    tmp_path: Path, kind: str
) -> None:
    async with RawProvider(send_endless(kind)) as hostile:
        file = config(tmp_path, "https://hostile.example", hostile.origin)
        await _require_unaffected(
            file,
            tmp_path,
            f"the response from the proxy {hostile.origin} ",
            f"the proxy {hostile.origin} ",
            "TLS with https://hostile.example/PLACE failed ",  # the content arrived later than the head
        )


async def _require_unaffected(file: Path, folder: Path, *causes: str) -> None:
    """``causes`` are the possible beginnings of a logged cause. PLACE stands for the path of the request."""
    async with (
        SidecarProcess(file, folder / "log", wait_until_ready=False) as sidecar,
        grpc.aio.insecure_channel(f"unix:{folder / 's'}") as channel,
    ):
        check = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)

        async def call(token: str) -> Answer:
            return read(await check(check_request(token=token), timeout=HANG_TIMEOUT))

        good = signed("a", now=time.time())
        assert (await call(good)).reason == "ok"
        await wait_until(partial(_has_logged, sidecar, "fetching keys failed"))  # the first fetch has failed
        before = resident(sidecar)
        hostile_answers = [asyncio.create_task(call(f"opaque-{number}")) for number in range(20)]
        while not all(each.done() for each in hostile_answers):
            assert (await call(good)).reason == "ok"
        for each in hostile_answers:
            assert each.result().reason == "introspection_unavailable"
        assert resident(sidecar) - before < MAX_GROWTH
        for event, place in (("fetching keys failed", "keys"), ("introspection failed", "introspect")):
            await wait_until(partial(_has_logged, sidecar, event))  # a thread writes the log
            expected = tuple(cause.replace("PLACE", place) for cause in causes)
            logged = {record["cause"] for record in sidecar.records(event)}
            assert {cause for cause in logged if not cause.startswith(expected)} == set()
