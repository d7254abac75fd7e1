"""What a decision costs, and what the server makes of it.

Law: one run, one machine, alternating order; figures of one run may be compared with each other and with nothing else.
Part one calls the servicer in this process, wire to wire. Part two drives the real program and an empty handler on the
same gRPC server with h2load, each on one core, and needs Debian's ``nghttp2-client``.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.app import App
from authz_service.config.load import load
from authz_service.config.model import Issuer, Rule
from authz_service.core.attributes import Attributes
from authz_service.keys import keyset
from authz_service.rules.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ISSUER = "https://issuer.bench/"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
ROUNDS = 3
FEW_RULES, MANY_RULES = 10, 1000
CALLS = int(os.environ.get("BENCH_CALLS", "20000"))  # of one measurement
SERVER_CORE, CLIENT_CORE = "0", "1"
GRPC_PORT, ADMIN_PORT, EMPTY_PORT = 19191, 19192, 19193
MICRO = 1e6

CONFIG = f"""
server: {{grpc_address: "127.0.0.1:{GRPC_PORT}", admin_address: "127.0.0.1:{ADMIN_PORT}"}}
issuers:
  - issuer: {ISSUER}
    audiences: [https://api.bench/]
    keys: {{jwks_file: jwks.json}}
    introspection: {{endpoint: "http://127.0.0.1:1/", client_id: my-api, client_secret_file: secret}}
rules:
""" + "".join(
    f"""
  - name: rule-{number}
    match: {{hosts: [api.bench], methods: [GET, HEAD], paths: ["/v1/things-{number}", "/v1/things-{number}/{{id}}"]}}
    require: {{scopes: ["read:things"]}}
"""
    for number in range(200)
)


class Load(NamedTuple):
    """What one run of h2load saw."""

    rate: float  # requests a second
    p50: float  # microseconds
    p99: float
    cpu: float  # microseconds of the server's CPU a request


def claims() -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": "a-subject-of-usual-length",
        "aud": "https://api.bench/",
        "exp": now + 3600,
        "iat": now,
        "client_id": "a-client",
        "scope": "openid profile read:things write:things",
    }


def token(algorithm: str, key: Any) -> str:
    return jwt.encode(claims(), key, algorithm=algorithm, headers={"kid": algorithm, "typ": "at+jwt"})


class NoNetwork:
    """Says of every token what an introspection server would."""

    async def introspect(self, _token: str) -> dict[str, Any]:
        """As the real one."""
        return {"active": True} | claims()

    async def prepare(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


def check_request(bearer: str) -> bytes:
    """A request as Envoy sends it for a browser's GET."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path = "GET", "api.bench", "/v1/things-199/4711?expand=all"
    http.scheme, http.protocol, http.id = "https", "HTTP/2", "1234567890"
    names = ("accept", "accept-encoding", "accept-language", "user-agent", "x-request-id", "x-forwarded-for")
    for name in (*names, "x-forwarded-proto", ":path", ":method", ":authority", ":scheme"):
        http.headers[name] = f"a value of usual length for {name}"
    http.headers["authorization"] = f"Bearer {bearer}"
    return request.SerializeToString()


def prepare(folder: Path) -> dict[str, bytes]:
    """Keys, configuration, and a request for each algorithm."""
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    jwks = [
        RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True) | {"kid": "RS256"},
        ECAlgorithm.to_jwk(ec_key.public_key(), as_dict=True) | {"kid": "ES256"},
    ]
    (folder / "jwks.json").write_text(json.dumps({"keys": jwks}))
    (folder / "secret").write_text("a secret")
    (folder / "config.yaml").write_text(CONFIG)
    return {name: check_request(token(name, key)) for name, key in (("RS256", rsa_key), ("ES256", ec_key))}


def timed(call: Callable[[], object], calls: int) -> float:
    """Microseconds of CPU for one call: the best of five, which is the one that was disturbed least."""

    def once() -> float:
        started = time.process_time()
        for _ in range(calls):
            call()
        return (time.process_time() - started) / calls * MICRO

    return min(once() for _ in range(5))


def decision_alone(folder: Path, requests: dict[str, bytes]) -> None:
    import asyncio  # noqa: PLC0415 - part two has no loop

    async def measure() -> None:
        app = App(load(folder / "config.yaml"))
        await app.assembled.issuers[0].keys.refresh()
        check = app.servicer.check

        def decide(data: bytes) -> bytes:
            try:
                check(data, 0.2).send(None)
            except StopIteration as answer:
                return bytes(answer.value)
            raise AssertionError("a decision with known keys waited")

        for name, data in requests.items():
            if CheckResponse.FromString(decide(data)).status.code:
                raise AssertionError("the request of the bench was denied")

            def uncached(data: bytes = data) -> None:
                app.assembled.token_cache.clear()
                decide(data)

            print(
                f"  {name}  token cached {timed(lambda data=data: decide(data), CALLS // 4):6.1f} µs"  # type: ignore[misc]
                f"   not cached {timed(uncached, CALLS // 20):6.1f} µs"
            )

        await opaque_beside_jwt(app, decide, requests["RS256"])
        keys, now = app.assembled.issuers[0].keys, time.time()
        print(f"  finding a known key {timed(lambda: keys.find('RS256', now, may_fetch=True), CALLS):6.2f} µs")
        jwks = key_set_of(100)
        parsing = timed(lambda: keyset.parse(jwks, 100), 10) / 1000
        print(f"  parsing a key set of 100 RSA keys {parsing:6.2f} ms, in which the event loop is held")

    asyncio.run(measure())
    choosing()


async def opaque_beside_jwt(app: App, decide: Callable[[bytes], bytes], request: bytes) -> None:
    """A remembered opaque token beside a remembered JWT, in alternating order; and one that is asked about."""
    asks = app.assembled.issuers[0].introspector
    assert asks is not None  # noqa: S101 - the configuration says so
    asks._client = NoNetwork()  # noqa: SLF001 - nothing but the network is left out
    opaque = check_request("0123456789abcdef0123456789abcdef")
    for data in (opaque, request):
        if CheckResponse.FromString(await app.servicer.check(data, None)).status.code:
            raise AssertionError("the request of the bench was denied")
    times: dict[bytes, list[float]] = {opaque: [], request: []}
    for _ in range(ROUNDS):
        for data, seen in times.items():
            seen.append(timed(lambda data=data: decide(data), CALLS // 4))  # type: ignore[misc]
    as_opaque, as_jwt = min(times[opaque]), min(times[request])
    print(f"  opaque token cached {as_opaque:6.1f} µs   JWT cached {as_jwt:6.1f} µs   ratio {as_opaque / as_jwt:4.2f}")
    fresh = [check_request(f"{number:032x}") for number in range(CALLS // 20)]
    before = time.process_time()
    for data in fresh:
        await app.servicer.check(data, 0.2)
    each = (time.process_time() - before) / len(fresh) * MICRO
    print(f"  opaque token not cached {each:6.1f} µs, without the network")


def policy_of(count: int) -> Policy:
    """So many rules with hosts, exact and wildcard, and path patterns."""
    hosts = ("api.bench", "*.bench", "admin.example.org", "*.example.com")
    rules = [
        Rule.model_validate(
            {
                "name": f"rule-{number}",
                "match": {
                    "hosts": [hosts[number % len(hosts)], "shop.bench"],
                    "methods": ["GET", "POST"],
                    "paths": [
                        f"/v1/things-{number}",
                        f"/v1/things-{number}/{{id}}",
                        f"/v1/{{tenant}}/files-{number}/**",
                    ],
                },
            }
        )
        for number in range(count)
    ]
    return Policy(rules, [Issuer.model_validate({"issuer": ISSUER, "audiences": ["api"]})])


def choosing() -> None:
    """The last rule, and none at all, among few rules and among many."""
    few, many = policy_of(FEW_RULES), policy_of(MANY_RULES)
    for what, path in (
        ("last rule", "things-{}/4711"),
        ("its rest", "acme/files-{}/a/b"),
        ("no rule", "others-{}/4711"),
    ):
        each = []
        for policy, count in ((few, FEW_RULES), (many, MANY_RULES)):
            attributes = Attributes("GET", "shop.bench", "", {})
            segments = ("v1", *path.format(count - 1).split("/"))
            chosen = policy.choose(attributes, segments)
            if (chosen and chosen.name) != (None if what == "no rule" else f"rule-{count - 1}"):
                raise AssertionError("the bench chose another rule")
            each.append(timed(lambda policy=policy, segments=segments: policy.choose(attributes, segments), CALLS))  # type: ignore[misc]  # noqa: B023
        print(
            f"  choosing {what:<10} of {FEW_RULES} rules {each[0]:5.2f} µs, of {MANY_RULES} {each[1]:5.2f} µs,", end=""
        )
        print(f" ratio {each[1] / each[0]:4.2f}")


def key_set_of(count: int) -> bytes:
    keys = [rsa.generate_private_key(65537, 2048).public_key() for _ in range(4)]
    published = [RSAAlgorithm.to_jwk(key, as_dict=True) for key in keys]
    return json.dumps({"keys": [published[kid % 4] | {"kid": f"key-{kid}"} for kid in range(count)]}).encode()


def on_core(core: str, *command: str) -> list[str]:
    return ["taskset", "-c", core, *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else [*command]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def h2load(pid: int, port: int, body: Path, in_flight: int, log: Path) -> Load:
    log.unlink(missing_ok=True)
    command = on_core(
        CLIENT_CORE, "h2load", "-n", str(CALLS), "-c", "1", "-m", str(in_flight), "-d", str(body), f"--log-file={log}",
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{CHECK}",
    )  # fmt: skip
    before, started = cpu_seconds(pid), time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, cpu = time.perf_counter() - started, cpu_seconds(pid) - before
    if f"{CALLS} succeeded" not in printed:
        raise AssertionError(printed)
    times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return Load(CALLS / seconds, times[len(times) // 2], times[len(times) * 99 // 100], cpu / CALLS * MICRO)


def started(command: list[str], ready: Callable[[], bool]) -> tuple[subprocess.Popen[bytes], float]:
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not ready():
        if process.poll() is not None or time.perf_counter() - begun > 30:  # noqa: PLR2004 - seconds, a hang
            raise AssertionError(f"{command} did not get ready")
        time.sleep(0.005)
    return process, time.perf_counter() - begun


def is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - OK
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False


def memory(pid: int) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def through_the_server(folder: Path, request: bytes) -> None:
    body, log = folder / "body", folder / "log"
    body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    python = [sys.executable, "-X", "frozen_modules=on"]
    empty_up = folder / "empty-is-up"
    empty, _ = started(
        on_core(SERVER_CORE, *python, str(HERE / "empty_handler.py"), str(EMPTY_PORT), str(empty_up)), empty_up.exists
    )
    full, ready_after = started(
        on_core(SERVER_CORE, *python, "-m", "authz_service", "serve", "--config", str(folder / "config.yaml")), is_ready
    )
    try:
        print(f"  ready {ready_after:.2f} s after start, memory {memory(full.pid):.0f} MB")
        for in_flight in (1, 16):
            runs: dict[str, list[Load]] = {"empty handler": [], "full Check": []}
            for _ in range(ROUNDS):
                runs["empty handler"].append(h2load(empty.pid, EMPTY_PORT, body, in_flight, log))
                runs["full Check"].append(h2load(full.pid, GRPC_PORT, body, in_flight, log))
            for name, loads in runs.items():
                rate, p50, p99, cpu = (statistics.median(column) for column in zip(*loads, strict=True))
                print(
                    f"  {in_flight:3d} in flight  {name:14s} {rate:7.0f} requests/s   p50 {p50 / 1000:6.2f} ms"
                    f"   p99 {p99 / 1000:6.2f} ms   CPU {cpu:5.0f} µs a request"
                )
        print(f"  memory after the load {memory(full.pid):.0f} MB")
    finally:
        for process in (empty, full):
            process.terminate()
            process.wait()


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = prepare(folder)
        print("A decision, wire to wire, in one process (CPU, best of 5; 200 rules, the last one decides)")
        decision_alone(folder, requests)
        print(
            f"Through the grpcio server, h2load, one core each (median of {ROUNDS} alternating runs of {CALLS} calls)"
        )
        if shutil.which("h2load") is None:
            print("  NOT MEASURED: h2load is missing; apt-get install nghttp2-client", file=sys.stderr)
            return 1
        through_the_server(folder, requests["RS256"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
