"""This tree beside an earlier commit, measured in alternating order in one run: ``make bench BEFORE=REVISION``.

The commit is checked out and gets a virtual environment of its own, from its own lock files.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from contextlib import ExitStack, chdir, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench import footprint
from bench.decision import CALLS, ROUNDS
from bench.footprint import ROOT
from bench.load import SERVER_CORE, alternating, h2load, median, on_core
from bench.servers import CHECK, GRPC_HEADERS, framed, responds, running
from bench.subject import AUDIENCE, HOST, ISSUER, Subject, check_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bench.load import Load

VERSIONS = ("before", "after")
PORTS = {"before": (19241, 19242), "after": (19243, 19244)}
STARTS = 7
IN_FLIGHT = 16


class Compared(NamedTuple):
    """A figure of both versions."""

    name: str
    before: float
    after: float
    unit: str

    def __str__(self) -> str:
        figures = f"{self.before:9,.1f} -> {self.after:9,.1f} {self.unit}"
        return f"  {self.name:48s} {figures:28s} ratio {self.after / self.before:.2f}"


def compare(subject: Subject, revision: str) -> None:
    """Print the figures of both."""
    # Python would find this tree's package in the working directory, whatever is installed.
    with _checked_out(subject.folder / "before", revision) as earlier, chdir(subject.folder):
        programs = {"before": (str(earlier), "-m", "authz_service"), "after": (sys.executable, "-m", "authz_service")}
        for tree, program in zip((subject.folder / "before", ROOT), programs.values(), strict=True):
            footprint.compile_package(program[0], tree)
        print(f"Before ({revision}) and after, in alternating order")
        for rows in (_starts, _memories, _decisions, _loads):
            print(*rows(subject, programs), sep="\n")


@contextmanager
def _checked_out(folder: Path, revision: str) -> Iterator[Path]:
    """The Python of a virtual environment with this commit."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), revision], check=True)
    try:
        subprocess.run(["make", "--silent", "-C", str(folder), ".venv/demo"], check=True)  # noqa: S607 - as a user runs it
        yield folder / ".venv" / "bin" / "python"
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _starts(subject: Subject, programs: Mapping[str, footprint.Program]) -> list[Compared]:
    """Milliseconds for starts and commands."""
    files = footprint.write_configurations(subject.folder)
    measures = {
        f"{name} {version}": measure
        for version, program in programs.items()
        for name, measure in footprint.measures(program, files).items()
    }
    medians = {name: statistics.median(each) * 1000 for name, each in alternating(measures, STARTS).items()}
    names = footprint.measures(programs["after"], files)
    return [Compared(name, medians[f"{name} before"], medians[f"{name} after"], "ms") for name in names]


def _memories(subject: Subject, programs: Mapping[str, footprint.Program]) -> list[Compared]:
    """Mebibytes of each process."""
    files = footprint.write_configurations(subject.folder)
    of = {version: footprint.memories(program, files) for version, program in programs.items()}
    pairs = [*zip(of["before"], of["after"], strict=True)]
    return [
        *(Compared(f"{after.name}, resident", before.resident, after.resident, "MiB") for before, after in pairs),
        *(Compared(f"{after.name}, anonymous", before.anonymous, after.anonymous, "MiB") for before, after in pairs),
    ]


def _configuration(grpc_port: int, admin_port: int) -> str:
    return f"""
server: {{grpc_address: "127.0.0.1:{grpc_port}", admin_address: "127.0.0.1:{admin_port}"}}
issuers: [{{issuer: {ISSUER}, audiences: [{AUDIENCE}], keys: {{jwks_file: jwks.json}}}}]
rules:
  - name: things
    match: {{hosts: [{HOST}], paths: ["/v1/things-199/{{id}}"]}}
    require: {{scopes: ["read:things"]}}
"""


def _requests(subject: Subject) -> dict[str, bytes]:
    """A request that is allowed, and others that are denied."""
    allowed = subject.token()
    forged = allowed[:-60] + allowed[-20:] + allowed[-60:-20]
    return {
        "allowed": check_request(allowed),
        "missing_token": check_request(""),
        "expired": check_request(subject.token(exp=1)),
        "no_rule": check_request(allowed, path="/v2/others"),
        "insufficient_scope": check_request(subject.token(scope="other")),
        "bad_signature": check_request(forged),
    }


def _decisions(subject: Subject, programs: Mapping[str, footprint.Program]) -> Iterator[Compared]:
    """Microseconds of CPU for a decision, without log lines and without the wire."""
    requests = {
        **{f"allowed, {name}": check_request(subject.token(name)) for name in subject.keys},
        **{f"denied, {name}": data for name, data in _requests(subject).items() if name != "allowed"},
    }
    files = [subject.folder / f"request-{number}" for number in range(len(requests))]
    for file, data in zip(files, requests.values(), strict=True):
        file.write_bytes(data)
    config = subject.folder / "decisions.yaml"
    config.write_text(_configuration(*PORTS["after"]))

    def measure(python: str) -> list[list[float]]:
        command = on_core(SERVER_CORE, python, str(ROOT / "bench" / "one_process.py"), str(config), *map(str, files))
        printed: list[list[float]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return printed

    runs = [[measure(programs[version][0]) for version in VERSIONS] for _ in range(ROUNDS)]
    for number, name in enumerate(requests):
        for column, kind in enumerate(("", ", token not cached")):
            before, after = (min(run[version][number][column] for run in runs) for version in range(len(VERSIONS)))
            if not kind or name.startswith("allowed"):
                yield Compared(f"{name}{kind}, in process", before, after, "µs")


def _loads(subject: Subject, programs: Mapping[str, footprint.Program]) -> Iterator[Compared]:
    """Over the wire, with log lines: requests per second, and microseconds of the process' CPU."""
    pids: dict[str, int] = {}
    with ExitStack() as stack:
        for version, program in programs.items():
            file = subject.folder / f"{version}.yaml"
            file.write_text(_configuration(*PORTS[version]))
            command = on_core(SERVER_CORE, *program, "serve", "--config", str(file))
            pids[version] = stack.enter_context(running(command, partial(responds, PORTS[version][1])))[0].pid
        for name, data in _requests(subject).items():
            body = framed(subject.folder / f"body-{name}", data)

            def load(version: str, body: Path = body) -> Load:
                url = f"http://127.0.0.1:{PORTS[version][0]}{CHECK}"
                return h2load([pids[version]], url, CALLS, IN_FLIGHT, subject.folder, "-d", str(body), *GRPC_HEADERS)

            runs = alternating({version: partial(load, version) for version in VERSIONS}, ROUNDS)
            before, after = (median(runs[version]) for version in VERSIONS)
            yield Compared(f"{name}, {IN_FLIGHT} in flight", before.rate, after.rate, "/s")
            yield Compared(f"{name}, {IN_FLIGHT} in flight, CPU", before.cpu, after.cpu, "µs")
