"""Part five: how costs grow with rules, issuers, cached tokens and metrics series. Each row has its ratio.

Decisions are measured in this process. How long a scrape holds up decisions is measured from outside.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.config.load import load
from authz_service.runtime.application import App
from bench.decision import ROUNDS, timed
from bench.load import SERVER_CORE, alternating, h2load, median, memory, on_core
from bench.servers import CHECK, GRPC_HEADERS, PYTHON, framed, responds, running
from bench.subject import AUDIENCE, HOST, ISSUER, Subject, check_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.load import Load

CALLS = 4000  # in one measurement
FEW_RULES, MANY_RULES = 10, 1000
MANY_ISSUERS = 100
TOKENS = 100_000
ROTATION = 2000  # tokens that the measured requests have in turn
GRPC_PORT, ADMIN_PORT = 19231, 19232
_SCRAPE_INTERVAL = 0.2  # seconds; Prometheus' default is 60
_IN_FLIGHT = 16
_MEBI = 1 << 20


class Growth(NamedTuple):
    """The cost of one thing, with few and with many of another."""

    name: str
    few: float
    many: float
    unit: str

    def __str__(self) -> str:
        return f"  {self.name:64s} {self.few:8,.1f} {self.unit} {self.many:8,.1f} {self.unit}   ratio {self._ratio:.2f}"

    @property
    def _ratio(self) -> float:
        return self.many / self.few

    def markdown(self) -> str:
        """A row of the table."""
        return f"| {self.name} | {self.few:,.1f} {self.unit} | {self.many:,.1f} {self.unit} | {self._ratio:.2f} |"


def configuration(rules: int = FEW_RULES, issuers: int = 1) -> str:
    """A sidecar whose last rule decides, and whose last issuer has issued the token."""
    named = [f"https://issuer-{number}.bench/" for number in range(1, issuers)]
    return (
        f"""
server: {{grpc_address: "127.0.0.1:{GRPC_PORT}", admin_address: "127.0.0.1:{ADMIN_PORT}"}}
token_cache: {{max_entries: {TOKENS}, max_bytes: 1GiB}}
issuers:
"""
        + "".join(
            f"""
  - {{issuer: {issuer}, audiences: [{AUDIENCE}], keys: {{jwks_file: jwks.json}}}}"""
            for issuer in (*named, ISSUER)
        )
        + """
rules:
"""
        + "".join(
            f"""
  - name: rule-{number}
    match: {{hosts: [{HOST}], paths: ["/v1/{things}/{{id}}"]}}
    require: {{scopes: ["read:things"]}}"""
            for number, things in enumerate([*(f"others-{number}" for number in range(1, rules)), "things-199"])
        )
    )


def growth(subject: Subject) -> list[Growth]:
    """Print and return the rows."""
    print("Growth (a decision about a cached token, in one process, unless stated; CPU, best of 5)")
    rows = [
        _rules_row(subject),
        _issuers_row(subject),
        *_tokens_rows(subject),
        *_scrape_rows(subject),
    ]
    print(*rows, sep="\n")
    return rows


async def _app(subject: Subject, text: str) -> App:
    """An application with its keys, which does not listen."""
    file = subject.folder / "growth.yaml"
    file.write_text(text)
    app = App(load(file))
    for issuer in app.active.issuers:
        await issuer.keys.refresh()
    return app


def _decide(app: App, request: bytes) -> None:
    answer = app.servicer.answer(request, 0.2)
    if not isinstance(answer, bytes) or CheckResponse.FromString(answer).status.code:
        raise AssertionError("the request of the benchmark was not allowed")


def _alternating(few: App, many: App, request: bytes) -> tuple[float, float]:
    """Microseconds for a decision by each."""
    apps = (few, many)
    for app in apps:
        _decide(app, request)  # cached from now on
    runs = [[timed(partial(app.servicer.answer, request, 0.2), CALLS) for app in apps] for _ in range(ROUNDS)]
    first, second = map(min, zip(*runs, strict=True))
    return first, second


def _rules_row(subject: Subject) -> Growth:
    async def measure() -> tuple[float, float]:
        few, many = await _app(subject, configuration()), await _app(subject, configuration(MANY_RULES))
        return _alternating(few, many, check_request(subject.token()))

    return Growth(f"decision, {FEW_RULES} and {MANY_RULES:,} rules", *asyncio.run(measure()), "µs")


def _issuers_row(subject: Subject) -> Growth:
    async def measure() -> tuple[float, float]:
        one, many = await _app(subject, configuration()), await _app(subject, configuration(issuers=MANY_ISSUERS))
        return _alternating(one, many, check_request(subject.token()))

    return Growth(f"decision, 1 and {MANY_ISSUERS} issuers", *asyncio.run(measure()), "µs")


def _tokens_rows(subject: Subject) -> list[Growth]:
    """The costs with one cached token, and with many of which a part is used in turn."""

    async def measure() -> list[Growth]:
        app = await _app(subject, configuration())
        requests = [check_request(subject.token("ES256", sub=f"subject-{number:020}")) for number in range(ROTATION)]
        _decide(app, requests[0])
        one = timed(partial(app.servicer.answer, requests[0], 0.2), CALLS)
        gc.collect()
        at_start, one_collection = memory(os.getpid()), _collection()
        for number in range(ROTATION, TOKENS):
            _decide(app, check_request(subject.token("ES256", sub=f"subject-{number:020}")))
        gc.collect()
        grown = (memory(os.getpid()) - at_start) * _MEBI / (TOKENS - ROTATION)
        for request in requests:
            _decide(app, request)
        turns = cycle(requests)
        many = timed(lambda: app.servicer.answer(next(turns), 0.2), CALLS)
        cache = app.active.token_cache
        if len(cache) != TOKENS:
            raise AssertionError("the cache has not kept every token of the benchmark")
        return [
            Growth(f"decision, 1 and {TOKENS:,} cached tokens", one, many, "µs"),
            Growth("full garbage collection, 1 and as many cached tokens", one_collection, _collection(), "ms"),
            Growth("each cached token: accounted, and resident", cache.used_bytes / TOKENS, grown, "bytes"),
        ]

    return asyncio.run(measure())


def _collection() -> float:
    """Milliseconds for a full garbage collection, which holds up every decision."""
    started = time.process_time()
    gc.collect()
    return (time.process_time() - started) * 1000


def _scrape_rows(subject: Subject) -> list[Growth]:
    """What a scrape takes with few and many rules, and what it holds up."""
    seconds, slowest = [], {}
    for rules in (FEW_RULES, MANY_RULES):
        file = subject.folder / "growth.yaml"
        file.write_text(configuration(rules))
        command = on_core(SERVER_CORE, *PYTHON, "-m", "authz_service", "serve", "--config", str(file))
        with running(command, partial(responds, ADMIN_PORT)) as (process, _):
            load = partial(_load, subject, process.pid)
            seconds.append(min(_scrape() for _ in range(10)) * 1000)
            both = alternating({"none": load, "scrapes": partial(_with_scrapes, load)}, ROUNDS)
            slowest[rules] = {name: median(loads).p99 / 1000 for name, loads in both.items()}
    return [
        Growth(f"a scrape, {FEW_RULES} and {MANY_RULES:,} rules", seconds[0], seconds[1], "ms"),
        *(
            Growth(
                f"p99 of decisions, {rules:,} rules: without, and with {1 / _SCRAPE_INTERVAL:.0f} scrapes per second",
                each["none"],
                each["scrapes"],
                "ms",
            )
            for rules, each in slowest.items()
        ),
    ]


def _load(subject: Subject, pid: int) -> Load:
    body = framed(subject.folder / "growth-body", check_request(subject.token()))
    url = f"http://127.0.0.1:{GRPC_PORT}{CHECK}"
    return h2load([pid], url, 10 * CALLS, _IN_FLIGHT, subject.folder, "-d", str(body), *GRPC_HEADERS)


def _with_scrapes(load: Callable[[], Load]) -> Load:
    with _scraping():
        return load()


@contextmanager
def _scraping() -> Iterator[None]:
    """Scrape the metrics in a thread meanwhile."""
    stopped = threading.Event()

    def scrape() -> None:
        while not stopped.wait(_SCRAPE_INTERVAL):
            _scrape()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _scrape() -> float:
    """Seconds for a scrape."""
    started = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/metrics", timeout=10) as response:
        response.read()
    return time.perf_counter() - started
