"""The table tells the truth: an answer that is not the expected one is never shown as if it were."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.run import Outcome, _show, send
from authz_service.demo.samples import Sample
from authz_service.demo.upstream import Upstream

if TYPE_CHECKING:
    from pathlib import Path

_DENIED = Sample("denied", "/", 401, "expired", error="invalid_token")
_OUTCOME = Outcome(401, "expired", 'Bearer realm="x", error="invalid_token"', {})
_ANSWERED = Sample("answered", "/", 200, "")  # what the API alone, without Envoy, comes to


def test_the_expected_outcome_is_expected() -> None:
    assert _OUTCOME.is_expected(_DENIED)
    assert Outcome(401, "missing_token", 'Bearer realm="x"', {}).is_expected(
        Sample("", "/", 401, "missing_token", error="")
    )


@pytest.mark.parametrize(
    "outcome",
    [
        replace(_OUTCOME, status=403),
        replace(_OUTCOME, reason="bad_signature"),
        replace(_OUTCOME, challenge=""),
        replace(_OUTCOME, challenge='Bearer realm="x"'),
        replace(_OUTCOME, challenge='Bearer realm="x", error="insufficient_scope"'),
    ],
)
def test_an_outcome_that_differs_in_one_thing_is_not(outcome: Outcome) -> None:
    assert not outcome.is_expected(_DENIED)


def test_a_challenge_where_none_or_no_error_is_expected_is_not() -> None:
    assert not _OUTCOME.is_expected(replace(_DENIED, error=None))
    assert not _OUTCOME.is_expected(replace(_DENIED, error=""))


@pytest.mark.parametrize(("seen", "expected"), [("admin", None), ("admin", "alice"), ("admin, alice", "alice")])
def test_a_header_that_got_through_is_not(seen: str, expected: str | None) -> None:
    outcome = Outcome(200, "ok", "", {"x-auth-subject": seen})
    assert not outcome.is_expected(Sample("", "/", 200, "ok", upstream={"x-auth-subject": expected}))


async def test_what_envoy_answers_by_itself_without_a_body_is_an_outcome_as_well(tmp_path: Path) -> None:
    no_sidecar = Bootstrap("127.0.0.1:9", 9)
    async with Envoy(no_sidecar, tmp_path) as envoy, aiohttp.ClientSession() as session:
        assert await send(session, envoy.port, _ANSWERED) == Outcome(403, "", "", {})


async def test_what_envoy_answers_by_itself_in_plain_text_is_an_outcome_as_well(tmp_path: Path) -> None:
    no_upstream = Bootstrap("127.0.0.1:9", 9, failure_mode_allow=True)
    async with Envoy(no_upstream, tmp_path) as envoy, aiohttp.ClientSession() as session:
        outcome = await send(session, envoy.port, _ANSWERED)
    assert (outcome.status, outcome.upstream) == (503, {})


async def test_each_row_is_marked_and_the_unexpected_ones_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    async with Upstream() as upstream:
        assert await _show(upstream.port, [_ANSWERED, _DENIED]) == 1
    table = capsys.readouterr().out
    assert "✓ answered" in table
    assert "✗ denied" in table
    assert "expected 401 expired" in table
    assert table.endswith("1 as expected, 1 not\n")


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "colored"), [("yes", "", "yes"), ("yes", "1", "no"), ("no", "", "no")]
)
async def test_color_is_for_terminals_whose_user_has_not_declined_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: str,
    no_color: str,
    colored: str,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal == "yes")
    monkeypatch.setenv("NO_COLOR", no_color)
    async with Upstream() as upstream:
        await _show(upstream.port, [_ANSWERED])
    assert ("\033[" in capsys.readouterr().out) == (colored == "yes")
