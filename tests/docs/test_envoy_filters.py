"""The pages on CORS, rate limits and error pages: what they promise, in a real Envoy before the real sidecar."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import yaml

from support.console import commands, reader
from support.documents import Block, blocks, page, yaml_blocks
from support.sidecar_process import wait_until
from support.tutorial_bootstrap import host_of, manager_of, protected

if TYPE_CHECKING:
    from pathlib import Path

    from support.envoy import RunningEnvoy

RULES = {"rules": [{"name": "orders", "match": {"paths": ["/v1/orders"]}, "require": {"scopes": ["read:orders"]}}]}


def parts(name: str) -> list[Any]:
    """The parts of Envoy's configuration, and of ours, in a page."""
    return [yaml.safe_load(each) for each in yaml_blocks(name)]


def shown(name: str, envoy: RunningEnvoy) -> list[Block]:
    """What the page shows, with the port of this Envoy."""
    found = blocks(page(name), "console")
    return [each._replace(text=each.text.replace(":8000/", f":{envoy.ports['http']}/")) for each in found]


# CORS.


def with_cors(document: dict[str, Any]) -> None:
    filters, policy, _ = parts("how-to/cors")
    manager_of(document)["http_filters"][:0] = filters["http_filters"]
    host_of(document).update(policy)


async def test_a_script_gets_its_preflight_answered_and_can_read_the_challenge(tmp_path: Path) -> None:
    async with protected(RULES, tmp_path, with_cors) as (envoy, provider):
        with reader(tmp_path) as running:
            (block,) = shown("how-to/cors", envoy)
            await running.follow(block)
            preflight, _ = commands(block)
            response = await running.run(preflight.replace("https://app.example.com", "https://other.example"))
            assert "HTTP/1.1 401" in response
            assert "missing_token" in response
            assert "access-control-allow-origin" not in response
            call = f"curl -i http://127.0.0.1:{envoy.ports['http']}/v1/orders -H 'Origin: https://app.example.com'"
            token = provider.access_token(scope="read:orders")
            allowed = await running.run(f"{call} -H 'Authorization: Bearer {token}'")
            assert "HTTP/1.1 200" in allowed
            assert "access-control-allow-origin: https://app.example.com\n" in allowed


async def test_without_the_filter_a_preflight_reaches_the_api_and_a_denial_has_no_cors_headers(tmp_path: Path) -> None:
    *_, ours = parts("how-to/cors")
    async with protected(RULES | ours, tmp_path, lambda _: None) as (envoy, _):
        (block,) = shown("how-to/cors", envoy)
        preflight, call = commands(block)
        with reader(tmp_path) as running:
            assert '"path": "/v1/orders"' in (await running.run(preflight))  # the API returns what it received
            assert "HTTP/1.1 403" in await running.run(preflight.replace("/v1/orders", "/v1/other"))  # no rule
            denied = await running.run(call)
            assert "HTTP/1.1 401" in denied
            assert "access-control" not in denied


# Rate limits.


def with_limits(document: dict[str, Any], *, addresses: int) -> None:
    """``addresses``: the requests that one address may send; those of a test have one."""
    (subjects,), (others,) = parts("how-to/rate-limits")
    others["typed_config"]["descriptors"][0]["token_bucket"]["max_tokens"] = addresses
    trailers, ext_authz, router = manager_of(document)["http_filters"]
    manager_of(document)["http_filters"] = [trailers, others, ext_authz, subjects, router]


async def test_a_rate_limit_limits_one_subject_and_not_another(tmp_path: Path) -> None:
    change = partial(with_limits, addresses=20)
    async with protected(RULES, tmp_path, change) as (envoy, provider):
        ann, bob = (provider.access_token(sub=each, scope="read:orders") for each in ("ann", "bob"))
        (block,) = shown("how-to/rate-limits", envoy)
        with reader(tmp_path, ANN=ann, BOB=bob) as running:
            await running.follow(block)


async def test_a_client_without_a_token_is_limited_by_its_address(tmp_path: Path) -> None:
    async with protected(RULES, tmp_path, partial(with_limits, addresses=2)) as (envoy, _):
        with reader(tmp_path) as running:
            call = f"curl -o /dev/null -w '%{{http_code}} ' http://127.0.0.1:{envoy.ports['http']}/v1/orders"
            assert (await running.run("; ".join([call] * 4))).split() == ["401", "401", "429", "429"]


# Error pages.


def with_pages(document: dict[str, Any]) -> None:
    unavailable, denied = (each["local_reply_config"]["mappers"] for each in parts("how-to/error-pages"))
    manager_of(document)["local_reply_config"] = {"mappers": [*unavailable, *denied]}


async def test_the_error_pages_are_shown_and_keep_status_and_challenge(tmp_path: Path) -> None:
    async with protected(RULES, tmp_path, with_pages) as (envoy, _):
        denied, _ = shown("how-to/error-pages", envoy)
        with reader(tmp_path) as running:
            await running.follow(denied)
            call = denied.text.splitlines()[0].removeprefix("$ ")
            assert '"urn:authz-service:denial:missing_token"' in await running.run(call.replace("text/html", "*/*"))
            html = await running.run(call)
            assert "content-type: text/html; charset=utf-8\n" in html
            assert 'www-authenticate: Bearer realm="' in html
            decision = html.partition("support: ")[2].partition("<")[0]
            logged = f'"decision_id": "{decision}"'
            await wait_until(lambda: logged in (tmp_path / "sidecar.log").read_text())


async def test_without_a_decision_the_other_error_page_is_shown(tmp_path: Path) -> None:
    def without_a_sidecar(document: dict[str, Any]) -> None:
        with_pages(document)
        (cluster,) = (each for each in document["static_resources"]["clusters"] if each["name"] == "authz-service")
        address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        address["pipe"]["path"] = str(tmp_path / "nothing.sock")

    async with protected(RULES, tmp_path, without_a_sidecar) as (envoy, _):
        _, unavailable = shown("how-to/error-pages", envoy)
        with reader(tmp_path) as running:
            await running.follow(unavailable)


def test_the_page_shows_the_replies_of_the_complete_bootstrap() -> None:
    (complete,) = blocks(page("how-to/envoy-bootstrap"), title="envoy.yaml")
    manager = manager_of(yaml.safe_load(complete.text))
    assert parts("how-to/error-pages")[0]["local_reply_config"] == manager["local_reply_config"]
