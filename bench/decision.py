"""Part one: the cost of a decision in this process, from the bytes of the request to those of the response."""

from __future__ import annotations

import asyncio
import json
import os
import time
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_decode, raw_to_der_signature

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.config.load import load
from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.attributes import Attributes
from authz_service.keys import keyset
from authz_service.rules.policy import Policy
from authz_service.runtime.application import App
from bench.subject import GRPCIO, ISSUER, Subject, check_request, claims

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = int(os.environ.get("BENCH_CALLS", "20000"))  # in one measurement
ROUNDS = 3
FEW_RULES, MANY_RULES = 10, 1000
TOKENS = 2000
MICRO = 1e6


class LocalIntrospection:
    """Responds to every token as an introspection server would."""

    async def introspect(self, _token: str) -> dict[str, Any]:
        """The introspection response."""
        return {"active": True} | claims()

    async def prepare(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


def timed(call: Callable[[], object], calls: int) -> float:
    """Microseconds of CPU for one call: the best of five runs, the least disturbed one."""

    def once() -> float:
        started = time.process_time()
        for _ in range(calls):
            call()
        return (time.process_time() - started) / calls * MICRO

    return min(once() for _ in range(5))


def decision_alone(subject: Subject) -> None:
    """Print the costs of decisions and their parts."""
    print("A decision, wire to wire, in one process (CPU, best of 5; 200 rules, the last one decides)")
    requests = {name: check_request(subject.token(name)) for name in subject.keys}

    async def measure() -> None:
        app = App(load(subject.config(GRPCIO)))
        await app.active.issuers[0].keys.refresh()

        def decide(data: bytes) -> bytes:
            answer = app.servicer.answer(data, 0.2)
            if not isinstance(answer, bytes):
                raise AssertionError("a decision with known keys waited")  # noqa: TRY004 - not a type error
            return answer

        for name, data in requests.items():
            if CheckResponse.FromString(decide(data)).status.code:
                raise AssertionError("the request of the benchmark was denied")

            def uncached(data: bytes = data) -> None:
                app.active.token_cache.clear()
                decide(data)

            cached = timed(lambda data=data: decide(data), CALLS // 4)  # type: ignore[misc]
            first_seen, signature = timed(uncached, CALLS // 20), timed(verifying(subject, name), CALLS // 20)
            print(
                f"  {name}  token cached {cached:6.1f} µs   not cached {first_seen:6.1f} µs,"
                f" of which OpenSSL verifies the signature in {signature:5.1f} µs"
            )

        await opaque_beside_jwt(app, decide, requests["RS256"])
        measure_cached_token(app, decide, subject)
        keys, now = app.active.issuers[0].keys, time.time()
        print(f"  finding a known key {timed(lambda: keys.find('RS256', now, may_fetch=True), CALLS):6.2f} µs")
        jwks = key_set_of(100)
        parsing = timed(lambda: keyset.parse(jwks, 100), 10) / 1000
        print(f"  parsing a key set of 100 RSA keys {parsing:6.2f} ms, which block the event loop")

    asyncio.run(measure())
    measure_rule_matching()


def verifying(subject: Subject, algorithm: str) -> Callable[[], object]:
    """A call that verifies the signature of a token, and nothing else."""
    signing_input, _, encoded = subject.token(algorithm).rpartition(".")
    signature, signed, key = base64url_decode(encoded), signing_input.encode(), subject.keys[algorithm].public_key()
    if algorithm == "RS256":
        return partial(key.verify, signature, signed, padding.PKCS1v15(), hashes.SHA256())
    return partial(key.verify, raw_to_der_signature(signature, key.curve), signed, ec.ECDSA(hashes.SHA256()))


async def opaque_beside_jwt(app: App, decide: Callable[[bytes], bytes], request: bytes) -> None:
    """A cached opaque token and a cached JWT, in alternating order; and an uncached opaque token."""
    introspector = app.active.issuers[0].introspector
    assert introspector is not None  # noqa: S101 - the configuration has introspection
    introspector._client = LocalIntrospection()  # noqa: SLF001 - everything but the network is real
    opaque = check_request("0123456789abcdef0123456789abcdef")
    for data in (opaque, request):
        if CheckResponse.FromString(await app.servicer.check(data, None)).status.code:
            raise AssertionError("the request of the benchmark was denied")
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


def measure_cached_token(app: App, decide: Callable[[bytes], bytes], subject: Subject) -> None:
    """The memory of each cached token."""
    requests = [check_request(subject.token("ES256", sub=f"subject-{number:020d}")) for number in range(TOKENS)]
    app.active.token_cache.clear()
    decide(requests[0])
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for data in requests:
        decide(data)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"  memory for each token in the cache {(after - before) / TOKENS:6.0f} bytes")


def policy_of(count: int) -> Policy:
    """A policy with this number of rules, with exact and wildcard hosts, and path patterns."""
    hosts = ("api.bench", "*.bench", "admin.example.org", "*.example.com")
    rules = [
        RuleSettings.read(
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
    return Policy(rules, [Issuer.read({"issuer": ISSUER, "audiences": ["api"]})])


def measure_rule_matching() -> None:
    """Match the last rule, and no rule, in a short and a long policy."""
    few, many = policy_of(FEW_RULES), policy_of(MANY_RULES)
    for name, path in (
        ("last rule", "things-{}/4711"),
        ("final /**", "acme/files-{}/a/b"),
        ("no rule", "others-{}/4711"),
    ):
        each = []
        for policy, count in ((few, FEW_RULES), (many, MANY_RULES)):
            attributes = Attributes("GET", "shop.bench", "", {})
            segments = ("v1", *path.format(count - 1).split("/"))
            chosen = policy.choose(attributes, segments)
            if (chosen and chosen.name) != (None if name == "no rule" else f"rule-{count - 1}"):
                raise AssertionError("another rule matched")
            each.append(timed(lambda policy=policy, segments=segments: policy.choose(attributes, segments), CALLS))  # type: ignore[misc]  # noqa: B023
        print(
            f"  matching {name:<10} of {FEW_RULES} rules {each[0]:5.2f} µs, of {MANY_RULES} {each[1]:5.2f} µs,", end=""
        )
        print(f" ratio {each[1] / each[0]:4.2f}")


def key_set_of(count: int) -> bytes:
    keys = [rsa.generate_private_key(65537, 2048).public_key() for _ in range(4)]
    published = [RSAAlgorithm.to_jwk(key, as_dict=True) for key in keys]
    return json.dumps({"keys": [published[kid % 4] | {"kid": f"key-{kid}"} for kid in range(count)]}).encode()
