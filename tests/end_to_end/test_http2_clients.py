"""Third-party HTTP/2 clients with the real program: h2spec, curl and h2load."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
import trustme
from transport.pki import TlsFiles

from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from support.go import H2SPEC, built
from support.missing import program
from support.sidecar_process import SidecarProcess
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHECK = "/envoy.service.auth.v3.Authorization/Check"
TIMEOUT = 300  # seconds
PROMISE = "that {} can talk to the asyncio transport"


@dataclass(frozen=True)
class Served:
    """The address, and the options of programs for it."""

    port: int
    authority: Path | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.authority else ''}://127.0.0.1:{self.port}{CHECK}"


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["plain", "tls"])
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("sidecar")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.crt")
    server: dict[str, Any] = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0", "transport": "asyncio"}
    if request.param == "tls":
        server["tls"] = TlsFiles(folder, authority.issue_cert("127.0.0.1")).written
    (folder / "jwks.json").write_text(json.dumps({"keys": [Signer("ES256", "k").jwk()]}))
    issuer = {"issuer": "https://idp.example/", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    rule = {"name": "public", "match": {"paths": ["/"]}, "access": "public"}
    config = folder / "config.yaml"
    config.write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [rule]}))
    async with SidecarProcess(config, folder / "log") as sidecar:
        (listening,) = [record for record in sidecar.log() if record["event"] == "listening"]
        yield Served(listening["grpc_port"], folder / "authority.crt" if request.param == "tls" else None)


def ran(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a CheckRequest in gRPC framing."""
    request = CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = "/"
    octets = request.SerializeToString()
    path = tmp_path_factory.mktemp("body") / "body"
    path.write_bytes(b"\0" + len(octets).to_bytes(4, "big") + octets)
    return path


@pytest.fixture(scope="module")
def h2spec() -> str:
    """The complete conformance test of HTTP/2 (RFC 9113 and RFC 7541)."""
    return built(H2SPEC, PROMISE.format("h2spec"))


async def test_h2spec_finds_nothing(served: Served, h2spec: str, tmp_path: Path) -> None:
    report, tls = tmp_path / "report.xml", ["--tls", "--insecure"] if served.authority else []
    address = ["--host", "127.0.0.1", "--port", str(served.port), "--path", CHECK]
    printed = ran(h2spec, *address, "--strict", "--junit-report", str(report), *tls)
    suites = list(ET.parse(report).iter("testsuite"))  # noqa: S314 - written by h2spec
    cases = [case for suite in suites for case in suite.iter("testcase")]
    assert len(cases) > 140
    assert [case.attrib for case in cases if len(case)] == [], printed  # a failed or skipped case has children


async def test_curl_gets_a_response(served: Served, body: Path, tmp_path: Path) -> None:
    curl = program("curl", PROMISE.format("curl"))
    answer, headers = tmp_path / "answer", tmp_path / "headers"
    output = ran(
        *(curl, "--write-out", "%{http_version} %{response_code}"),
        *("--silent", "--show-error", "--data-binary", f"@{body}"),
        *(("--http2", "--cacert", str(served.authority)) if served.authority else ("--http2-prior-knowledge",)),
        *("--header", "content-type: application/grpc", "--header", "te: trailers"),
        *("--output", str(answer), "--dump-header", str(headers), served.url),
    )
    assert output.split() == ["2", "200"]
    assert "grpc-status: 0" in headers.read_text().splitlines()
    assert CheckResponse.FromString(answer.read_bytes()[5:]).WhichOneof("http_response") == "ok_response"


async def test_h2load_loses_no_call(served: Served, body: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    printed = ran(
        *(program("h2load", PROMISE.format("h2load")), "-n", "5000", "-c", "5", "-m", "50"),
        *("-d", str(body), f"--log-file={log}"),
        *("-H", "content-type: application/grpc", "-H", "te: trailers", served.url),
    )
    statuses = Counter(line.split("\t")[1] for line in log.read_text().splitlines())
    assert statuses == {"200": 5000}, printed
