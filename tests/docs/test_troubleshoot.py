"""The page that starts from symptoms: its statuses, the causes that it quotes, and its commands."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from transport.wire import check_request

from authz_service.cli import main
from authz_service.core.reasons import DENIALS, Reason
from authz_service.transport.services import SERVICE
from support import offline
from support.console import printed, reader
from support.documents import blocks, page, section
from support.introspection_clients import free_port
from support.sidecar_process import SidecarProcess, wait_until
from support.signing import Signer

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("troubleshoot")
COMMANDS = section(PAGE, "## Three commands that find most causes")
(CONFIGURATION,) = (yaml.safe_load(block.text) for block in blocks(PAGE, "yaml", "config.yaml"))


def test_each_symptom_has_the_status_of_its_reason() -> None:
    pairs = [
        (status, reason)
        for status, reasons in re.findall(r"\b([45]\d\d) `?([a-z]+(?:_[a-z]+)+(?:, [a-z_]+)*)", PAGE)
        for reason in reasons.split(", ")
        if reason != "authorization_unavailable"
    ]
    assert len(pairs) >= 20
    assert [(status, reason) for status, reason in pairs if int(status) != DENIALS[Reason(reason)].status] == []


def test_every_reason_is_found_from_this_page() -> None:
    """Directly, or by the link to the table of all, which tests/docs/test_reasons.py compares with the program."""
    assert "](reference/reasons.md#all-reasons)" in PAGE
    named = {reason for reason in DENIALS if re.search(rf"[`# ,]{reason}[`,\n \]]", PAGE)}
    assert set(DENIALS) - named == set(), "write in docs/troubleshoot.md what to do about it"


SIGNER = Signer("ES256", "2026-11")
ISSUER = CONFIGURATION["issuers"][0]["issuer"]
(API,) = CONFIGURATION["issuers"][0]["audiences"]
URL = "https://api.example.com/v1/orders/7"


def token(signer: Signer = SIGNER, typ: str = "at+jwt", **claims: Any) -> str:
    now = int(time.time())
    members = {"iss": ISSUER, "aud": API, "sub": "u1", "iat": now, "exp": now + 300} | claims
    return signer.sign(members, {"typ": typ})


def explained(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    offline.written(CONFIGURATION, folder, SIGNER)
    main(["explain", "--config", str(folder / "config.yaml"), *arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("heading", "quoted", "sent", "url"),
    [
        ("### 401 unknown_issuer", "(trailing slash)", {"iss": ISSUER.rstrip("/")}, URL),
        ("### 401 unknown_issuer", "(http instead of https)", {"iss": ISSUER.replace("https", "http")}, URL),
        (
            "### 401 wrong_audience",
            "the token's audiences are ['account']; required: 'https://api.example.com/'",
            {"aud": ["account"]},
            URL,
        ),
        ("### 401 expired, not_yet_valid", "exp has passed, 402 s ago (leeway 30 s)", {"exp": -402}, URL),
        ("### 403 no_rule", "the host is not ...", {}, "https://orders.shop.svc/v1/orders/7"),
        ("### 403 no_rule", "the path is not ...", {}, "https://api.example.com/v2/orders"),
        ("## 400 ambiguous_path", "an empty segment", {}, "https://api.example.com/v1//orders"),
    ],
)
def test_explain_says_what_the_page_quotes(
    heading: str, quoted: str, sent: dict[str, Any], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = sent | ({"exp": int(time.time()) + sent["exp"]} if "exp" in sent else {})
    (tmp_path / "token").write_text(token(**claims))
    printed = explained(tmp_path, capsys, "--url", url, "--token-file", str(tmp_path / "token"))
    said = re.escape(quoted.removesuffix(" ...")).replace("402", r"40\d")
    assert re.search(said, printed), printed
    assert f"`{quoted}`" in section(PAGE, heading)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("Bearer a, Bearer b", "more than one credential"),
        (f"Bearer {'a' * 16385}", "... bytes, expected at most 16384 (server.max_token_bytes)"),
        ("Bearer", "an empty credential"),
    ],
)
def test_a_malformed_credential_has_a_cause_that_the_page_quotes(
    value: str, quoted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = explained(tmp_path, capsys, "--url", URL, "--header", f"Authorization: {value}")
    cause = quoted.replace("... ", "16385 ")
    assert f"malformed_request: the credential in the Authorization header: {cause}" in printed
    assert f"`{quoted}`" in section(PAGE, "## 400 malformed_request")


def test_a_method_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the method is not GET" in explained(tmp_path, capsys, "--url", URL, "--method", "OPTIONS")
    assert "`the method is not ...`" in section(PAGE, "### 403 no_rule")


async def test_the_log_and_the_admin_port_show_what_the_page_shows(tmp_path: Path) -> None:
    unreachable = f"http://127.0.0.1:{free_port()}/"
    settings = CONFIGURATION | {
        "server": {"grpc_address": f"unix:{tmp_path / 's'}", "admin_address": "127.0.0.1:0"},
        "issuers": [{**CONFIGURATION["issuers"][0], "issuer": unreachable}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (shown,) = blocks(COMMANDS, "json", "")
    line = json.loads(shown.text)
    async with SidecarProcess(tmp_path / "config.yaml", tmp_path / "log", wait_until_ready=False) as sidecar:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/Check")
            await call(check_request("GET", line["path"], host=line["host"]))
        await wait_until(lambda: bool(sidecar.records("decision") and sidecar.records("fetching keys failed")))
        with reader(tmp_path) as running:
            for block in blocks(section(COMMANDS, "### 3. Query the admin port"), "console"):
                text = block.text.replace("http://127.0.0.1:9192", sidecar.admin_url)
                await running.follow(block._replace(text=text))
        (filtering,) = (block.text for block in blocks(COMMANDS, "sh") if "jq" in block.text)
        assert json.loads(printed(f"cat log | {filtering.partition(' | ')[2]}", tmp_path)) == line
        (failed,) = (json.loads(block.text) for block in blocks(section(PAGE, "## 503 keys_unavailable"), "json"))
        cause = failed["cause"].replace("http://127.0.0.1:9/", unreachable)
        logged = sidecar.records("fetching keys failed")[0]
        assert {name: logged[name] for name in failed} == failed | {"cause": cause}
