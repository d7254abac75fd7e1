"""A changed configuration is taken over as a whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from transport.wire import Answer, check_request, read, signed

from authz_service.config import files
from authz_service.config.load import load_with_warnings
from authz_service.config.model import Settings
from authz_service.core.errors import ConfigError
from authz_service.runtime import assembly, issuer_pool, preflight
from authz_service.runtime import reload as reload_module
from authz_service.runtime.application import App
from authz_service.runtime.background_tasks import BackgroundTasks
from authz_service.runtime.preflight import Loaded
from authz_service.runtime.preflight import read as read_configuration
from authz_service.runtime.reload import Changes, Reloader
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.introspection.introspector import Introspector
from authz_service.tokens.jwt.cache import JwtCache
from support.http_provider import Provider
from support.key_source import jwks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.config.model import Logging

HANG_GUARD = 30.0  # seconds: no test waits for it
ISSUER = "https://issuer.example"
WITHOUT_KEYS = (
    "applying a configuration without the keys of some issuers; their tokens are denied until the keys arrive"
)
Told = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "_LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(reload_module, "_SETTLE_TIME", 0.01)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Told:
    """The fields of each line with this event."""
    monkeypatch.setattr(logging.getLogger("authz"), "propagate", True)
    caplog.set_level(logging.INFO, "authz")
    return lambda event: [vars(record).get("fields", {}) for record in caplog.records if record.getMessage() == event]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not is_so():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.005)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    text = metrics.exposition("")[0].decode()
    samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
    return next((each.value for each in samples if each.name == name and labels.items() <= each.labels.items()), None)


# The watching.


class Watched:
    """A reloader over a file whose text is the configuration: one that begins with "bad" is refused."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.metrics = Metrics(transport="grpcio")
        self.applied: list[str] = []
        self.tried: list[str] = []
        self.fault: Exception | None = None
        parts = {"issuers": [{"issuer": ISSUER, "audiences": ["a"]}], "rules": [{"name": "r"}]}
        self.loaded = Loaded(Settings.model_validate(parts), (), files.digests_of([file]))
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
        if self.fault is not None:
            raise self.fault
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


async def test_a_change_is_taken_once_and_no_change_is_none(watched: Watched) -> None:
    async with watched.running():
        await asyncio.sleep(0.1)
        assert watched.tried == []
        watched.file.write_text("second")
        await until(lambda: watched.applied == ["second"])
        await asyncio.sleep(0.1)
        assert watched.tried == ["second"]
        assert watched.counted("success") == 1
        assert sample(watched.metrics, "authz_config_last_reload_success_timestamp_seconds") == 7.0


async def test_a_bad_change_is_told_and_counted_once_and_the_next_good_one_is_taken(
    watched: Watched, told: Told
) -> None:
    async with watched.running():
        watched.file.write_text("bad")
        await until(lambda: watched.counted("failure") == 1)
        await asyncio.sleep(0.1)
        assert told("configuration rejected; the previous one stays active") == [{"problems": ["bad"]}]
        assert sample(watched.metrics, "authz_config_last_reload_successful") == 0
        assert watched.applied == []
        watched.file.write_text("first")
        await until(lambda: watched.applied == ["first"])
        assert sample(watched.metrics, "authz_config_last_reload_successful") == 1
        assert watched.counted("failure") == 1


async def test_what_was_refused_is_tried_again_since_a_file_that_it_names_may_have_come(
    watched: Watched, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_module, "_RETRY_INTERVAL", 0.05)
    async with watched.running():
        watched.file.write_text("bad")
        await until(lambda: len(watched.tried) >= 3)
        assert len(told("configuration rejected; the previous one stays active")) == 1
        assert watched.counted("failure") == 1


async def test_who_asks_gets_an_answer_whether_anything_changed_or_not(watched: Watched, told: Told) -> None:
    async with watched.running():
        watched.reloader.request()
        await until(lambda: watched.applied == ["first"])
        watched.file.write_text("bad")
        await until(lambda: watched.counted("failure") == 1)
        watched.reloader.request()
        await until(lambda: watched.counted("failure") == 2)
        assert len(told("configuration rejected; the previous one stays active")) == 2


async def test_a_file_that_is_being_written_is_not_read_half(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "_SETTLE_TIME", 1.0)  # so that no busy machine pauses as long
    async with watched.running():
        for length in range(1, 30):
            watched.file.write_text("bad half"[:length])
            await asyncio.sleep(0.01)
        watched.file.write_text("whole")
        await until(lambda: watched.applied == ["whole"])
        assert watched.tried == ["whole"]


async def test_a_change_between_the_first_reading_and_the_first_look_is_taken(watched: Watched) -> None:
    watched.file.write_text("second")
    async with watched.running():
        await until(lambda: watched.applied == ["second"])


def test_a_change_while_the_file_is_read_is_seen_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)

    def overtaken(*arguments: Any) -> Any:
        before = load_with_warnings(*arguments)
        file.write_text("something else")
        return before

    file = tmp_path / "config.yaml"
    place.loaded()
    monkeypatch.setattr(preflight, "load_with_warnings", overtaken)
    assert read_configuration(file).digests != files.digests_of([file])


async def test_a_fault_while_taking_over_is_a_failure_and_ends_nothing(watched: Watched, told: Told) -> None:
    async with watched.running():
        watched.fault = ZeroDivisionError()
        watched.file.write_text("second")
        await until(lambda: watched.counted("failure") == 1)
        assert len(told("reload failed unexpectedly")) == 1
        watched.fault = None
        watched.file.write_text("third")
        await until(lambda: watched.applied == ["third"])


async def test_a_file_that_the_configuration_names_is_watched_from_when_it_is_named(watched: Watched) -> None:
    anchors = watched.file.parent / "ca.pem"
    anchors.write_text("one")
    keys = {"keys": {"ca_file": str(anchors)}}
    parts = {"issuers": [{"issuer": ISSUER, "audiences": ["a"]} | keys], "rules": [{"name": "r"}]}
    async with watched.running():
        watched.loaded = Loaded(Settings.model_validate(parts), (), {})
        watched.file.write_text("second")
        await until(lambda: watched.applied == ["second"])
        await asyncio.sleep(0.1)
        assert watched.tried == ["second"]
        anchors.write_text("two")
        await until(lambda: watched.applied == ["second", "second"])


# The taking over.


class Recorder(list[str]):
    """The log levels that were configured."""

    def append(self, level: str) -> None:
        super().append(level)


class Place:
    """A folder with a configuration, and an app that serves by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logging = Recorder()
        (folder / "jwks.json").write_bytes(jwks("a"))

    def loaded(self, *issuers: dict[str, Any], **parts: Any) -> Loaded:
        server = {"grpc_address": f"unix:{self.folder / 's'}", "admin_address": "127.0.0.1:0"}
        configuration = {
            "server": server | parts.pop("server", {}),
            "issuers": issuers or [issuer()],
            "rules": parts.pop("rules", [{"name": "everything"}]),
        }
        (self.folder / "config.yaml").write_text(json.dumps(configuration | parts))
        return read_configuration(self.folder / "config.yaml")

    def configure_logs(self, settings: Logging) -> None:
        self.logging.append(settings.level)

    @contextlib.asynccontextmanager
    async def serving(self, loaded: Loaded) -> AsyncIterator[App]:
        app = App(loaded.settings, self.configure_logs)
        try:
            await app.start()
            await until(lambda: app.missing() == [])
            yield app
        finally:
            await app.close()


def issuer(name: str = "main", **settings: Any) -> dict[str, Any]:
    own = {"issuer": f"https://{name}.example", "name": name, "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    return own | settings


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def token(name: str = "main", kid: str = "a", **claims: Any) -> str:
    return signed(kid, now=time.time(), iss=f"https://{name}.example", aud="api", **claims)


async def asked(app: App, bearer: str) -> Answer:
    return read(await app.servicer.check(check_request(token=bearer), None))


async def reloaded(app: App, loaded: Loaded) -> None:
    """Reload as the watching does; a failure would be logged and counted."""
    reloader = app.reloader(Path("unread"), loaded)
    reloader._load = lambda _: loaded
    await reloader._reload(requested=True)


async def test_a_request_is_decided_by_the_new_rules_once_they_are_taken_over(place: Place, told: Told) -> None:
    async with place.serving(place.loaded()) as app:
        assert (await asked(app, token())).reason == "ok"
        await reloaded(app, place.loaded(rules=[{"name": "strict", "require": {"scopes": ["admin"]}}]))
        answer = await asked(app, token())
        assert (answer.reason, answer.metadata["rule"]) == ("insufficient_scope", "strict")
        assert told("configuration applied") == [
            {"rules": 1, "issuers_added": [], "issuers_removed": [], "issuers_changed": []}
        ]


async def test_what_the_upstream_hears_of_a_token_that_is_kept_is_what_the_new_configuration_says(place: Place) -> None:
    bearer = token(sub="alice")
    async with place.serving(place.loaded()) as app:
        for _ in range(2):
            assert (await asked(app, bearer)).headers["x-auth-subject"] == "alice"
        await reloaded(app, place.loaded(upstream={"headers": {"x-user": "sub"}}))
        assert len(app.active.token_cache) == 1
        ((_, entry),) = app.active.token_cache._entries.items()
        assert len(entry.token.responses) == 0
        for _ in range(2):
            assert (await asked(app, bearer)).headers == {"x-user": "alice"}


async def test_an_issuer_that_did_not_change_keeps_its_keys_and_its_tokens(place: Place) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        kept = issuer(keys={"jwks_uri": f"{provider.origin}/keys"})
        async with place.serving(place.loaded(kept, issuer("other"))) as app:
            keys = app.active.issuers[0].keys
            for name in ("main", "other"):
                assert (await asked(app, token(name))).reason == "ok"
            await reloaded(
                app, place.loaded(issuer("third"), issuer("other", leeway="1s"), kept, rules=[{"name": "n"}])
            )
            assert app.active.issuers[2].keys is keys
            assert len(app.active.token_cache) == 1  # that of main
            assert sample(app.metrics, "authz_token_cache_entries") == 1
            assert (await asked(app, token())).reason == "ok"
            assert provider.count("/keys") == 1


async def test_an_issuer_whose_settings_changed_is_judged_by_the_new_ones_and_keeps_its_keys(
    place: Place, told: Told
) -> None:
    async with place.serving(place.loaded(issuer())) as app:
        keys = app.active.issuers[0].keys
        bearer = token(nonce="n")
        assert (await asked(app, bearer)).reason == "id_token"
        await reloaded(app, place.loaded(issuer(id_token_markers=[])))
        assert (await asked(app, bearer)).reason == "ok"
        assert app.active.issuers[0].keys is keys
        await reloaded(app, place.loaded(issuer()))
        assert (await asked(app, bearer)).reason == "id_token"  # what was remembered of it is forgotten
        assert [line["issuers_changed"] for line in told("configuration applied")] == [["main"], ["main"]]


async def test_new_keys_are_there_before_the_configuration_that_wants_them(place: Place) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("b"))
        async with place.serving(place.loaded()) as app:
            await reloaded(app, place.loaded(issuer(), issuer("new", keys={"jwks_uri": f"{provider.origin}/keys"})))
            assert provider.count("/keys") == 1
            assert (await asked(app, token("new", "b"))).reason == "ok"
            assert provider.count("/keys") == 1


async def test_an_issuer_whose_provider_is_down_does_not_hold_the_others_nor_end_readiness(
    place: Place, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_pool, "_FIRST_RETRY", 0.1)
    down = {"jwks_uri": "http://127.0.0.1:1/keys", "timeout": "100ms"}
    async with place.serving(place.loaded()) as app:
        await reloaded(app, place.loaded(issuer(), issuer("down", keys=down), rules=[{"name": "new"}]))
        assert app.missing() == []
        assert [line["issuers"] for line in told(WITHOUT_KEYS)] == [["down"]]
        answer = await asked(app, token())
        assert (answer.reason, answer.metadata["rule"]) == ("ok", "new")
        assert (await asked(app, token("down"))).reason == "keys_unavailable"


async def test_a_sidecar_that_is_not_ready_becomes_it_by_a_configuration_that_can_be(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_pool, "_FIRST_RETRY", 0.1)
    down = issuer(keys={"jwks_uri": "http://127.0.0.1:1/keys", "timeout": "100ms"})
    app = App(place.loaded(down).settings)
    try:
        await app.start()
        assert app.missing() == ["keys of issuer main"]
        await reloaded(app, place.loaded(issuer()))
        await until(lambda: app.missing() == [])
        assert (await asked(app, token())).reason == "ok"
    finally:
        await app.close()


async def test_a_request_that_waits_for_keys_is_decided_by_the_configuration_under_which_it_came(place: Place) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        slow = issuer(keys={"jwks_uri": f"{provider.origin}/keys", "timeout": "10s"})
        held = place.loaded(slow, rules=[{"name": "old"}], server={"check_deadline": "20s"})
        async with place.serving(held) as app:
            asking = asyncio.create_task(asked(app, token(kid="late")))
            await until(lambda: provider.count("/keys") == 2 or asking.done())
            await reloaded(app, place.loaded(issuer(), rules=[{"name": "new", "require": {"scopes": ["admin"]}}]))
            answer = await asking
            assert (answer.reason, answer.metadata["rule"]) == ("unknown_key", "old")
            assert (await asked(app, token())).metadata["rule"] == "new"


async def test_what_a_removed_issuer_told_in_gauges_goes_and_its_counters_stay(place: Place) -> None:
    async with place.serving(place.loaded(issuer(), issuer("gone"), server={"check_deadline": "10ms"})) as app:
        assert sample(app.metrics, "authz_jwks_stale", issuer="gone") == 0
        keys = app.active.issuers[1].keys
        await reloaded(app, place.loaded(issuer(), server={"check_deadline": "10ms"}))
        assert (await asked(app, token("gone"))).reason == "unknown_issuer"
        await until(lambda: sample(app.metrics, "authz_jwks_stale", issuer="gone") is None)
        for gauge in ("keys", "age_seconds", "usable_until_timestamp_seconds", "last_success_timestamp_seconds"):
            assert sample(app.metrics, f"authz_jwks_{gauge}", issuer="gone") is None
            assert sample(app.metrics, f"authz_jwks_{gauge}", issuer="main") is not None
        assert sample(app.metrics, "authz_jwks_fetches_total", issuer="gone", result="success") == 1
        await until(lambda: f"keys of {keys.issuer}" not in {task.get_name() for task in asyncio.all_tasks()})


async def test_an_issuer_that_comes_back_is_kept_anew(place: Place) -> None:
    both = [issuer(), issuer("other")]
    async with place.serving(place.loaded(*both, server={"check_deadline": "50ms"})) as app:
        await reloaded(app, place.loaded(issuer(), server={"check_deadline": "50ms"}))
        await reloaded(app, place.loaded(*both, server={"check_deadline": "50ms"}))
        await asyncio.sleep(0.15)
        assert (await asked(app, token("other"))).reason == "ok"
        assert sample(app.metrics, "authz_jwks_stale", issuer="other") == 0
        assert len(app._pool._tasks) == 2


async def test_issuers_that_go_one_soon_after_the_other_all_go(place: Place, told: Told) -> None:
    server = {"check_deadline": "50ms"}
    async with place.serving(place.loaded(issuer(), issuer("first"), issuer("second"), server=server)) as app:
        keys = app.active.issuers[0].keys
        await reloaded(app, place.loaded(issuer(), issuer("second"), server=server))
        await reloaded(app, place.loaded(issuer(), server=server))  # before the first one's last call can be over
        names = {"keys of first", "keys of second"}
        await until(lambda: names.isdisjoint(task.get_name() for task in asyncio.all_tasks()))
        assert [sample(app.metrics, "authz_jwks_stale", issuer=gone) for gone in ("first", "second")] == [None, None]
        assert list(app._pool._tasks) == [keys]
        assert told("background task failed") == []


async def test_what_cannot_change_is_named_and_the_rest_changes(place: Place, told: Told) -> None:
    async with place.serving(place.loaded()) as app:
        other = {"grpc_address": "127.0.0.1:1", "admin_address": "127.0.0.1:2", "check_deadline": "3s"}
        await reloaded(
            app,
            place.loaded(
                server=other, rules=[{"name": "new"}], logging={"level": "debug"}, token_cache={"max_entries": 0}
            ),
        )
        assert told("changed keys take effect only after a restart") == [
            {"keys": ["server.grpc_address", "server.admin_address"]}
        ]
        assert (await asked(app, token())).metadata["rule"] == "new"
        assert app.active.check_deadline == 3.0
        assert place.logging == ["debug"]
        assert len(app.active.token_cache) == 0
        await reloaded(app, place.loaded())
        assert len(told("changed keys take effect only after a restart")) == 1


async def test_trust_anchors_that_changed_are_used_from_then_on(place: Place) -> None:
    anchors = place.folder / "ca.pem"
    trustme.CA().cert_pem.write_to_path(anchors)
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        uses = issuer(keys={"jwks_uri": f"{provider.origin}/keys", "ca_file": "ca.pem"})
        async with place.serving(place.loaded(uses)) as app:
            keys = app.active.issuers[0].keys
            await reloaded(app, place.loaded(uses))
            assert app.active.issuers[0].keys is keys
            trustme.CA().cert_pem.write_to_path(anchors)
            await reloaded(app, place.loaded(uses))
            assert app.active.issuers[0].keys is not keys
            assert provider.count("/keys") == 2


# Who is asked about tokens.


def asked_about(provider: Provider, **settings: Any) -> dict[str, Any]:
    endpoint = {"endpoint": f"{provider.origin}/introspect", "client_id": "api", "client_secret_file": "secret"}
    return issuer(introspection=endpoint | settings)


def answering(place: Place, provider: Provider) -> None:
    (place.folder / "secret").write_text("s")
    said = {"active": True, "sub": "u1", "aud": "api", "exp": int(time.time()) + 600}
    provider.serve("/introspect", json.dumps(said), content_type="application/json")


async def test_what_an_issuer_said_of_a_token_is_kept_as_long_as_the_issuer_is_the_same(place: Place) -> None:
    async with Provider() as provider:
        answering(place, provider)
        same = asked_about(provider)
        async with place.serving(place.loaded(same)) as app:
            assert (await asked(app, "opaque")).reason == "ok"
            asks = app.active.issuers[0].introspector
            await reloaded(app, place.loaded(same, rules=[{"name": "new"}]))
            assert app.active.issuers[0].introspector is asks
            answer = await asked(app, "opaque")
            assert (answer.reason, answer.metadata["rule"]) == ("ok", "new")
            assert provider.count("/introspect") == 1
            await reloaded(app, place.loaded(asked_about(provider, cache_ttl="1s")))
            assert (await asked(app, "opaque")).reason == "ok"
            assert provider.count("/introspect") == 2


async def test_what_an_issuer_said_survives_a_change_of_how_much_is_remembered(place: Place) -> None:
    async with Provider() as provider:
        answering(place, provider)
        async with place.serving(place.loaded(asked_about(provider))) as app:
            assert (await asked(app, "opaque")).reason == "ok"
            await reloaded(app, place.loaded(asked_about(provider), token_cache={"max_entries": 5}))
            assert (await asked(app, "opaque")).reason == "ok"
            assert provider.count("/introspect") == 1


async def test_an_issuer_that_is_not_asked_any_more_leaves_no_gauges_and_no_task(place: Place) -> None:
    async with Provider() as provider:
        answering(place, provider)
        quick = {"check_deadline": "10ms"}
        async with place.serving(place.loaded(asked_about(provider), server=quick)) as app:
            keys = app.active.issuers[0].keys
            assert sample(app.metrics, "authz_introspection_breaker_open", issuer="main") == 0
            await reloaded(app, place.loaded(issuer(), server=quick))
            assert (await asked(app, "opaque")).reason == "malformed_token"
            await until(lambda: sample(app.metrics, "authz_introspection_breaker_open", issuer="main") is None)
            for gauge in ("introspections_in_flight", "introspection_breaker_state", "introspection_cache_entries"):
                assert sample(app.metrics, f"authz_{gauge}", issuer="main") is None
            assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 1
            assert list(app._pool._tasks) == [keys]


# A reload that fails.


class StepFailed(Exception):  # noqa: N818 - as it reads in the log
    """What each step raises in turn."""


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
    "reading the file": (preflight, "load_with_warnings"),
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
    "configuring the logs": (Recorder, "append"),  # fails after the rules' metrics were declared
}


class Reloading:
    """An app with three kinds of issuer: one whose keys move, one that is the same, and one that is added."""

    def __init__(self, place: Place, provider: Provider) -> None:
        self.place = place
        self.provider = provider
        answering(place, provider)
        provider.serve("/old", jwks("a"))
        provider.serve("/new", jwks("a", "b"))
        self.same = asked_about(provider) | {"issuer": "https://same.example", "name": "same"}

    def old(self) -> Loaded:
        moves = issuer(keys={"jwks_uri": f"{self.provider.origin}/old"})
        return self.place.loaded(moves, self.same, rules=[{"name": "old"}])

    def new(self) -> Loaded:
        moves = issuer(keys={"jwks_uri": f"{self.provider.origin}/new"})
        parts = {"token_cache": {"max_entries": 7}, "logging": {"level": "debug", "decisions": "all"}}
        return self.place.loaded(moves, self.same, issuer("added"), rules=[{"name": "new"}], **parts)


def our_tasks() -> set[asyncio.Task[Any]]:
    """All but the provider's, which have no name of their own."""
    return {task for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")}


def state_of(app: App) -> dict[str, object]:
    """Everything that a failed reload must leave as it was."""
    families = [family for family in app.metrics.registry.collect() if family.name.startswith("authz_")]
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
        "remembered": len(app.active.token_cache),
    }


async def decided_by(app: App, bearer: str) -> tuple[str, Any]:
    answer = await asked(app, bearer)
    return answer.reason, answer.metadata["rule"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_reload_that_fails_at_any_step_changes_nothing_and_the_next_one_works(
    place: Place, told: Told, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with Provider() as provider:
        reloading = Reloading(place, provider)
        old = reloading.old()
        async with place.serving(old) as app:
            assert await decided_by(app, token()) == ("ok", "old")
            assert await decided_by(app, "opaque") == ("ok", "old")
            reloader = app.reloader(place.folder / "config.yaml", old)
            reloading.new()
            before = state_of(app)
            with monkeypatch.context() as failing:
                failing.setattr(*STEPS[step], failing_second() if "second" in step else fail)
                await reloader._reload(requested=True)
            after = state_of(app)
            if step == "configuring the logs":
                before["rules"] = after["rules"]  # the last step that can fail: the new rules have series, all at 0
            assert after == before
            assert place.logging == []
            assert told("configuration rejected; the previous one stays active") == [
                {"problems": ["unexpected StepFailed"]}
            ]
            assert told("configuration applied") == []
            assert sample(app.metrics, "authz_config_reloads_total", result="failure") == 1
            assert sample(app.metrics, "authz_config_last_reload_successful") == 0
            assert await decided_by(app, token()) == ("ok", "old")
            assert await decided_by(app, "opaque") == ("ok", "old")
            assert await decided_by(app, token(kid="b")) == ("unknown_key", "old")
            assert await decided_by(app, token("added")) == ("unknown_issuer", "old")
            assert provider.count("/introspect") == 1

            await reloader._reload(requested=True)
            assert len(told("configuration applied")) == 1
            assert sample(app.metrics, "authz_config_last_reload_successful") == 1
            assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 2
            assert place.logging == ["debug"]
            for bearer in (token(), token(kid="b"), token("added"), "opaque"):
                assert await decided_by(app, bearer) == ("ok", "new")
            assert provider.count("/introspect") == 1


async def test_a_reload_that_is_canceled_while_it_waits_for_keys_leaves_nothing_running(
    place: Place, told: Told
) -> None:
    async with Provider() as provider:
        reloading = Reloading(place, provider)
        async with place.serving(reloading.old()) as app:
            before = state_of(app)
            new = reloading.new()
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
            assert told("configuration applied") == []


async def test_gauges_report_the_active_key_cache_while_another_one_is_prepared(place: Place) -> None:
    async with Provider() as provider:
        reloading = Reloading(place, provider)
        async with place.serving(reloading.old()) as app:
            new = reloading.new()
            fetched, release = asyncio.Event(), asyncio.Event()
            real = issuer_pool.wait_for_keys

            async def waiting(issuers: Any) -> None:
                await real(issuers)
                fetched.set()
                await release.wait()

            with pytest.MonkeyPatch.context() as slow:
                slow.setattr(reload_module, "wait_for_keys", waiting)
                applying = asyncio.create_task(app.apply_config(new))
                await fetched.wait()
                assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 1
                assert sample(app.metrics, "authz_jwks_keys", issuer="added") is None
                release.set()
                await applying
            assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 2
            assert sample(app.metrics, "authz_jwks_keys", issuer="added") == 1
