"""The guides to Istio and Envoy Gateway: what their blocks of YAML have in common, and with the chart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.cli import main
from generate import CHART, render
from support import manifests, offline
from support.chart import in_order, merged
from support.documents import page, yaml_blocks
from support.envoy import relocated, running_envoy
from support.signing import Signer
from support.tutorial_bootstrap import tutorial_bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUIDES = {
    "istio": ("start/istio", "how-to/istio"),
    "envoy-gateway": ("start/envoy-gateway", "how-to/envoy-gateway"),
}


def blocks(guide: str) -> list[str]:
    """Those of the tutorial and of the page that continues it."""
    return [block for name in GUIDES[guide] for block in yaml_blocks(name)]


def objects(guide: str) -> Iterator[dict[str, Any]]:
    for block in blocks(guide):
        yield from (each for each in manifests.documents(block) if "kind" in each)


def values(guide: str) -> dict[str, Any]:
    (found,) = [each for block in blocks(guide) for each in manifests.documents(block) if "shape" in each]
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_the_values_render_the_service_that_the_manifests_use(guide: str) -> None:
    found = in_order(render(CHART, values(guide), name="authz-service"))
    (service,) = [each for each in found if each["kind"] == "Service"]
    assert service["metadata"]["name"] == "authz-service"
    assert service["spec"]["ports"][0]["port"] == 9191


@pytest.mark.parametrize("guide", GUIDES)
def test_the_shown_responses_are_those_of_the_values(
    guide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = values(guide)["config"]
    del config["server"]
    offline.written(config, tmp_path, Signer("ES256", "a"))
    tutorial = page(GUIDES[guide][0])
    (url,) = re.findall(r"^\$ curl -i (\S+)$", tutorial, re.MULTILINE)
    assert main(["explain", "--config", str(tmp_path / "config.yaml"), "--url", url]) == 1
    explained = capsys.readouterr().out
    (challenge,) = re.findall(r"^www-authenticate: .*$", tutorial, re.MULTILINE)
    assert challenge in explained
    (method, decision, status, reason) = re.findall(
        r"^(GET) \S+: (denied) with (\d+), reason (\w+)$", tutorial, re.MULTILINE
    )[0]
    test = values(guide)["test"]
    assert f"{method} {test['host']}{test['path']}: {decision} with {status}, reason {test['reason']}" in tutorial
    assert f"deny with {status}, {reason}" in explained


@pytest.mark.parametrize(
    "mistake", [{"spec": {"extAuth": {"failopen": False}}}, {"spec": {"extAuth": {"timeout": "1"}}}]
)
def test_the_schemas_of_envoy_gateway_find_mistakes(mistake: dict[str, Any]) -> None:
    (policy,) = [each for each in objects("envoy-gateway") if each["kind"] == "SecurityPolicy"]
    assert manifests.problems(merged(policy, mistake))


@pytest.mark.parametrize(
    "mistake", [{"spec": {"acton": "CUSTOM"}}, {"spec": {"action": "ASK"}}, {"spec": {"rules": [{"too": []}]}}]
)
def test_the_schemas_of_istio_find_mistakes(mistake: dict[str, Any]) -> None:
    policy = next(each for each in objects("istio") if each["kind"] == "AuthorizationPolicy")
    assert manifests.problems(merged(policy, mistake))


def meshes() -> list[dict[str, Any]]:
    read = [each for block in blocks("istio") for each in manifests.documents(block)]
    return [each["meshConfig"] for each in read if "meshConfig" in each]


def test_every_istio_policy_uses_a_configured_provider() -> None:
    providers = {each["name"] for mesh in meshes() for each in mesh["extensionProviders"]}
    policies = [each for each in objects("istio") if each["kind"] == "AuthorizationPolicy"]
    policies = [each["spec"] for each in policies if each["spec"]["action"] == "CUSTOM"]
    assert {each["provider"]["name"] for each in policies} <= providers
    assert all(each["rules"] for each in policies)  # a policy without rules matches no request


def test_the_istio_guide_limits_the_clients() -> None:
    (allowing,) = [
        each for each in objects("istio") if each["kind"] == "AuthorizationPolicy" and each["spec"]["action"] == "ALLOW"
    ]
    (service,) = [
        each for each in in_order(render(CHART, values("istio"), name="authz-service")) if each["kind"] == "Deployment"
    ]
    assert allowing["metadata"]["namespace"] == service["metadata"]["namespace"]
    labels = service["spec"]["template"]["metadata"]["labels"]
    assert allowing["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policies = {
        each["metadata"]["namespace"]
        for each in objects("istio")
        if each["kind"] == "AuthorizationPolicy" and each["spec"]["action"] == "CUSTOM"
    }
    named = {
        name for rule in allowing["spec"]["rules"] for each in rule["from"] for name in each["source"]["namespaces"]
    }
    assert named == policies | {"authz"}  # helm test's pod


def extended(base: Any, change: Any) -> Any:
    """As Istio's MERGE: messages member by member, everything else replaced."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: extended(base.get(key), value) for key, value in change.items()}
    return change


async def test_envoy_accepts_the_patches_of_istio(tmp_path: Path) -> None:
    """In the bootstrap of the tutorial for plain Envoy, whose filters have the names that Istio's have."""
    bootstrap = tutorial_bootstrap()
    network = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    manager = network[0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    places = {
        "NETWORK_FILTER": (network, 0),
        "HTTP_FILTER": (manager["http_filters"], 0),
        "HTTP_ROUTE": (host["routes"], 0),
    }
    patches = [
        patch for each in objects("istio") if each["kind"] == "EnvoyFilter" for patch in each["spec"]["configPatches"]
    ]
    assert {patch["applyTo"] for patch in patches} == set(places)
    manager["http_filters"].pop(0)  # what the last patch inserts
    inserted = [patch["patch"]["value"] for patch in patches if patch["patch"]["operation"] == "INSERT_FIRST"]
    for patch in (each for each in patches if each["patch"]["operation"] == "MERGE"):
        where, at = places[patch["applyTo"]]
        value = patch["patch"]["value"]
        assert value.get("name", where[at].get("name")) == where[at].get("name")
        where[at] = extended(where[at], value)
    network[0]["typed_config"]["http_filters"][:0] = inserted
    for patched in ("REJECT_REQUEST", "validate_mutations", "authz_policy", "request_trailers_mutations"):
        assert patched in str(bootstrap)
    async with running_envoy(relocated(bootstrap, {}), tmp_path) as envoy:
        assert envoy.ports["http"]
