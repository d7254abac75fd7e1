"""``authz-service init`` writes a file that the other commands accept, and never overwrites one unasked."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from support.http_provider import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


async def program(*arguments: str, stdin: Any = asyncio.subprocess.DEVNULL) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "authz_service", *arguments),
        stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), HANG_TIMEOUT)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_file_is_accepted_and_lets_the_issuers_tokens_through(
    provider: IdentityProvider, tmp_path: Path
) -> None:
    config, token = tmp_path / "config.yaml", tmp_path / "token"
    arguments = ["--issuer", provider.issuer, "--audience", AUDIENCE, "--output", str(config)]
    status, out, err = await program("init", *arguments)
    assert (status, out) == (0, "")
    assert err == f"wrote {config}; now run: authz-service check-config {config}\n"
    assert await program("check-config", str(config)) == (0, f"{config}: valid\n", "")
    request = ["--url", "https://api.demo/v1/x", "--token-file", str(token)]
    for algorithm in ("RS256", "ES256"):
        token.write_text(provider.access_token(algorithm=algorithm))
        status, out, err = await program("explain", "--config", str(config), *request)
        assert (status, err) == (0, ""), out
    token.write_text(provider.id_token(aud=AUDIENCE))
    status, out, _ = await program("explain", "--config", str(config), *request)
    assert status == 1
    assert "id_token" in out


async def test_without_an_audience_and_a_terminal_it_asks_nothing_and_the_file_has_a_placeholder(
    provider: IdentityProvider, tmp_path: Path
) -> None:
    status, out, err = await program("init", "--issuer", provider.issuer)
    assert (status, err) == (0, "")
    (tmp_path / "config.yaml").write_text(out)
    status, out, _ = await program("check-config", str(tmp_path / "config.yaml"))
    assert status == 0
    assert "warning: issuers[0].audiences[0]: is the placeholder of authz-service init" in out


@pytest.mark.parametrize(
    ("typed", "audience"), [("https://mine.example/\n", "https://mine.example/"), ("\n", "the-audience-of-your-api")]
)
async def test_at_a_terminal_it_asks_for_the_audience(typed: str, audience: str, provider: IdentityProvider) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "authz_service", "init", "--issuer", provider.issuer),
        stdin=theirs, stderr=theirs, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed.encode())
    out, _ = await asyncio.wait_for(process.communicate(), HANG_TIMEOUT)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert f"audiences: [{audience}]" in out.decode()
    assert "Audience (aud) of the access tokens for your API" in shown
    assert "Reading the metadata of" in shown


async def test_a_file_is_overwritten_only_with_force(provider: IdentityProvider, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mine")
    arguments = ["init", "--issuer", provider.issuer, "--audience", "api", "--output", str(config)]
    problem = f"authz-service: {config} exists already: choose another file, or overwrite it with --force\n"
    assert await program(*arguments) == (1, "", problem)
    assert config.read_text() == "mine"
    assert (await program(*arguments, "--force"))[0] == 0
    assert provider.issuer in config.read_text()


async def test_a_second_issuer_is_an_error_rather_than_the_only_one_in_the_file() -> None:
    status, out, err = await program("init", "--issuer", "https://a.example", "--issuer", "https://b.example")
    assert (status, out) == (2, "")
    assert "argument --issuer: takes one issuer: run init for each, and put the entries of issuers into one file" in err


async def test_a_problem_with_the_key_set_is_a_warning(tmp_path: Path) -> None:
    async with Provider() as provider:
        metadata = {"issuer": provider.origin, "jwks_uri": f"{provider.origin}/jwks"}
        provider.serve("/.well-known/openid-configuration", json.dumps(metadata))
        status, out, err = await program("init", "--issuer", provider.origin, "--audience", "api")
    assert status == 0
    assert err == f"warning: {provider.origin}/jwks responded with status 404\n"
    assert "#algorithms: " in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--issuer", "idp"], "--issuer: 'idp' is not a URL"),
        (["--issuer", "http://127.0.0.1:1", "--audience", "*"], "--audience: '*' has a brace or a *"),
        (["--issuer", "http://127.0.0.1:1"], "http://127.0.0.1:1/.well-known/openid-configuration refuses connections"),
        (["--issuer", "http://idp.example"], "use https, or add --allow-http"),
        (["--issuer", "http://127.0.0.1:1", "--ca-file", "/none"], "--ca-file: '/none' cannot be read"),
        (["--issuer", "http://127.0.0.1:1", "--output", "/proc/self/x"], "refuses connections"),
    ],
)
async def test_anything_wrong_is_one_line_that_says_what_to_do(arguments: list[str], problem: str) -> None:
    status, out, err = await program("init", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("authz-service: ")
    assert problem in err
    assert err.count("\n") == 1


async def test_a_file_that_cannot_be_written_is_named(provider: IdentityProvider, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "config.yaml"
    status, _, err = await program("init", "--issuer", provider.issuer, "--audience", "a", "--output", str(missing))
    assert (status, err) == (1, f"authz-service: {missing} cannot be written: No such file or directory\n")
