"""Warnings are logged once a configuration is active, delay nothing, and are those of the active one."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.runtime import reload as reload_module
from support.configured_app import issuer, reload
from support.sidecar_process import HANG_TIMEOUT, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.runtime.preflight import Loaded
    from authz_service.runtime.reload import WarningLog
    from runtime.conftest import Logged
    from support.configured_app import ConfigFolder

SHADOW = [{"name": "quiet", "mode": "shadow"}]
DENIES_NOTHING = "rules[0].mode: denies nothing: remove this line once the counted decisions are as expected"


@contextlib.asynccontextmanager
async def running(warnings: WarningLog) -> AsyncIterator[None]:
    task = asyncio.create_task(warnings.run())
    yield
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


class Finder:
    """Finds one warning, named after the rule of a configuration, once the test lets it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = threading.Semaphore(0)

    def __call__(self, loaded: Loaded) -> tuple[str, ...]:
        (rule,) = loaded.settings.rules
        self.begun.append(rule.name)
        assert self.go_on.acquire(timeout=30)
        return (f"of {rule.name}",)


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Finder:
    finder = Finder()
    monkeypatch.setattr(reload_module, "warnings_of", finder)
    return finder


def texts(logged: Logged) -> list[Any]:
    return [record["warning"] for record in logged("configuration warning")]


def test_comparing_rules_and_certificates_is_imported_after_the_start(config: ConfigFolder) -> None:
    config.load(rules=SHADOW)
    code = (
        "import pathlib, sys; from authz_service.runtime import preflight, supervisor; "
        "loaded = preflight.read(pathlib.Path(sys.argv[1])); print(*sys.modules); "
        "assert preflight.warnings_of(loaded); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config.file], capture_output=True, timeout=HANG_TIMEOUT, check=True, text=True
    )
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    compared = {
        f"authz_service.config.{name}" for name in ("warnings", "resource_warnings", "rule_order", "strictness")
    }
    assert not compared & before
    assert compared <= after
    assert "authz_service.runtime.certificate_warnings" not in after


async def test_the_warnings_of_a_reloaded_configuration_are_logged_with_their_lines(
    config: ConfigFolder, logged: Logged
) -> None:
    old = config.load()
    async with config.serving(old) as app:
        reloader = app.reloader(config.file, old)
        config.load(rules=SHADOW)
        await reloader._reload(requested=True)
        assert len(logged("configuration applied")) == 1
        assert texts(logged) == []
        async with running(reloader.warnings):
            await wait_until(lambda: texts(logged) == [f"{config.file}:1: warning: {DENIES_NOTHING}"])


async def test_no_warnings_of_the_start_are_logged_unless_they_are_submitted(
    config: ConfigFolder, logged: Logged
) -> None:
    loaded = config.load(rules=SHADOW)
    async with config.serving(loaded) as app:
        app.keep_reloading(reloader := app.reloader(config.file, loaded))
        await asyncio.sleep(0.1)
        assert texts(logged) == []
        reloader.warnings.submit(loaded)
        await wait_until(lambda: len(texts(logged)) == 1)


async def test_only_the_warnings_of_the_active_configuration_are_logged(
    config: ConfigFolder, logged: Logged, finder: Finder
) -> None:
    first, second, third = (config.load(rules=[{"name": name}]) for name in ("first", "second", "third"))
    async with config.serving(first) as app:
        warnings = app.reloader(config.file, first).warnings
        async with running(warnings):
            warnings.submit(first)
            await wait_until(lambda: finder.begun == ["first"])
            for loaded in (second, third):
                warnings.submit(loaded)
            await asyncio.sleep(0.1)
            assert finder.begun == ["first"]  # one at a time
            finder.go_on.release(2)
            await wait_until(lambda: texts(logged) == ["of third"])
            assert finder.begun == ["first", "third"]


async def test_reloads_and_decisions_do_not_wait_for_warnings(
    config: ConfigFolder, logged: Logged, finder: Finder
) -> None:
    first, second = (config.load(rules=[{"name": name}]) for name in ("first", "second"))
    async with config.serving(first) as app:
        reloader = app.reloader(config.file, first)
        async with running(reloader.warnings):
            reloader.warnings.submit(first)
            await wait_until(lambda: finder.begun == ["first"])
            await reload(app, second)
            assert app.active.settings is second.settings
            finder.go_on.release()
            await wait_until(lambda: len(texts(logged)) == 1)


async def test_an_unexpected_error_does_not_end_the_warnings_about_later_configurations(
    config: ConfigFolder, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = config.load(rules=SHADOW)
    async with config.serving(loaded) as app:
        warnings = app.reloader(config.file, loaded).warnings
        async with running(warnings):
            with monkeypatch.context() as failing:
                failing.setattr(reload_module, "warnings_of", lambda _: 1 / 0)
                warnings.submit(loaded)
                await wait_until(lambda: len(logged("finding the warnings failed unexpectedly")) == 1)
            warnings.submit(loaded)
            await wait_until(lambda: len(texts(logged)) == 1)


async def test_threads_switch_as_usual_once_no_thread_compiles_or_compares(
    config: ConfigFolder, finder: Finder
) -> None:
    usual = sys.getswitchinterval()
    first = config.load(issuer())
    async with config.serving(first) as app:
        reloader = app.reloader(config.file, first)
        async with running(reloader.warnings):
            reloader.warnings.submit(first)
            await wait_until(lambda: finder.begun == ["everything"])
            assert sys.getswitchinterval() == pytest.approx(usual / 10)
            await reloader._reload(requested=True)
            assert sys.getswitchinterval() == pytest.approx(usual / 10)
            finder.go_on.release(2)
            await wait_until(lambda: finder.begun == ["everything"] * 2)
            await wait_until(lambda: sys.getswitchinterval() == pytest.approx(usual))
