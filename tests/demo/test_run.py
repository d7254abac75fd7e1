"""An unexpected result is never shown as an expected one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from authz_service.demo.envoy import Envoy
from authz_service.demo.run import SampleResult, _send_all, send
from authz_service.demo.samples import Sample
from authz_service.demo.upstream import Upstream
from support.envoy_bootstrap import VariedBootstrap

if TYPE_CHECKING:
    from pathlib import Path

_DENIED = Sample("denied", "/", 401, "expired", error="invalid_token")
_EXPIRED_TOKEN = SampleResult(401, "expired", 'Bearer realm="x", error="invalid_token"', {})
_NO_SIDECAR = Sample("no sidecar", "/", 200, "")  # the API without Envoy in front


def test_the_expected_result_is_accepted() -> None:
    assert _EXPIRED_TOKEN.is_expected(_DENIED)
    assert SampleResult(401, "missing_token", 'Bearer realm="x"', {}).is_expected(
        Sample("", "/", 401, "missing_token", error="")
    )


@pytest.mark.parametrize(
    "result",
    [
        replace(_EXPIRED_TOKEN, status=403),
        replace(_EXPIRED_TOKEN, reason="bad_signature"),
        replace(_EXPIRED_TOKEN, challenge=""),
        replace(_EXPIRED_TOKEN, challenge='Bearer realm="x"'),
        replace(_EXPIRED_TOKEN, challenge='Bearer realm="x", error="insufficient_scope"'),
    ],
)
def test_a_result_that_differs_in_one_field_is_rejected(result: SampleResult) -> None:
    assert not result.is_expected(_DENIED)


def test_an_unexpected_challenge_or_error_is_rejected() -> None:
    assert not _EXPIRED_TOKEN.is_expected(replace(_DENIED, challenge="DPoP"))
    assert not _EXPIRED_TOKEN.is_expected(replace(_DENIED, error=None))
    assert not _EXPIRED_TOKEN.is_expected(replace(_DENIED, error=""))


@pytest.mark.parametrize(("seen", "expected"), [("admin", None), ("admin", "alice"), ("admin, alice", "alice")])
def test_a_spoofed_header_that_reached_the_api_is_rejected(seen: str, expected: str | None) -> None:
    result = SampleResult(200, "ok", "", {"x-auth-subject": seen})
    assert not result.is_expected(Sample("", "/", 200, "ok", upstream={"x-auth-subject": expected}))


async def test_a_response_of_envoy_itself_without_a_body_is_a_result(tmp_path: Path) -> None:
    no_sidecar = VariedBootstrap("127.0.0.1:9", 9)
    async with Envoy(no_sidecar, tmp_path) as envoy, aiohttp.ClientSession() as session:
        assert await send(session, envoy.port, _NO_SIDECAR) == SampleResult(503, "", "", {})


async def test_a_response_of_envoy_itself_in_plain_text_is_a_result(tmp_path: Path) -> None:
    no_upstream = VariedBootstrap("127.0.0.1:9", 9, failure_mode_allow=True)
    async with Envoy(no_upstream, tmp_path) as envoy, aiohttp.ClientSession() as session:
        result = await send(session, envoy.port, _NO_SIDECAR)
    assert (result.status, result.upstream) == (503, {})


async def test_each_row_is_marked_and_unexpected_results_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    async with Upstream() as upstream:
        assert await _send_all(upstream.port, [_NO_SIDECAR, _DENIED]) == 1
    table = capsys.readouterr().out
    assert "✓ no sidecar" in table
    assert "✗ denied" in table
    assert "expected 401 expired" in table
    assert table.endswith("1 as expected, 1 not\n")


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "colored"), [("yes", "", "yes"), ("yes", "1", "no"), ("no", "", "no")]
)
async def test_color_is_for_terminals_without_no_color(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: str,
    no_color: str,
    colored: str,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal == "yes")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    async with Upstream() as upstream:
        await _send_all(upstream.port, [_NO_SIDECAR])
    assert ("\033[" in capsys.readouterr().out) == (colored == "yes")


@pytest.mark.parametrize(
    ("columns", "request_", "challenge"),
    [("200", 44, True), ("118", 44, True), ("105", 32, True), ("80", 24, False)],
)
async def test_on_a_narrow_terminal_no_row_is_wider_than_it(
    columns: str,
    request_: int,
    challenge: bool,  # noqa: FBT001 - a table's column
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    long = Sample("no sidecar", "/a-very-long-path-of-a-sample-that-does-not-fit", 200, "")
    async with Upstream() as upstream:
        await _send_all(upstream.port, [long])
    heading, row, *_ = capsys.readouterr().out.splitlines()
    assert len(heading) <= int(columns)
    assert len(row) <= int(columns) + 5  # spaces after the last column
    assert heading.index("status") - heading.index("request") == request_
    assert ("challenge" in heading) == challenge
    assert row[30 + request_ - 2 : 30 + request_] == "… "
