"""Trust anchors are loaded once for all callers, and again after a failure or when discarded."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from authz_service.core.errors import FetchFailed
from authz_service.providers.trust_anchors import TrustAnchors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


async def test_concurrent_callers_share_one_context(ca_file: Path) -> None:
    anchors = TrustAnchors(ca_file)
    first, *others = await asyncio.gather(*(anchors.context() for _ in range(10)))
    assert all(context is first for context in others)
    assert await anchors.context() is first


async def test_a_cancelled_caller_does_not_stop_the_loading(ca_file: Path) -> None:
    anchors = TrustAnchors(ca_file)
    cancelled, waiting = (asyncio.create_task(anchors.context()) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert isinstance(await waiting, ssl.SSLContext)


async def test_discarded_anchors_are_loaded_again(ca_file: Path) -> None:
    anchors = TrustAnchors(ca_file)
    before = await anchors.context()
    anchors.discard()
    assert await anchors.context() is not before


async def test_after_a_failure_they_are_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.touch()
    anchors = TrustAnchors(path)
    for outcome in await asyncio.gather(*(anchors.context() for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, FetchFailed)
    trustme.CA().cert_pem.write_to_path(path)
    assert isinstance(await anchors.context(), ssl.SSLContext)


async def test_a_context_requires_a_certificate_for_the_host_name(ca_file: Path) -> None:
    context = await TrustAnchors(ca_file).context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
