"""A change of the file of revocations takes effect without the configuration, and a broken one changes nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.cli import main
from authz_service.core.errors import ConfigError
from authz_service.runtime import revocation_file
from authz_service.tokens.revocation.file import revocations_in
from support.configured_app import decide, introspected_issuer, issuer, reload, token
from support.http_provider import Provider
from support.samples import sample_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.runtime.application import App
    from authz_service.tokens.revocation.revocations import Revocations
    from runtime.conftest import Logged
    from support.configured_app import ConfigFolder

NAME = "revocations.yaml"
REFUSED = "revocations rejected; the previous ones stay active"
NONE = "revocations: []\n"
BOB = "revocations:\n  - {issuer: main, subject: bob}\n"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file is watched, which has no event
            await asyncio.sleep(0.05)


def entries(app: App) -> float | None:
    return sample_value(app.metrics, "authz_revocations", {"source": "file"})


def refused(app: App) -> float | None:
    return sample_value(app.metrics, "authz_revocations_file_rejected")


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
        ("revocations: [{issued_before: 2026}]", "is not a time between 2001 and 2286"),
        ("revocations: [{issued_before: 1769860800000}]", "is not a time between 2001 and 2286"),  # milliseconds
        ("revocations: [{issued_before: 9999-01-01T00:00:00Z}]", "is not a time between 2001 and 2286"),
        ("revocations: [{issued_before: .nan}]", "write it in decimal, or in quotes"),
        ("revocations: [{issued_before: 1" + "0" * 400 + "}]", "revocations[0].issued_before: "),
        ("revocations: [{issued_before: 0001-01-01T00:00:00+23:59}]", "is not a time"),
        ("revocations: [{jti: null}]", "revocations[0].jti: is empty"),
        ("revocations: [{subject: 4711}]", 'write it in quotes, "4711"'),
        ("revocations: [{jti: a, jti: b}]", "is written twice"),
        ('revocations: [{issuer: "\\e[31m"}]', "no issuer is named "),
        ("revocations:\n  - {jti: a}\n  - {jti:", "revocations.yaml:"),
        ("revocations: " + "[" * 10_000, "revocations.yaml:"),
        ("x" * (1 << 20) + "x", "larger than"),
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
    assert "\x1b" not in str(rejected.value)


def test_check_config_prints_every_problem_of_the_file_with_its_line(
    config: ConfigFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.folder / NAME).write_text(NONE)
    config.load(revocations_file=NAME)
    assert main(["check-config", str(config.file)]) == 0
    (config.folder / NAME).write_text("revocations:\n  - {}\n  - {jti: a}\n  - {subject: 7}\n")
    capsys.readouterr()
    assert main(["check-config", str(config.file)]) == 1
    printed = "".join(capsys.readouterr())
    assert f"{config.folder / NAME}:2: revocations[0]: is empty" in printed
    assert f"{config.folder / NAME}:4: revocations[2].subject: must be a string" in printed
    (config.folder / NAME).unlink()
    assert main(["check-config", str(config.file)]) == 1


@pytest.mark.parametrize(
    "time", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00.5Z", "1.5e9"]
)
def test_times_are_those_of_rfc_3339_or_of_a_token(config: ConfigFolder, time: str) -> None:
    (config.folder / "revocations.yaml").write_text(
        f"revocations: [{{issued_before: '{time}'}}]".replace("'1.5e9'", "1500000000")
    )
    config.load(revocations_file="revocations.yaml")


async def test_a_start_with_a_broken_file_is_refused(config: ConfigFolder) -> None:
    (config.folder / NAME).write_text(NONE)
    loaded = config.load(revocations_file=NAME)
    (config.folder / NAME).write_text("revocations: [{}]")  # between the check and the start
    with pytest.raises(ConfigError, match="would revoke every token"):
        async with config.serving(loaded):
            pass


async def test_a_reload_takes_the_file_that_it_names_and_a_broken_one_keeps_the_revocations(
    config: ConfigFolder,
) -> None:
    (config.folder / NAME).write_text(BOB)
    (config.folder / "other.yaml").write_text(BOB.replace("bob", "alice"))
    async with config.serving(config.load(revocations_file=NAME)) as app:
        assert (await decide(app, token(sub="bob"))).reason == "revoked"
        other = config.load(revocations_file="other.yaml")
        await reload(app, other)
        assert (await decide(app, token(sub="bob"))).reason == "ok"
        assert (await decide(app, token(sub="alice"))).reason == "revoked"
        (config.folder / "other.yaml").write_text("revocations: [{}]")
        await reload(app, other)
        assert (await decide(app, token(sub="alice"))).reason == "revoked"


async def test_a_broken_file_counts_as_refused_no_more_once_it_is_not_configured(config: ConfigFolder) -> None:
    (config.folder / NAME).write_text(BOB)
    async with config.serving(config.load(revocations_file=NAME)) as app:
        (config.folder / NAME).write_text("revocations: [{}]")
        await until(lambda: refused(app) == 1)
        await reload(app, config.load())
        await until(lambda: refused(app) == 0)
        assert entries(app) == 0
        assert (await decide(app, token(sub="bob"))).reason == "ok"


async def test_decisions_continue_while_a_long_file_is_read(
    config: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, decided = threading.Event(), threading.Event()

    def slow(*parts: Any) -> Revocations:
        reading.set()
        assert decided.wait(20)  # an event loop that waits for this would never set it
        return revocations_in(*parts)

    monkeypatch.setattr(revocation_file, "_revocations_in", slow)
    (config.folder / NAME).write_text(NONE)
    async with config.serving(config.load(revocations_file=NAME)) as app:
        many = "".join(f"  - {{session: s{number}}}\n" for number in range(30_000))
        (config.folder / NAME).write_text(f"revocations:\n{many}")
        await until(reading.is_set)
        for _ in range(100):
            assert (await decide(app, token(sid="s29999"))).reason == "ok"
        decided.set()
        await until(lambda: entries(app) == 30_000)
        assert (await decide(app, token(sid="s29999"))).reason == "revoked"
        assert (await decide(app, token(sid="s30000"))).reason == "ok"


async def test_a_file_full_of_mistakes_is_one_short_log_line(config: ConfigFolder, logged: Logged) -> None:
    (config.folder / NAME).write_text(NONE)
    async with config.serving(config.load(revocations_file=NAME)) as app:
        (config.folder / NAME).write_text("revocations:\n" + "  - {}\n" * 5000)
        await until(lambda: refused(app) == 1)
        await asyncio.sleep(1.2)  # two more looks at the same content
        (line,) = logged(REFUSED)
        assert line["count"] == 5000
        assert len(line["problems"]) == 20


async def test_a_file_that_meets_a_bug_is_refused_and_the_next_one_is_read(
    config: ConfigFolder, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    (config.folder / NAME).write_text(NONE)
    async with config.serving(config.load(revocations_file=NAME)) as app:

        def failing(*_: Any) -> Revocations:
            raise RecursionError

        with monkeypatch.context() as patched:
            patched.setattr(revocation_file, "_revocations_in", failing)
            (config.folder / NAME).write_text(BOB)
            await until(lambda: refused(app) == 1)
        assert logged(REFUSED)[0]["problems"] == ["unexpected RecursionError"]
        (config.folder / NAME).write_text(f"{BOB}# again\n")
        await until(lambda: refused(app) == 0)
        assert (await decide(app, token(sub="bob"))).reason == "revoked"


async def test_a_cached_opaque_token_is_revoked(config: ConfigFolder) -> None:
    (config.folder / NAME).write_text(NONE)
    async with Provider() as provider:
        config.serve_introspection(provider)  # of u1
        patient = introspected_issuer(provider, timeout="10s")
        server = {"check_deadline": "20s"}
        async with config.serving(config.load(patient, server=server, revocations_file=NAME)) as app:
            assert (await decide(app, "opaque")).reason == "ok"
            (config.folder / NAME).write_text("revocations: [{subject: u1}]")
            await until(lambda: entries(app) == 1)
            assert (await decide(app, "opaque")).reason == "revoked"
            assert provider.count("/introspect") == 1


@pytest.mark.parametrize(
    ("named", "revoked"),
    [
        ("tenants", {"one": True, "two": True}),
        ("https://login.example/one", {"one": True, "two": False}),
    ],
)
async def test_an_entry_names_all_tenants_of_a_template_or_one(
    config: ConfigFolder, named: str, revoked: dict[str, bool]
) -> None:
    template = issuer("tenants", issuer="https://login.example/{tenantid}")
    (config.folder / NAME).write_text(f"revocations: [{{issuer: '{named}', subject: bob}}]")
    async with config.serving(config.load(template, revocations_file=NAME)) as app:
        for tenant, expected in revoked.items():
            decision = await decide(app, token(iss=f"https://login.example/{tenant}", sub="bob"))
            assert decision.reason == ("revoked" if expected else "ok")
