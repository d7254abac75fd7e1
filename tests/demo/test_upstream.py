"""The API echoes everything it received except the credential."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from yarl import URL

from authz_service.demo.upstream import Upstream


async def received(path: str = "/", *headers: tuple[str, str]) -> dict[str, Any]:
    async with Upstream() as upstream, aiohttp.ClientSession() as session:
        url = URL(f"http://127.0.0.1:{upstream.port}{path}", encoded=True)
        async with session.post(url, headers=headers) as answer:
            return dict(await answer.json())


async def test_it_echoes_the_method_and_the_unchanged_path() -> None:
    shown = await received("/a%2fb/%7e?q=%2e")
    assert (shown["method"], shown["path"]) == ("POST", "/a%2fb/%7e?q=%2e")


async def test_every_copy_of_a_repeated_header_is_echoed() -> None:
    shown = await received("/", ("x-auth-subject", "admin"), ("x-auth-subject", "alice"))
    assert shown["headers"]["x-auth-subject"] == "admin,alice"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (["Bearer secret"], "Bearer [present]"),
        (["basic secret"], "basic [present]"),
        (["secret"], "[present]"),  # without a scheme, the first word is the credential
        (["secret part-two"], "[present]"),
        (["Bearer secret", "secret"], "Bearer [present],[present]"),
    ],
)
async def test_only_the_scheme_of_a_credential_is_echoed(sent: list[str], shown: str) -> None:
    headers = (await received("/", *(("Authorization", each) for each in sent)))["headers"]
    assert headers["authorization"] == shown
    assert "secret" not in str(headers)
