"""The cost of denials beside that of an allowance, with and without their log lines.

An attacker chooses what is denied, so no denial may cost much more than an allowance, a forged signature apart: it is
verified each time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.config.load import load
from authz_service.runtime.application import App
from authz_service.telemetry import logs
from authz_service.telemetry.background_log_stream import BackgroundLogStream
from authz_service.telemetry.decision_log import DecisionLog
from bench.subject import GRPCIO, Subject, check_request

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = int(os.environ.get("BENCH_CALLS", "20000")) // 20  # in one measurement; fewer than the log's backlog
ROUNDS = 7
MICRO = 1e6
ALLOWED = "ok"

Decisions = Literal["none", "denied", "all"]


class Logged(NamedTuple):
    """Settings of the log."""

    decisions: Decisions
    format: str = "json"

    def __str__(self) -> str:
        return self.decisions if self.decisions == "none" else f"{self.decisions}, {self.format}"


class Cost(NamedTuple):
    """Microseconds of CPU for a request."""

    loop: float  # of the event loop's thread
    total: float  # of all threads


LOGGED = (Logged("none"), Logged("denied"), Logged("denied", "text"), Logged("all"), Logged("all", "text"))


def denials(subject: Subject) -> None:
    """Print the cost of each kind of denial, each the best of several rounds, in which all alternate."""
    print(f"Denials beside an allowance, wire to wire (CPU, best of {ROUNDS}; 200 rules, token cached if it is valid)")
    print(f"  {'':20}" + "".join(f"{each!s:>22}" for each in LOGGED))
    best = asyncio.run(_measure(subject))
    for reason in _requests(subject):
        costs = "".join(f"{best[reason, each].loop:11.1f} /{best[reason, each].total:6.1f} µs" for each in LOGGED)
        print(f"  {reason:20}{costs}")
    print("  The first figure is the event loop's thread, the second all threads: the log has one of its own.")


async def _measure(subject: Subject) -> dict[tuple[str, Logged], Cost]:
    app = App(load(subject.config(GRPCIO)))
    await app.active.issuers[0].keys.refresh()
    requests = _requests(subject)
    for reason, data in requests.items():
        _require(reason, app.servicer.answer(data, 0.2))
    best: dict[tuple[str, Logged], Cost] = {}
    for _ in range(ROUNDS):
        for logged in LOGGED:
            for reason, data in requests.items():
                cost = _cost(app, data, logged)
                known = best.get((reason, logged), cost)
                best[reason, logged] = Cost(min(cost.loop, known.loop), min(cost.total, known.total))
    logs.configure("warning", "text", sys.stderr)  # quiet, as the other parts expect
    return best


def _cost(app: App, data: bytes, logged: Logged) -> Cost:
    app.servicer.active = app.active._replace(decision_log=DecisionLog(logged.decisions))
    answer: Callable[[bytes, float], object] = app.servicer.answer
    with open(os.devnull, "w", encoding="ascii") as null, BackgroundLogStream(null) as stream:  # noqa: PTH123
        logs.configure("info", logged.format, stream)
        started, thread_started = time.process_time(), time.thread_time()
        for _ in range(CALLS):
            answer(data, 0.2)
        loop = time.thread_time() - thread_started
    total = time.process_time() - started  # once all lines are written
    return Cost(loop / CALLS * MICRO, total / CALLS * MICRO)


def _requests(subject: Subject) -> dict[str, bytes]:
    """A request for each reason."""
    token = subject.token()
    header, _, signature = token.split(".")
    return {
        ALLOWED: check_request(token),
        "missing_token": _changed(check_request(token), authorization=None),
        "no_rule": _changed(check_request(token), path="/v2/things-199/4711?expand=all"),
        "ambiguous_path": _changed(check_request(token), path="/v1/things-199/..%2f4711?expand=all"),
        "malformed_token": check_request(f"{header}.bm90IEpTT04.{signature}"),
        "unknown_issuer": check_request(subject.token(iss="https://another.bench/")),
        "expired": check_request(subject.token(exp=int(time.time()) - 3600)),
        "wrong_audience": check_request(subject.token(aud="https://another.bench/")),
        "insufficient_scope": check_request(subject.token(scope="openid profile")),
        "bad_signature": check_request(token[:-60] + subject.token(sub="another")[-60:]),
    }


def _changed(data: bytes, *, authorization: str | None = "", path: str = "") -> bytes:
    request = CheckRequest.FromString(data)
    http = request.attributes.request.http
    http.path = path or http.path
    if authorization is None:
        del http.headers["authorization"]
    return request.SerializeToString()


def _require(reason: str, answer: object) -> None:
    """The benchmark's request must have this reason."""
    if not isinstance(answer, bytes):
        raise AssertionError("a decision with known keys waited")  # noqa: TRY004 - not a type error
    if CheckResponse.FromString(answer).dynamic_metadata.fields["reason"].string_value != reason:
        raise AssertionError(f"the benchmark's request was not {reason}")
