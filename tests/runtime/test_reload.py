"""A changed configuration is applied as a whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.config import files
from authz_service.config.model import Settings
from authz_service.core.errors import ConfigError
from authz_service.runtime import assembly, issuer_pool, preflight
from authz_service.runtime import reload as reload_module
from authz_service.runtime.application import App
from authz_service.runtime.background_tasks import BackgroundTasks
from authz_service.runtime.preflight import Loaded
from authz_service.runtime.reload import Changes, Reloader
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.introspection.introspector import Introspector
from authz_service.tokens.jwt.cache import JwtCache
from support.configured_app import (
    ConfigFolder,
    LogLevels,
    decide,
    introspected_issuer,
    issuer,
    reload,
    sample,
    token,
)
from support.dpop import DpopKey
from support.http_provider import Provider
from support.key_source import jwks
from support.samples import collected
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from runtime.conftest import Logged

ISSUER = "https://issuer.example"
WITHOUT_KEYS = (
    "applying a configuration without the keys of some issuers; their tokens are denied until the keys arrive"
)


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "_LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(reload_module, "_SETTLE_TIME", 0.01)


# Watching.


class Watched:
    """A reloader over a file whose text is the configuration: one that begins with "bad" is rejected."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.metrics = Metrics(transport="grpcio")
        self.applied: list[str] = []
        self.tried: list[str] = []
        self.error: Exception | None = None
        parts = {"issuers": [{"issuer": ISSUER, "audiences": ["a"]}], "rules": [{"name": "r"}]}
        self.loaded = Loaded(file, Settings.read(parts), b"", files.digests_of([file]))
        self.reloader = Reloader(
            file,
            self.loaded,
            load=self._load,
            apply=self._apply,
            listening=self.loaded.settings.server,
            metrics=self.metrics,
            clock=lambda: 7.0,
        )

    def _load(self, file: Path) -> Loaded:
        named = self.loaded.settings.reloaded_files
        self.loaded = self.loaded._replace(digests=files.digests_of((file, *named)))
        text = file.read_text()
        self.tried.append(text)
        if text.startswith("bad"):
            raise ConfigError([text])
        return self.loaded

    async def _apply(self, _loaded: Loaded) -> Changes:
        if self.error is not None:
            raise self.error
        self.applied.append(self.tried[-1])
        return Changes(1, [], [], [])

    def counted(self, result: str) -> float | None:
        return sample(self.metrics, "authz_config_reloads_total", result=result)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reloader.run())
        yield
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    file = tmp_path / "config.yaml"
    file.write_text("first")
    return Watched(file)


async def test_a_change_is_applied_once(watched: Watched) -> None:
    async with watched.running():
        await asyncio.sleep(0.1)
        assert watched.tried == []
        watched.file.write_text("second")
        await wait_until(lambda: watched.applied == ["second"])
        await asyncio.sleep(0.1)
        assert watched.tried == ["second"]
        assert watched.counted("success") == 1
        assert sample(watched.metrics, "authz_config_last_reload_success_timestamp_seconds") == 7.0


async def test_an_invalid_change_is_logged_and_counted_once_and_the_next_valid_one_is_applied(
    watched: Watched, logged: Logged
) -> None:
    async with watched.running():
        watched.file.write_text("bad")
        await wait_until(lambda: watched.counted("failure") == 1)
        await asyncio.sleep(0.1)
        assert logged("configuration rejected; the previous one stays active") == [{"problems": ["bad"]}]
        assert sample(watched.metrics, "authz_config_last_reload_successful") == 0
        assert watched.applied == []
        watched.file.write_text("first")
        await wait_until(lambda: watched.applied == ["first"])
        assert sample(watched.metrics, "authz_config_last_reload_successful") == 1
        assert watched.counted("failure") == 1


async def test_a_rejected_configuration_is_tried_again_since_a_file_that_it_names_may_appear(
    watched: Watched, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_module, "_RETRY_INTERVAL", 0.05)
    async with watched.running():
        watched.file.write_text("bad")
        await wait_until(lambda: len(watched.tried) >= 3)
        assert len(logged("configuration rejected; the previous one stays active")) == 1
        assert watched.counted("failure") == 1


async def test_a_requested_reload_happens_whether_anything_changed_or_not(watched: Watched, logged: Logged) -> None:
    async with watched.running():
        watched.reloader.request()
        await wait_until(lambda: watched.applied == ["first"])
        watched.file.write_text("bad")
        await wait_until(lambda: watched.counted("failure") == 1)
        watched.reloader.request()
        await wait_until(lambda: watched.counted("failure") == 2)
        assert len(logged("configuration rejected; the previous one stays active")) == 2


async def test_a_file_is_not_read_while_it_is_being_written(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "_SETTLE_TIME", 1.0)  # longer than any pause of a busy machine
    async with watched.running():
        for length in range(1, 30):
            watched.file.write_text("bad half"[:length])
            await asyncio.sleep(0.01)
        watched.file.write_text("whole")
        await wait_until(lambda: watched.applied == ["whole"])
        assert watched.tried == ["whole"]


async def test_a_change_between_startup_and_the_first_look_is_applied(watched: Watched) -> None:
    watched.file.write_text("second")
    async with watched.running():
        await wait_until(lambda: watched.applied == ["second"])


async def test_an_unexpected_error_fails_the_reload_and_does_not_end_the_watching(
    watched: Watched, logged: Logged
) -> None:
    async with watched.running():
        watched.error = ZeroDivisionError()
        watched.file.write_text("second")
        await wait_until(lambda: watched.counted("failure") == 1)
        assert len(logged("reload failed unexpectedly")) == 1
        watched.error = None
        watched.file.write_text("third")
        await wait_until(lambda: watched.applied == ["third"])


@pytest.mark.parametrize("text", ["second", "bad"])
async def test_the_garbage_collector_waits_while_a_configuration_is_built(watched: Watched, text: str) -> None:
    enabled: list[bool] = []
    load = watched.reloader._load

    def observed(file: Path) -> Loaded:
        enabled.append(gc.isenabled())
        return load(file)

    watched.reloader._load = observed
    watched.file.write_text(text)
    await watched.reloader._reload(requested=True)
    assert enabled == [False]
    assert gc.isenabled()


async def test_a_file_is_watched_once_the_configuration_names_it(watched: Watched) -> None:
    anchors = watched.file.parent / "ca.pem"
    anchors.write_text("one")
    keys = {"keys": {"ca_file": str(anchors)}}
    parts = {"issuers": [{"issuer": ISSUER, "audiences": ["a"]} | keys], "rules": [{"name": "r"}]}
    async with watched.running():
        watched.loaded = Loaded(watched.file, Settings.read(parts), b"", {})
        watched.file.write_text("second")
        await wait_until(lambda: watched.applied == ["second"])
        await asyncio.sleep(0.1)
        assert watched.tried == ["second"]
        anchors.write_text("two")
        await wait_until(lambda: watched.applied == ["second", "second"])


# Applying.


async def test_requests_are_decided_by_the_new_rules_once_applied(config: ConfigFolder, logged: Logged) -> None:
    async with config.serving(config.load()) as app:
        assert (await decide(app, token())).reason == "ok"
        await reload(app, config.load(rules=[{"name": "strict", "require": {"scopes": ["admin"]}}]))
        answer = await decide(app, token())
        assert (answer.reason, answer.metadata["rule"]) == ("insufficient_scope", "strict")
        assert logged("configuration applied") == [
            {"rules": 1, "issuers_added": [], "issuers_removed": [], "issuers_changed": []}
        ]


async def test_the_upstream_headers_of_a_cached_token_follow_the_new_configuration(config: ConfigFolder) -> None:
    bearer = token(sub="alice")
    async with config.serving(config.load()) as app:
        for _ in range(2):
            assert (await decide(app, bearer)).headers["x-auth-subject"] == "alice"
        await reload(app, config.load(upstream={"headers": {"x-user": "sub"}}))
        assert len(app.active.token_cache) == 1
        ((_, entry),) = app.active.token_cache._entries.items()
        assert len(entry.token.responses) == 0
        for _ in range(2):
            assert (await decide(app, bearer)).headers == {"x-user": "alice"}


async def test_a_cached_token_of_a_template_is_not_kept_for_an_issuer_that_is_now_its_own(config: ConfigFolder) -> None:
    template = issuer("tenants", issuer="https://login.example/{tenantid}")
    bearer = token(iss="https://login.example/one")
    other = token(iss="https://login.example/two")
    async with config.serving(config.load(template)) as app:
        for each in (bearer, other):
            assert (await decide(app, each)).reason == "ok"
        (config.folder / "own.json").write_bytes(jwks("own"))
        own = issuer("one", issuer="https://login.example/one", keys={"jwks_file": "own.json"})
        await reload(app, config.load(template, own))
        assert (await decide(app, bearer)).reason == "unknown_key"
        assert (await decide(app, other)).reason == "ok"


async def test_a_cached_bound_token_needs_its_proof_once_confirmations_are_verified(config: ConfigFolder) -> None:
    ignoring, bound = issuer(confirmation="ignore"), token(cnf=DpopKey().cnf)
    async with config.serving(config.load(ignoring)) as app:
        for settings, reason in ((issuer(), "missing_proof"), (ignoring, "ok"), (issuer(), "missing_proof")):
            await decide(app, bound)  # caches it
            await reload(app, config.load(settings))
            assert (await decide(app, bound)).reason == reason


async def test_an_introspected_bound_token_needs_its_proof_once_confirmations_are_verified(
    config: ConfigFolder,
) -> None:
    async with Provider() as provider:
        config.serve_introspection(provider, cnf=DpopKey().cnf)
        verifying = introspected_issuer(provider)
        ignoring = verifying | {"confirmation": "ignore"}
        async with config.serving(config.load(ignoring)) as app:
            for settings, reason in ((verifying, "missing_proof"), (ignoring, "ok"), (verifying, "missing_proof")):
                await decide(app, "opaque")
                await reload(app, config.load(settings))
                assert (await decide(app, "opaque")).reason == reason


async def test_a_nonce_key_that_became_too_short_is_rejected_and_the_previous_one_stays_active(
    config: ConfigFolder, logged: Logged
) -> None:
    key = config.folder / "nonce.key"
    key.write_bytes(b"k" * 32)
    dpop = {"nonce": "required", "nonce_key_file": "nonce.key"}
    async with config.serving(config.load(dpop=dpop)) as app:
        before = app.active
        for content in (b"", b"\n", b"k" * 31):
            loaded = config.load(dpop=dpop)
            key.write_bytes(content)  # between the check and the reload
            await reload(app, loaded)
            assert app.active is before
            with pytest.raises(ConfigError, match=r"dpop\.nonce_key_file: has \d+ bytes, expected 32 or more"):
                config.load(dpop=dpop)
            key.write_bytes(b"k" * 32)
        assert len(logged("configuration rejected; the previous one stays active")) == 3


async def test_new_keys_are_fetched_before_their_configuration_is_active(config: ConfigFolder) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("b"))
        async with config.serving(config.load()) as app:
            await reload(app, config.load(issuer(), issuer("new", keys={"jwks_uri": f"{provider.origin}/keys"})))
            assert provider.count("/keys") == 1
            assert (await decide(app, token("new", "b"))).reason == "ok"
            assert provider.count("/keys") == 1


async def test_an_unreachable_provider_of_a_new_issuer_delays_no_other_and_keeps_readiness(
    config: ConfigFolder, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_pool, "_FIRST_RETRY", 0.1)
    down = {"jwks_uri": "http://127.0.0.1:1/keys", "timeout": "100ms"}
    async with config.serving(config.load()) as app:
        await reload(app, config.load(issuer(), issuer("down", keys=down), rules=[{"name": "new"}]))
        assert app.missing() == []
        assert [line["issuers"] for line in logged(WITHOUT_KEYS)] == [["down"]]
        answer = await decide(app, token())
        assert (answer.reason, answer.metadata["rule"]) == ("ok", "new")
        assert (await decide(app, token("down"))).reason == "keys_unavailable"


async def test_a_sidecar_that_is_not_ready_becomes_ready_by_a_working_configuration(
    config: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_pool, "_FIRST_RETRY", 0.1)
    down = issuer(keys={"jwks_uri": "http://127.0.0.1:1/keys", "timeout": "100ms"})
    app = App(config.load(down).settings)
    try:
        await app.start()
        assert app.missing() == ["keys of issuer main"]
        await reload(app, config.load(issuer()))
        await wait_until(lambda: app.missing() == [])
        assert (await decide(app, token())).reason == "ok"
    finally:
        await app.close()


async def test_a_request_that_waits_for_keys_is_decided_by_the_previous_configuration(config: ConfigFolder) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        slow = issuer(keys={"jwks_uri": f"{provider.origin}/keys", "timeout": "10s"})
        old = config.load(slow, rules=[{"name": "old"}], server={"check_deadline": "20s"})
        async with config.serving(old) as app:
            deciding = asyncio.create_task(decide(app, token(kid="late")))
            await wait_until(lambda: provider.count("/keys") == 2 or deciding.done())
            await reload(app, config.load(issuer(), rules=[{"name": "new", "require": {"scopes": ["admin"]}}]))
            answer = await deciding
            assert (answer.reason, answer.metadata["rule"]) == ("unknown_key", "old")
            assert (await decide(app, token())).metadata["rule"] == "new"


async def test_keys_that_need_a_restart_are_logged_and_the_others_applied(config: ConfigFolder, logged: Logged) -> None:
    async with config.serving(config.load()) as app:
        other = {"grpc_address": "127.0.0.1:1", "admin_address": "127.0.0.1:2", "check_deadline": "3s"}
        await reload(
            app,
            config.load(
                server=other, rules=[{"name": "new"}], logging={"level": "debug"}, token_cache={"max_entries": 0}
            ),
        )
        assert logged("changed keys take effect only after a restart") == [
            {"keys": ["server.grpc_address", "server.admin_address"]}
        ]
        assert (await decide(app, token())).metadata["rule"] == "new"
        assert app.active.check_deadline == 3.0
        assert config.log_levels == ["debug"]
        assert len(app.active.token_cache) == 0
        await reload(app, config.load())
        assert len(logged("changed keys take effect only after a restart")) == 1


# A reload that fails.


class StepFailed(Exception):  # noqa: N818 - as it reads in the log
    """Raised by the step under test."""


def fail(*_: object, **__: object) -> None:
    raise StepFailed


def failing_second() -> Any:
    real, calls = BackgroundTasks.start, itertools.count()

    def start(tasks: BackgroundTasks, work: Any, name: str) -> Any:
        if next(calls):
            work.close()
            raise StepFailed
        return real(tasks, work, name)

    return start


STEPS: dict[str, tuple[object, str]] = {
    "reading the file": (preflight, "load_with_source"),
    "identifying a key cache": (issuer_pool, "_identity_of"),
    "building a key source": (issuer_pool, "source_of"),
    "building a key cache": (issuer_pool, "key_cache_of"),
    "declaring an issuer's metrics": (Metrics, "issuer"),
    "building an introspector": (issuer_pool, "introspector_of"),
    "declaring an introspector's metrics": (Metrics, "introspection"),
    "filling an introspector's cache": (Introspector, "copy_cache_of"),
    "starting": (issuer_pool.IssuerPool, "start"),
    "starting the second of several parts": (BackgroundTasks, "start"),
    "waiting for keys": (reload_module, "wait_for_keys"),
    "assembling": (reload_module, "assemble"),
    "building the policy": (assembly, "Policy"),
    "building the validator": (assembly, "Validator"),
    "building the upstream headers": (assembly, "UpstreamHeaders"),
    "building the authorizer": (assembly, "Authorizer"),
    "building the token cache": (assembly, "JwtCache"),
    "building the decision log": (assembly, "DecisionLog"),
    "filling the token cache": (JwtCache, "copy_from"),
    "comparing the configurations": (reload_module, "_changes"),
    "declaring the rules' metrics": (Metrics, "declare_rules"),
    "configuring the logs": (LogLevels, "append"),  # fails after the rules' metrics were declared
}


class ThreeIssuers:
    """Two configurations: the keys of one issuer move, another one is unchanged, a third one is added."""

    def __init__(self, config: ConfigFolder, provider: Provider) -> None:
        self.config = config
        self.provider = provider
        config.serve_introspection(provider)
        provider.serve("/old", jwks("a"))
        provider.serve("/new", jwks("a", "b"))
        self.same = introspected_issuer(provider) | {"issuer": "https://same.example", "name": "same"}

    def old(self) -> Loaded:
        moves = issuer(keys={"jwks_uri": f"{self.provider.origin}/old"})
        return self.config.load(moves, self.same, rules=[{"name": "old"}])

    def new(self) -> Loaded:
        moves = issuer(keys={"jwks_uri": f"{self.provider.origin}/new"})
        parts = {"token_cache": {"max_entries": 7}, "logging": {"level": "debug", "decisions": "all"}}
        return self.config.load(moves, self.same, issuer("added"), rules=[{"name": "new"}], **parts)


def our_tasks() -> set[asyncio.Task[Any]]:
    """All but the provider's, which have no name of their own."""
    return {task for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")}


def state_of(app: App) -> dict[str, object]:
    """Everything that a failed reload must leave as it was."""
    families = [family for family in collected(app.metrics.registry) if family.name.startswith("authz_")]
    gauges = {
        (each.name, *each.labels.items()): each.value
        for family in families
        if family.type == "gauge" and "_age_" not in family.name and "_reload_" not in family.name
        for each in family.samples
    }
    rules = {each.labels["rule"] for family in families for each in family.samples if "rule" in each.labels}
    pool = app._pool
    return {
        "active": app.active,
        "gauges": gauges,
        "rules": rules,
        "tasks": our_tasks(),
        "pool": (dict(pool._gauges), dict(pool._tasks), dict(pool._identities)),
        "cached tokens": len(app.active.token_cache),
    }


async def steady_state_of(app: App) -> dict[str, object]:
    """The state once everything that began at the start has ended."""
    states = [state_of(app)]

    def is_steady() -> bool:
        states.append(state_of(app))
        announced = all(task.get_name() != "readiness" for task in our_tasks())  # it ends some time after the keys came
        return announced and states[-1] == states[-2]

    await wait_until(is_steady)
    return states[-1]


async def decided_by(app: App, bearer: str) -> tuple[str, Any]:
    answer = await decide(app, bearer)
    return answer.reason, answer.metadata["rule"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_reload_that_fails_at_any_step_changes_nothing_and_the_next_one_works(
    config: ConfigFolder, logged: Logged, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with Provider() as provider:
        issuers = ThreeIssuers(config, provider)
        old = issuers.old()
        async with config.serving(old) as app:
            assert await decided_by(app, token()) == ("ok", "old")
            assert await decided_by(app, "opaque") == ("ok", "old")
            reloader = app.reloader(config.folder / "config.yaml", old)
            issuers.new()
            before = await steady_state_of(app)
            with monkeypatch.context() as failing:
                failing.setattr(*STEPS[step], failing_second() if "second" in step else fail)
                await reloader._reload(requested=True)
            after = state_of(app)
            if step == "configuring the logs":
                before["rules"] = after["rules"]  # the last step that can fail: the new rules have series, all at 0
            assert after == before
            assert config.log_levels == []
            assert logged("configuration rejected; the previous one stays active") == [
                {"problems": ["unexpected StepFailed"]}
            ]
            assert logged("configuration applied") == []
            assert sample(app.metrics, "authz_config_reloads_total", result="failure") == 1
            assert sample(app.metrics, "authz_config_last_reload_successful") == 0
            assert await decided_by(app, token()) == ("ok", "old")
            assert await decided_by(app, "opaque") == ("ok", "old")
            assert await decided_by(app, token(kid="b")) == ("unknown_key", "old")
            assert await decided_by(app, token("added")) == ("unknown_issuer", "old")
            assert provider.count("/introspect") == 1

            await reloader._reload(requested=True)
            assert len(logged("configuration applied")) == 1
            assert sample(app.metrics, "authz_config_last_reload_successful") == 1
            assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 2
            assert config.log_levels == ["debug"]
            for bearer in (token(), token(kid="b"), token("added"), "opaque"):
                assert await decided_by(app, bearer) == ("ok", "new")
            assert provider.count("/introspect") == 1


async def test_a_reload_that_is_canceled_while_it_waits_for_keys_leaves_nothing_running(
    config: ConfigFolder, logged: Logged
) -> None:
    async with Provider() as provider:
        issuers = ThreeIssuers(config, provider)
        async with config.serving(issuers.old()) as app:
            before = await steady_state_of(app)
            new = issuers.new()
            waits = asyncio.Event()

            async def never(_request: object) -> Any:
                waits.set()
                await asyncio.Event().wait()

            provider.handlers["/new"] = never
            applying = asyncio.create_task(app.apply_config(new))
            await waits.wait()
            assert our_tasks() != before["tasks"]
            applying.cancel()
            await asyncio.gather(applying, return_exceptions=True)
            assert state_of(app) == before
            assert await decided_by(app, token()) == ("ok", "old")
            assert logged("configuration applied") == []
