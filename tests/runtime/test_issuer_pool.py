"""Key caches and introspectors outlive a reload where nothing about their issuer changed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_service.keys.cache import NoKey
from authz_service.runtime import issuer_pool
from authz_service.runtime import reload as reload_module
from authz_service.runtime.assembly import proxy_of
from support.configured_app import ConfigFolder, decide, introspected_issuer, issuer, reload, sample, token
from support.http_provider import Provider
from support.key_source import jwk, jwks, private_key
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from runtime.conftest import Logged


async def test_an_unchanged_issuer_keeps_its_keys_and_its_cached_tokens(config: ConfigFolder) -> None:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        unchanged = issuer(keys={"jwks_uri": f"{provider.origin}/keys"})
        async with config.serving(config.load(unchanged, issuer("other"))) as app:
            keys = app.active.issuers[0].keys
            for name in ("main", "other"):
                assert (await decide(app, token(name))).reason == "ok"
            await reload(
                app, config.load(issuer("third"), issuer("other", leeway="1s"), unchanged, rules=[{"name": "n"}])
            )
            assert app.active.issuers[2].keys is keys
            assert len(app.active.token_cache) == 1  # that of main
            assert sample(app.metrics, "authz_token_cache_entries") == 1
            assert (await decide(app, token())).reason == "ok"
            assert provider.count("/keys") == 1


async def test_a_changed_issuer_is_validated_by_its_new_settings_and_keeps_its_keys(
    config: ConfigFolder, logged: Logged
) -> None:
    async with config.serving(config.load(issuer())) as app:
        keys = app.active.issuers[0].keys
        bearer = token(nonce="n")
        assert (await decide(app, bearer)).reason == "id_token"
        await reload(app, config.load(issuer(id_token_markers=[])))
        assert (await decide(app, bearer)).reason == "ok"
        assert app.active.issuers[0].keys is keys
        await reload(app, config.load(issuer()))
        assert (await decide(app, bearer)).reason == "id_token"  # the cached claims are discarded
        assert [line["issuers_changed"] for line in logged("configuration applied")] == [["main"], ["main"]]


async def test_keys_for_jwt_svids_are_used_after_a_reload_that_accepts_them(config: ConfigFolder) -> None:
    async with Provider() as provider:
        provider.serve("/keys", json.dumps({"keys": [jwk("a"), jwk("svid") | {"use": "jwt-svid"}]}).encode())
        keys = {"jwks_uri": f"{provider.origin}/keys"}
        async with config.serving(config.load(issuer(keys=keys))) as app:
            assert app.active.issuers[0].keys.find("svid", time.time(), may_fetch=False) is NoKey.ABSENT
            await reload(app, config.load(issuer(keys=keys, token_types=["JWT", "jwt-svid"])))
            assert app.active.issuers[0].keys.find("svid", time.time(), may_fetch=False) is not NoKey.ABSENT
            assert (await decide(app, token(kid="svid"))).reason == "ok"


async def test_keys_in_pem_take_effect_when_the_file_changes(config: ConfigFolder) -> None:
    form = PublicFormat.SubjectPublicKeyInfo
    file = config.folder / "idp.pem"
    file.write_bytes(private_key("another").public_key().public_bytes(Encoding.PEM, form))
    async with config.serving(config.load(issuer(keys={"pem_file": "idp.pem"}))) as app:
        assert (await decide(app, token())).reason == "bad_signature"
        file.write_bytes(private_key("a").public_key().public_bytes(Encoding.PEM, form))
        keys = app.active.issuers[0].keys
        await keys.refresh()
        assert (await decide(app, token())).reason == "ok"


async def test_the_proxy_of_an_issuer_is_logged_once_without_credentials(
    config: ConfigFolder, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.folder / "secret").write_text("secret")
    monkeypatch.setenv("https_proxy", "http://user:s3cret@127.0.0.1:9")
    endpoint = {"endpoint": "https://idp.example/introspect", "client_id": "api", "client_secret_file": "secret"}
    behind = issuer("behind", introspection=endpoint)
    async with config.serving(config.load(issuer(), behind)) as app:
        await reload(app, config.load(issuer(leeway="1s"), behind))
        lines = logged("requests to the provider go through a proxy")
        assert [(line["issuer"], line["proxy"]) for line in lines] == [("behind", "http://127.0.0.1:9")]


@pytest.mark.parametrize("via", ["introspection", "security_events"])
def test_a_proxy_for_one_endpoint_of_an_issuer_is_that_of_the_issuer(
    config: ConfigFolder, monkeypatch: pytest.MonkeyPatch, via: str
) -> None:
    (config.folder / "secret").write_text("secret")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    client = {"client_id": "api", "client_secret_file": "secret"}
    endpoints: dict[str, dict[str, Any]] = {
        "introspection": {"endpoint": "https://idp.example/introspect"} | client,
        "security_events": {"poll_endpoint": "https://idp.example/poll", "audience": "me"} | client,
    }
    assert proxy_of(config.load(issuer()).settings.issuers[0]) is None
    behind = issuer("main", **{via: endpoints[via]})
    assert proxy_of(config.load(behind).settings.issuers[0]) == "http://127.0.0.1:9"


async def test_the_gauges_of_a_removed_issuer_disappear_and_its_counters_stay(config: ConfigFolder) -> None:
    async with config.serving(config.load(issuer(), issuer("gone"), server={"check_deadline": "10ms"})) as app:
        await wait_until(lambda: sample(app.metrics, "authz_jwks_stale", issuer="gone") == 0)  # it has fetched its keys
        keys = app.active.issuers[1].keys
        await reload(app, config.load(issuer(), server={"check_deadline": "10ms"}))
        assert (await decide(app, token("gone"))).reason == "unknown_issuer"
        await wait_until(lambda: sample(app.metrics, "authz_jwks_stale", issuer="gone") is None)
        for gauge in ("keys", "age_seconds", "usable_until_timestamp_seconds", "last_success_timestamp_seconds"):
            assert sample(app.metrics, f"authz_jwks_{gauge}", issuer="gone") is None
            assert sample(app.metrics, f"authz_jwks_{gauge}", issuer="main") is not None
        assert sample(app.metrics, "authz_jwks_fetches_total", issuer="gone", result="success") == 1
        await wait_until(lambda: f"keys of {keys.issuer}" not in {task.get_name() for task in asyncio.all_tasks()})


async def test_an_issuer_that_is_removed_and_added_again_works(config: ConfigFolder) -> None:
    both = [issuer(), issuer("other")]
    async with config.serving(config.load(*both, server={"check_deadline": "50ms"})) as app:
        await reload(app, config.load(issuer(), server={"check_deadline": "50ms"}))
        await reload(app, config.load(*both, server={"check_deadline": "50ms"}))
        await asyncio.sleep(0.15)
        assert (await decide(app, token("other"))).reason == "ok"
        assert sample(app.metrics, "authz_jwks_stale", issuer="other") == 0
        assert len(app._pool._tasks) == 2


async def test_issuers_that_are_removed_in_quick_succession_all_end(config: ConfigFolder, logged: Logged) -> None:
    server = {"check_deadline": "50ms"}
    async with config.serving(config.load(issuer(), issuer("first"), issuer("second"), server=server)) as app:
        keys = app.active.issuers[0].keys
        await reload(app, config.load(issuer(), issuer("second"), server=server))
        await reload(app, config.load(issuer(), server=server))  # before the first one's last call can be over
        names = {"keys of first", "keys of second"}
        await wait_until(lambda: names.isdisjoint(task.get_name() for task in asyncio.all_tasks()))
        assert [sample(app.metrics, "authz_jwks_stale", issuer=gone) for gone in ("first", "second")] == [None, None]
        assert [part.worker for part in app._pool._tasks] == [keys]
        assert logged("background task failed") == []


async def test_changed_trust_anchors_are_used_after_the_reload(config: ConfigFolder) -> None:
    anchors = config.folder / "ca.pem"
    trustme.CA().cert_pem.write_to_path(anchors)
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        uses = issuer(keys={"jwks_uri": f"{provider.origin}/keys", "ca_file": "ca.pem"})
        async with config.serving(config.load(uses)) as app:
            keys = app.active.issuers[0].keys
            await reload(app, config.load(uses))
            assert app.active.issuers[0].keys is keys
            trustme.CA().cert_pem.write_to_path(anchors)
            await reload(app, config.load(uses))
            assert app.active.issuers[0].keys is not keys
            assert provider.count("/keys") == 2


async def test_introspection_responses_stay_cached_while_the_issuer_is_unchanged(config: ConfigFolder) -> None:
    async with Provider() as provider:
        config.serve_introspection(provider)
        same = introspected_issuer(provider)
        async with config.serving(config.load(same)) as app:
            assert (await decide(app, "opaque")).reason == "ok"
            introspector = app.active.issuers[0].introspector
            await reload(app, config.load(same, rules=[{"name": "new"}]))
            assert app.active.issuers[0].introspector is introspector
            answer = await decide(app, "opaque")
            assert (answer.reason, answer.metadata["rule"]) == ("ok", "new")
            assert provider.count("/introspect") == 1
            await reload(app, config.load(introspected_issuer(provider, cache_ttl="1s")))
            assert (await decide(app, "opaque")).reason == "ok"
            assert provider.count("/introspect") == 2


async def test_introspection_responses_survive_a_change_of_the_cache_bounds(config: ConfigFolder) -> None:
    async with Provider() as provider:
        config.serve_introspection(provider)
        async with config.serving(config.load(introspected_issuer(provider))) as app:
            assert (await decide(app, "opaque")).reason == "ok"
            await reload(app, config.load(introspected_issuer(provider), token_cache={"max_entries": 5}))
            assert (await decide(app, "opaque")).reason == "ok"
            assert provider.count("/introspect") == 1


async def test_an_issuer_without_introspection_anymore_leaves_no_gauges_and_no_task(config: ConfigFolder) -> None:
    async with Provider() as provider:
        config.serve_introspection(provider)
        quick = {"check_deadline": "10ms"}
        async with config.serving(config.load(introspected_issuer(provider), server=quick)) as app:
            keys = app.active.issuers[0].keys
            assert sample(app.metrics, "authz_introspection_breaker_open", issuer="main") == 0
            await reload(app, config.load(issuer(), server=quick))
            assert (await decide(app, "opaque")).reason == "malformed_token"
            await wait_until(lambda: sample(app.metrics, "authz_introspection_breaker_open", issuer="main") is None)
            for gauge in ("introspections_in_flight", "introspection_breaker_state", "introspection_cache_entries"):
                assert sample(app.metrics, f"authz_{gauge}", issuer="main") is None
            assert sample(app.metrics, "authz_jwks_keys", issuer="main") == 1
            assert [part.worker for part in app._pool._tasks] == [keys]


async def test_gauges_report_the_active_key_cache_while_another_one_is_prepared(config: ConfigFolder) -> None:
    async with Provider() as provider:
        provider.serve("/old", jwks("a"))
        provider.serve("/new", jwks("a", "b"))
        async with config.serving(config.load(issuer(keys={"jwks_uri": f"{provider.origin}/old"}))) as app:
            new = config.load(issuer(keys={"jwks_uri": f"{provider.origin}/new"}), issuer("added"))
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
