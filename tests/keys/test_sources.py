"""The contract of a key source, for the file, for HTTP, and for the tests' fake."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import pytest
from aiohttp import web

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.keys.file_source import FileSource
from authz_service.keys.http_source import HttpSource
from support.http_provider import Provider
from support.key_source import FakeSource, jwks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from authz_service.keys.keyset import KeySet
    from authz_service.keys.source import KeySource

MAX_BYTES = 4096
MAX_KEYS = 3


class Publisher(Protocol):
    """Publishes what a source fetches."""

    @property
    def source(self) -> KeySource:
        """Fetches what is published."""

    def publish(self, document: bytes) -> None:
        """Replace what is published."""

    def withdraw(self) -> None:
        """Publish nothing."""


class FakePublisher:
    def __init__(self) -> None:
        self.source = FakeSource()
        self.source.max_keys = MAX_KEYS

    def publish(self, document: bytes) -> None:
        self.source.published = document if len(document) <= MAX_BYTES else None

    def withdraw(self) -> None:
        self.source.published = None


class FilePublisher:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "jwks.json"
        settings = {"jwks_file": str(self._file), "max_bytes": f"{MAX_BYTES}B", "max_keys": MAX_KEYS}
        self.source = FileSource(self._file, Keys.read(settings))

    def publish(self, document: bytes) -> None:
        self._file.write_bytes(document)

    def withdraw(self) -> None:
        self._file.unlink()


class HttpPublisher:
    def __init__(self, provider: Provider, *, etag: bool) -> None:
        self._provider = provider
        self._etag = etag
        settings = Keys.read(
            {"jwks_uri": f"{provider.origin}/jwks", "max_bytes": f"{MAX_BYTES}B", "max_keys": MAX_KEYS}
        )
        self.source = HttpSource("https://issuer.example", settings)

    def publish(self, document: bytes) -> None:
        async def handle(request: web.Request) -> web.Response:
            response = web.Response(body=document)
            if self._etag:
                response.etag = str(hash(document))
                if any(each.value == str(hash(document)) for each in request.if_none_match or ()):
                    return web.Response(status=304)
            return response

        self._provider.handlers["/jwks"] = handle

    def withdraw(self) -> None:
        self._provider.handlers.clear()


@pytest.fixture(params=["fake", "file", "http", "http with ETag"])
async def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Publisher]:
    async with Provider() as provider:
        publisher: Publisher
        match request.param:
            case "fake":
                publisher = FakePublisher()
            case "file":
                publisher = FilePublisher(tmp_path)
            case kind:
                publisher = HttpPublisher(provider, etag=kind == "http with ETag")
        yield publisher
        await publisher.source.close()


def kids(key_set: KeySet | None) -> list[str | None] | None:
    return None if key_set is None else [key.kid for key in key_set.keys]


async def test_a_fetch_returns_what_is_published(publisher: Publisher) -> None:
    publisher.publish(jwks("a", "b"))
    fetched = await publisher.source.fetch(have_keys=False)
    assert kids(fetched.key_set) == ["a", "b"]


async def test_a_lifetime_is_a_positive_number_of_seconds(publisher: Publisher) -> None:
    publisher.publish(jwks("a"))
    for have_keys in (False, True):
        lifetime = (await publisher.source.fetch(have_keys=have_keys)).lifetime
        assert lifetime > 0
        assert math.isfinite(lifetime)


async def test_an_unchanged_key_set_is_fetched_again_or_not_modified(publisher: Publisher) -> None:
    publisher.publish(jwks("a"))
    await publisher.source.fetch(have_keys=False)
    assert kids((await publisher.source.fetch(have_keys=True)).key_set) in (None, ["a"])


async def test_without_keys_an_unchanged_key_set_is_fetched(publisher: Publisher) -> None:
    publisher.publish(jwks("a"))
    await publisher.source.fetch(have_keys=False)
    assert kids((await publisher.source.fetch(have_keys=False)).key_set) == ["a"]


async def test_the_first_fetch_returns_keys_even_if_the_cache_has_some(publisher: Publisher) -> None:
    publisher.publish(jwks("a"))
    assert kids((await publisher.source.fetch(have_keys=True)).key_set) == ["a"]


async def test_a_changed_key_set_is_fetched(publisher: Publisher) -> None:
    for published in (["a"], ["a", "b"], ["b"], ["a"]):
        publisher.publish(jwks(*published))
        assert kids((await publisher.source.fetch(have_keys=True)).key_set) == published


async def test_fetches_fail_while_nothing_is_published(publisher: Publisher) -> None:
    publisher.publish(jwks("a"))
    await publisher.source.fetch(have_keys=False)
    publisher.withdraw()
    for have_keys in (True, False):
        with pytest.raises(FetchFailed):
            await publisher.source.fetch(have_keys=have_keys)
    publisher.publish(jwks("a"))
    assert kids((await publisher.source.fetch(have_keys=True)).key_set) in (None, ["a"])
    publisher.publish(jwks("b"))
    assert kids((await publisher.source.fetch(have_keys=True)).key_set) == ["b"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b'{"keys": []}',
        b"<html></html>",
        jwks("a", "b", "c", "d"),
        jwks("a")[:-1] + b" " * MAX_BYTES + b"}",
    ],
    ids=["empty", "no keys", "HTML", "too many keys", "too large"],
)
async def test_fetches_of_an_unusable_key_set_fail_however_often(publisher: Publisher, document: bytes) -> None:
    publisher.publish(jwks("a"))
    await publisher.source.fetch(have_keys=False)
    publisher.publish(document)
    for have_keys in (True, True, False):
        with pytest.raises(FetchFailed) as failure:
            await publisher.source.fetch(have_keys=have_keys)
        assert str(failure.value)
    publisher.publish(jwks("a"))
    assert kids((await publisher.source.fetch(have_keys=True)).key_set) in (None, ["a"])


async def test_a_source_can_be_closed_at_any_time_and_twice(publisher: Publisher) -> None:
    await publisher.source.close()
    publisher.publish(jwks("a"))
    await publisher.source.fetch(have_keys=False)
    await publisher.source.close()
    await publisher.source.close()
