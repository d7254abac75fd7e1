"""The pages on shadow mode and on changes of the configuration: what the running program logs and counts."""

from __future__ import annotations

import json
import re
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import grpc
import yaml
from transport.wire import check_request, read

from authz_service.transport.services import SERVICE
from support import offline
from support.console import printed
from support.documents import blocks, page, section
from support.sidecar_process import SidecarProcess, wait_until
from support.trust import RS, claims

if TYPE_CHECKING:
    from pathlib import Path

SHADOW, CHANGES = page("how-to/shadow-mode"), page("how-to/change-configuration")


def configuration(folder: Path) -> dict[str, Any]:
    """The one of the page on shadow mode, written to its file."""
    (block,) = blocks(SHADOW, "yaml", "config.yaml")
    server = {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0"}
    return offline.written(yaml.safe_load(block.text) | {"server": server}, folder, RS)


def replace(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "new.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "new.yaml").rename(folder / "config.yaml")


async def check(folder: Path, method: str, path: str, **others: Any) -> tuple[bool, str]:
    async with grpc.aio.insecure_channel(f"unix:{folder / 's'}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Check")
        answer = read(await call(check_request(method, path, host="legacy.example.com", **others)))
    return answer.allowed, answer.reason


def counted(log: str, folder: Path) -> str:
    """What the command of the page prints for this log."""
    (command,) = (block.text for block in blocks(SHADOW, "sh") if block.text.startswith("jq ") and log in block.text)
    return printed(command, folder)


async def test_the_command_counts_the_clients_that_would_be_denied_until_the_rule_is_enforced(tmp_path: Path) -> None:
    settings = configuration(tmp_path)
    members = {"iss": "https://idp.example.com/", "aud": "https://legacy.example.com/", "scope": "records.read"}
    token = RS.sign(claims(**members, client_id="web", iat=1_700_000_000, exp=4_000_000_000))
    async with SidecarProcess(tmp_path / "config.yaml", tmp_path / "authz.log") as sidecar:
        for _ in range(2):
            assert await check(tmp_path, "GET", "/records/7") == (True, "missing_token")
        assert await check(tmp_path, "GET", "/records/7", token=token) == (True, "ok")
        assert await check(tmp_path, "PUT", "/records/7", token=token) == (True, "insufficient_scope")
        await wait_until(lambda: len(sidecar.records("decision")) == 3)
        shown, _ = blocks(SHADOW, "text")
        assert dedent(counted("authz.log", tmp_path)) == dedent(shown.text)
        labels = re.findall(
            r'(\w+)="(\w+)"', section(SHADOW, "## 3. See who would be denied").partition("```promql")[2]
        )
        assert sum(await sidecar.metric("authz_checks_total", **dict(labels))) == 3

        del settings["rules"][1]["mode"]
        replace(tmp_path, settings)
        await wait_until(lambda: len(sidecar.records("configuration applied")) == 1)
        assert await check(tmp_path, "PUT", "/records/7", token=token) == (False, "insufficient_scope")


def test_the_command_counts_the_clients_whose_tokens_lack_the_scope(tmp_path: Path) -> None:
    """In lines as the gateway of the chart writes them: tests/docs/test_kubernetes.py."""
    _, shown = blocks(SHADOW, "text")
    counts = [line.split() for line in shown.text.splitlines()]
    lines = [
        {"rule": "orders", "decision": "allow", "client_id": client, "scopes": ["openid"]}
        for count, client in counts
        for _ in range(int(count))
    ]
    others: list[dict[str, Any]] = [
        {"rule": "orders", "decision": "allow", "client_id": "web", "scopes": ["openid", "orders"]},
        {"rule": "orders", "decision": "deny", "client_id": "", "scopes": []},
        {"rule": "health", "decision": "allow", "client_id": "", "scopes": []},
        {"rule": None, "decision": None, "client_id": None, "scopes": None},  # no decision
    ]
    log = ["[info] Envoy's own log", *map(json.dumps, lines + others)]
    (tmp_path / "envoy.log").write_text("".join(f"{line}\n" for line in log))
    assert [line.split() for line in counted("envoy.log", tmp_path).splitlines()] == counts


async def test_a_change_is_logged_and_counted_as_the_page_says(tmp_path: Path) -> None:
    shown = [json.loads(block.text) for block in blocks(CHANGES, "json")]
    rejected, applied = shown
    settings = configuration(tmp_path)
    async with SidecarProcess(tmp_path / "config.yaml", tmp_path / "authz.log") as sidecar:

        async def metric(name: str) -> float:
            (value,) = await sidecar.metric(f"authz_config_{name}")
            return value

        mistake_in = f"issuers: {json.dumps(settings['issuers'])}\nrules:\n  - name: a\n    acess: public\n"
        (tmp_path / "mistake.yaml").write_text(mistake_in)
        (tmp_path / "mistake.yaml").rename(tmp_path / "config.yaml")
        await wait_until(lambda: len(sidecar.records(rejected["event"])) == 1)
        (record,) = sidecar.records(rejected["event"])
        (mistake,) = rejected["problems"]
        assert record["problems"] == [f"{tmp_path}/{mistake}"]
        assert await metric("last_reload_successful") == 0
        assert await check(tmp_path, "GET", "/records/7") == (True, "missing_token")

        partner = settings["issuers"][0] | {"issuer": "https://partners.example.com/", "name": "partners"}
        replace(tmp_path, settings | {"issuers": [*settings["issuers"], partner]})
        await wait_until(lambda: len(sidecar.records(applied["event"])) == 1)
        (record,) = sidecar.records(applied["event"])
        assert {key: record[key] for key in applied} == applied
        assert await metric("last_reload_successful") == 1
        assert await sidecar.metric("authz_config_reloads_total", result="failure") == [1]
