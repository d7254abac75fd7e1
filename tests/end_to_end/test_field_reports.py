"""What users of other products reported, on the real program: the inputs and decisions of field_reports.yaml."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import re
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc.aio
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from transport.wire import check_request, read

from authz_service.demo.sidecar import Sidecar
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from transport.wire import Answer

Report = dict[str, Any]
REPORTS: list[Report] = yaml.safe_load((Path(__file__).parent / "field_reports.yaml").read_text())
ISSUERS = [
    {
        "issuer": "https://idp.example/",
        "name": "main",
        "audiences": ["https://api.example/"],
        "keys": {"jwks_uri": "$PROVIDER/jwks"},
    }
]
RULES = [{"name": "things", "match": {"paths": ["/v1/**"]}}]
_POLLS, _POLL_INTERVAL = 250, 0.02  # seconds; a state that takes longer to reach is not reached


def _ec_key_with_a_leading_zero() -> Signer:
    for _ in range(20_000):
        signer = Signer("ES256", "k1", key=_ec_key())
        if base64.urlsafe_b64decode(signer.jwk()["x"] + "=")[0] == 0:
            return signer
    raise AssertionError("no key with a leading zero octet in 20,000")


def _ec_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - for this one kind of key

    return ec.generate_private_key(ec.SECP256R1())


def signer_of(kind: str, kid: str) -> Signer:
    match kind:
        case "RSA":
            return Signer("RS256", kid)
        case "Ed25519":
            return Signer("EdDSA", kid)
        case "EC-short":
            return _ec_key_with_a_leading_zero()
    raise ValueError(kind)


class Provider:
    """An HTTP server that answers as a report specifies, and also acts as a forward proxy."""

    def __init__(self, answers: dict[str, Any], signers: Mapping[str, Signer]) -> None:
        self._answers = answers
        self._signers = signers
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request_line, *lines = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                await reader.readexactly(int(headers.get("content-length", "0")))
                writer.write(self._response(request_line.split(" ")[1], headers))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _response(self, target: str, headers: Mapping[str, str]) -> bytes:
        self.requests.append(target)
        answer = self._answers.get(target)
        if answer is None:
            return _http(404, b"", {})
        for name, expected in answer.get("only_if", {}).items():
            value = headers.get(name, "")
            if expected.removeprefix("!") in value if expected.startswith("!") else value != expected:
                return _http(answer.get("else", 401), b"", {})
        body = self._body(answer)
        return _http(answer.get("status", 200), body, answer.get("headers", {}))

    def _body(self, answer: Mapping[str, Any]) -> bytes:
        if "text" in answer:
            return str(answer["text"]).encode()
        content = answer["json"] if "json" in answer else {"keys": [self._key(each) for each in answer["jwks"]]}
        body = json.dumps(content).replace("$PROVIDER", self.url).encode()
        body = b"\xef\xbb\xbf" * answer.get("bom", False) + body
        return gzip.compress(body) if answer.get("gzip") else body

    def _key(self, entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if entry is None:
            return None
        key: dict[str, Any] = self._signers[entry["key"]].jwk() | entry.get("set", {})
        if entry.get("strip_zero"):
            octets = base64.urlsafe_b64decode(key["x"] + "=")
            key["x"] = base64.urlsafe_b64encode(octets[1:]).rstrip(b"=").decode()
        return key


def _http(status: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    fields = {"content-type": "application/json", "content-length": str(len(body))} | dict(headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + body


class Case:
    """One report, its files written, and its provider running."""

    def __init__(self, report: Report, folder: Path, provider: Provider, signers: Mapping[str, Signer]) -> None:
        self.report = report
        self.folder = folder
        self.provider = provider
        self.signers = signers
        self.config = folder / "config.yaml"
        self.env = {name: self._filled(value) for name, value in report.get("env", {}).items()}

    def write(self) -> None:
        for name, content in self.report.get("files", {}).items():
            (self.folder / name).write_text(content)
        for name, kid in self.report.get("pem_files", {}).items():
            public = self.signers[kid].key.public_key()
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            (self.folder / name).write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
        server = {"grpc_address": "unix:authz.sock", "admin_address": "127.0.0.1:0"}
        settings = {"server": server, "issuers": ISSUERS, "rules": RULES} | self.report.get("config", {})
        self.config.write_text(self._filled(yaml.safe_dump(settings, sort_keys=False)))

    def _filled(self, value: str) -> str:
        return value.replace("$PROVIDER", self.provider.url)

    def token(self, expected: Any) -> str | None:
        if expected is None or isinstance(expected, str):
            return expected
        now = int(time.time())
        claims = {
            "iss": "https://idp.example/", "aud": "https://api.example/", "sub": "u1", "client_id": "c1",
            "iat": now, "exp": now + 600,
        }  # fmt: skip
        header = {"typ": "JWT"} | expected.get("header", {})
        return self.signers[expected.get("key", "k1")].sign(claims | expected.get("claims", {}), header)

    def request(self, check: Mapping[str, Any]) -> bytes:
        request: dict[str, Any] = {"method": "GET", "path": "/v1/x"} | check.get("request", {})
        token = self.token(check.get("token"))
        header = request.pop("token_header", None)
        headers = dict(request.pop("headers", {}))
        if header is not None:
            headers[header] = token
            token = None
        return check_request(request["method"], request["path"], headers, token=token)


@asynccontextmanager
async def case(report: Report, folder: Path) -> AsyncIterator[Case]:
    signers = {kid: signer_of(kind, kid) for kid, kind in report.get("keys", {"k1": "RSA"}).items()}
    provider = Provider(report.get("provider", {"/jwks": {"jwks": [{"key": "k1"}]}}), signers)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    async with server:
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        prepared = Case(report, folder, provider, signers)
        prepared.write()
        yield prepared


async def check_config(prepared: Case) -> tuple[int, str]:
    command = [sys.executable, "-m", "authz_service", "check-config", str(prepared.config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(f"{url}/readyz") as response:
        return response.status


class Serving(Sidecar):
    """A sidecar that listens, ready or not."""

    async def _started(self) -> None:
        await self._listening()


async def decide(prepared: Case, check: Mapping[str, Any]) -> Answer:
    async with grpc.aio.insecure_channel(f"unix:{prepared.folder / 'authz.sock'}") as channel:
        call: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        answer = read(await call(prepared.request(check)))
        for _ in range(_POLLS):
            if answer.http_status != 503:  # the keys have arrived
                break
            await asyncio.sleep(_POLL_INTERVAL)
            answer = read(await call(prepared.request(check)))
        return answer


CHECKS = [
    pytest.param(
        report,
        check,
        id=re.sub(r"\W+", "-", f"{report['name']}: {check['name']}"),
    )
    for report in REPORTS
    for check in report["checks"]
]


@pytest.mark.parametrize(("report", "check"), CHECKS)
async def test_a_report_ends_as_its_users_expect(
    report: Report, check: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect = check["expect"]
    async with case(report, tmp_path) as prepared:
        if "exit" in expect or "warns" in expect:
            status, output = await check_config(prepared)
            assert status == expect.get("exit", 0), output
            assert ("warning" in output) == expect.get("warns", False), output
            return
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        for name, value in prepared.env.items():
            monkeypatch.setenv(name, value)
        async with Serving(prepared.config, tmp_path / "log") as sidecar:
            await verify(prepared, sidecar, check, expect)


async def verify(prepared: Case, sidecar: Sidecar, check: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    if "readyz" in expect:
        assert await reached(lambda: status_of(sidecar.admin_url), expect["readyz"])
    if "logged" in expect:
        values = [value.replace("$PROVIDER", prepared.provider.url) for value in expect["logged"]]
        assert await reached(lambda: logged(sidecar, values), expected=True)
    if "fetches" in expect:
        await asyncio.sleep(check["seconds"])
        assert len(prepared.provider.requests) == expect["fetches"]
    if "status" in expect:
        await verify_decision(prepared, check, expect)


async def verify_decision(prepared: Case, check: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    answer = await decide(prepared, check)
    assert (answer.http_status or 200) == expect["status"], answer
    assert answer.reason == expect.get("reason", answer.reason)
    for name, value in expect.get("headers", {}).items():
        assert answer.headers.get(name) == value
    for part in expect.get("challenge", ()):
        present = part.removeprefix("!") in answer.headers.get("www-authenticate", "")
        assert present != part.startswith("!"), answer.headers


async def logged(sidecar: Sidecar, values: list[str]) -> bool:
    lines = (json.dumps(record, ensure_ascii=False) for record in sidecar.log())
    return any(all(value in line for value in values) for line in lines)


async def reached(state: Callable[[], Awaitable[Any]], expected: Any) -> bool:
    for _ in range(_POLLS):
        if await state() == expected:
            return True
        await asyncio.sleep(_POLL_INTERVAL)
    return False
