"""The tutorial for Kubernetes: its values are those of a working gateway, and it shows what each step prints."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml

from authz_service.demo.identity_provider import IdentityProvider
from generate import CHART, render
from support import offline
from support.chart import container, in_order, merged, one, pods
from support.console import assert_shows, printed
from support.documents import blocks, page
from support.echo import echo
from support.envoy import RunningEnvoy, loopback, pipe, relocated, running_envoy
from support.manifests import problems
from support.request import request
from support.sidecar_process import SidecarProcess
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PAGE = page("start/kubernetes")
NAME = "shop-authz-service"


def values() -> dict[str, Any]:
    (block,) = blocks(PAGE, "yaml", "shop.yaml")
    found: dict[str, Any] = yaml.safe_load(block.text)
    return found


def command(part: str) -> str:
    (block,) = (each.text for each in blocks(PAGE, "sh") if part in each.text)
    return block


def output(part: str) -> str:
    """What the page shows below the command with this part."""
    shown = [each.text.replace("\\\n", "") for each in blocks(PAGE, "console")]
    (block,) = (each for each in shown if part in each.partition("\n")[0])
    return block.partition("\n")[2]


def test_the_values_render_valid_objects_with_the_names_in_the_commands() -> None:
    found = in_order(render(CHART, values(), name="shop"))
    assert [problem for each in found for problem in problems(each)] == []
    service = one(found, "Service", NAME)
    assert f"service/{NAME} 8000:{service['spec']['ports'][0]['port']}" in command("port-forward")
    assert one(found, "Deployment", NAME)
    assert one(found, "Job", f"{NAME}-check")
    assert f"logs job/{NAME}-check" in PAGE


def test_the_application_runs_as_the_page_says_and_can_be_changed_as_it_shows() -> None:
    (user, change) = re.findall(r"runs as user (\d+), with a read-only root .*?such as `({.*?})`", PAGE)[0]
    for changes, expected in (({}, (int(user), True)), (yaml.safe_load(change), (1000, False))):
        own: dict[str, Any] = {"gateway": {"application": {"securityContext": changes}}}
        (pod,) = pods([one(in_order(render(CHART, merged(values(), own), name="shop")), "Deployment", NAME)])
        context = pod["spec"]["securityContext"] | container(pod, "application")["securityContext"]
        assert (context["runAsUser"], context["readOnlyRootFilesystem"]) == expected


def test_helm_prints_the_notes_that_the_page_shows() -> None:
    notes = render(CHART, values(), name="shop", namespace="shop")["authz-service/templates/NOTES.txt"]
    assert_shows(output("helm install"), notes)


@pytest.mark.parametrize("mistake", [{"config": {"isuers": []}}, {"gatway": {}}])
def test_helm_rejects_a_misspelled_value_with_its_path(mistake: dict[str, Any]) -> None:
    (quoted,) = re.findall(r"`helm install` prints `(.*?)`", PAGE)
    with pytest.raises(Exception, match=re.escape(quoted).replace(r"\.\.\.", ".*")):
        render(CHART, merged(values(), mistake))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RunningEnvoy, str]]:
    """The pod's Envoy, and a token; only addresses and the issuer are not those of the page."""
    folder = tmp_path_factory.mktemp("gateway")
    async with IdentityProvider() as provider:
        config = values()["config"]
        config["issuers"][0] |= {"issuer": provider.issuer, "keys": {"allow_http": True}}
        config["server"] = {"grpc_address": f"unix:{folder}/authz.sock", "admin_address": "0.0.0.0:0"}
        found = in_order(render(CHART, values() | {"config": config}, name="shop"))
        (folder / "config.yaml").write_text(one(found, "ConfigMap", NAME)["data"]["config.yaml"])
        bootstrap = yaml.safe_load(one(found, "ConfigMap", f"{NAME}-envoy")["data"]["envoy.yaml"])
        async with echo("/updates") as port, SidecarProcess(folder / "config.yaml", folder / "sidecar.log"):
            places = {"application": loopback(port), "admin": pipe(folder / "admin.sock")}
            async with running_envoy(relocated(bootstrap, places), folder) as envoy:
                token = provider.access_token(aud=config["issuers"][0]["audiences"][0], scope="orders")
                yield envoy, token


@pytest.mark.asyncio(loop_scope="module")
async def test_helm_test_prints_what_the_page_shows(gateway: tuple[RunningEnvoy, str]) -> None:
    test = values()["test"]
    url = f"http://127.0.0.1:{gateway[0].ports['http']}"
    result = await request(url, "GET", "authz-service.test", test["path"], test["reason"])
    assert result == (0, output("helm test").splitlines()[-1] + "\n")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("part", ["curl -i http", "curl -i -H"])
async def test_curl_prints_what_the_page_shows(gateway: tuple[RunningEnvoy, str], part: str) -> None:
    envoy, token = gateway
    (line,) = re.findall(rf"^\$ ({part}.*)$", PAGE, re.MULTILINE)
    shell = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", line.replace("curl", "curl --silent").replace(":8000/", f":{envoy.ports['http']}/")),
        env=os.environ | {"TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await shell.communicate()
    assert_shows(output(part), printed.decode().replace("\r", ""))
    reason = "missing_token" if part == "curl -i http" else "ok"
    line = await envoy.access_log_line('"path":"/v1/orders"', f'"reason":"{reason}"')
    assert (line["mode"], line["scopes"]) == ("enforce", ["orders"] if reason == "ok" else [])


@pytest.mark.parametrize(("scope", "answer"), [("orders", "allow, ok"), ("other", "deny with 403, insufficient_scope")])
def test_the_command_for_a_pod_explains_a_request_with_the_token_of_standard_input(
    scope: str, answer: str, tmp_path: Path
) -> None:
    configuration = values()["config"]
    configuration["server"]["grpc_address"] = f"unix:{tmp_path / 's'}"
    signer = Signer("RS256", "a")
    (issuer,) = offline.written(configuration, tmp_path, signer)["issuers"]
    claims = {"iss": issuer["issuer"], "aud": issuer["audiences"][0], "exp": 4_000_000_000, "sub": "u1"}
    token = signer.sign(claims | {"scope": scope})
    in_pod = re.sub(r"kubectl .*? -- \\\n", "", command("explain"), flags=re.DOTALL)
    in_pod = in_pod.replace("/etc/authz-service/config.yaml", str(tmp_path / "config.yaml"))
    explained = printed(in_pod, tmp_path, TOKEN=token)
    assert answer in explained
    assert token.rpartition(".")[2] not in explained
    if scope == "other":
        (shown,) = blocks(PAGE, "text")
        assert_shows(shown.text, explained)
