"""A change of the file of revocations takes effect without the configuration, and a broken one changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import ConfigError
from support.configured_app import decide, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.runtime.application import App
    from support.configured_app import ConfigFolder

NONE = "revocations: []\n"
BOB = "revocations:\n  - {issuer: main, subject: bob}\n"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file is watched, which has no event
            await asyncio.sleep(0.05)


def entries(app: App) -> float | None:
    return app.metrics.registry.get_sample_value("authz_revocations", {"source": "file"})


def refused(app: App) -> float | None:
    return app.metrics.registry.get_sample_value("authz_revocations_file_refused")


async def test_a_change_revokes_a_cached_token_and_a_broken_file_keeps_it_revoked(config: ConfigFolder) -> None:
    file = config.folder / "revocations.yaml"
    file.write_text(NONE)
    credential = token(sub="bob")
    async with config.serving(config.load(revocations_file="revocations.yaml")) as app:
        await asyncio.wait_for(app.active.issuers[0].keys.first_keys.wait(), 20)
        assert (await decide(app, credential)).reason == "ok"
        file.write_text(BOB)
        await until(lambda: entries(app) == 1)
        assert (await decide(app, credential)).reason == "revoked"
        file.write_text("revocations: [{}]\n")
        await until(lambda: refused(app) == 1)
        assert (await decide(app, credential)).reason == "revoked"
        file.unlink()
        await asyncio.sleep(1)
        assert (await decide(app, credential)).reason == "revoked"
        file.write_text(NONE)
        await until(lambda: entries(app) == 0)
        assert refused(app) == 0
        assert (await decide(app, credential)).reason == "ok"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("revocations: [{}]", "revocations[0]: is empty, which would revoke every token"),
        ("revocations: [{subject: ''}]", "revocations[0].subject: "),
        ("revocations: [{sub: bob}]", "revocations[0].sub: "),
        ("revocations: [{issuer: mian}]", "no issuer is named 'mian': "),
        ("revocations: [{issued_before: yesterday}]", "is not a time: write a time with its zone"),
        ("revocations: [{issued_before: 2026-01-31T12:00:00}]", "is not a time: write a time with its zone"),
        ("revocations: [{issued_before: 2026-02-31T12:00:00Z}]", "is not a time that exists"),
        ("revocations: [{issued_before: true}]", "is not a time"),
        ("[]", "must be a mapping"),
        ("", "revocations"),
    ],
)
def test_a_broken_file_is_a_problem_with_its_line(config: ConfigFolder, content: str, problem: str) -> None:
    (config.folder / "revocations.yaml").write_text(content)
    with pytest.raises(ConfigError) as rejected:
        config.load(revocations_file="revocations.yaml")
    assert problem in str(rejected.value)
    assert "revocations.yaml:" in str(rejected.value)


@pytest.mark.parametrize(
    "time", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00.5Z", "1.5e9"]
)
def test_times_are_those_of_rfc_3339_or_of_a_token(config: ConfigFolder, time: str) -> None:
    (config.folder / "revocations.yaml").write_text(
        f"revocations: [{{issued_before: '{time}'}}]".replace("'1.5e9'", "1500000000")
    )
    config.load(revocations_file="revocations.yaml")
