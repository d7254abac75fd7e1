"""The pages on the chart and on rolling upgrades state what the chart renders."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from generate import CHART, render
from support.chart import NAME, container, in_order, manifests, notes, one, pods, shape
from support.documents import blocks, page, section, table, yaml_blocks

if TYPE_CHECKING:
    from pathlib import Path

UPGRADES = page("how-to/rolling-upgrades")
PLAIN = {"sidecar": {"native": False}}


@pytest.mark.parametrize("name", ["gateway", "service", "sidecar"])
def test_the_pipeline_renders_a_configuration_that_check_config_accepts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (each.text for each in blocks(page("how-to/chart"), "sh") if "--show-only" in each.text)
    (template,) = re.findall(r"--show-only (\S+)", block)
    rendered = render(CHART, shape(name))[f"authz-service/{template}"]
    (tmp_path / "config.yaml").write_text(yaml.safe_load(rendered)["data"]["config.yaml"])
    (command,) = re.findall(r"^authz-service (.*) config.yaml$", block, re.MULTILINE)
    assert main([*command.split(), str(tmp_path / "config.yaml")]) == 0, capsys.readouterr().out


def documented() -> dict[str, int]:
    """For how many seconds a pod of a shape serves."""
    times = {shape: serves.partition(" s")[0] for shape, serves, _ in table(UPGRADES, "shape", "serves for")}
    return {name: int(seconds) for name, seconds in times.items() if seconds.isdecimal()}


def delay(name: str, changes: dict[str, Any] | None = None) -> str:
    config = one(manifests(name, changes), "ConfigMap")["data"]["config.yaml"]
    found: str = yaml.safe_load(config)["server"].get("shutdown_delay", "0s")
    return found


def test_a_pod_serves_for_as_long_as_the_table_says() -> None:
    unset = {"config": {"server": {"shutdown_delay": None}}}
    (pod,) = pods([one(manifests("gateway"), "Deployment")])
    sleep = container(pod, "application")["lifecycle"]["preStop"]
    assert documented() == {
        "`service`": int(delay("service", unset).removesuffix("s")),
        "`gateway`": sleep["sleep"]["seconds"],
        "`sidecar`, plain container": int(delay("sidecar", PLAIN).removesuffix("s")),
    }
    assert delay("gateway") == delay("sidecar") == "0s"


def test_the_startup_probe_ends_before_helm_stops_waiting() -> None:
    (pod,) = pods([one(manifests("service"), "Deployment")])
    probe = container(pod)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 4.5 * 60
    assert (
        "four and a half minutes for an unreachable provider, which is\nless than the five for which Helm waits"
        in UPGRADES
    )


@pytest.mark.parametrize(("changes", "seconds"), [({}, "0"), (PLAIN, "36")])
def test_the_command_for_a_hook_of_your_own_is_that_of_the_charts_hook(changes: dict[str, Any], seconds: str) -> None:
    (pod,) = pods([one(manifests("gateway", changes), "Deployment")])
    command = container(pod)["lifecycle"]["preStop"]["exec"]["command"]
    assert f"`{' '.join([*command[:-1], '0'])}`" in UPGRADES
    assert command[-1] == seconds


def test_the_list_of_revoked_tokens_is_mounted_where_the_configuration_reads_it() -> None:
    (values,) = (yaml.safe_load(each) for each in yaml_blocks("how-to/chart") if "revocations_file" in each)
    (created,) = (each.text for each in blocks(page("how-to/chart"), "sh") if "create configmap" in each.text)
    (volume,), (mount,) = values["extraVolumes"], values["extraVolumeMounts"]
    (name, file) = re.findall(r"create configmap (\S+) --from-file=(\S+)", created)[0]
    assert volume == {"name": mount["name"], "configMap": {"name": name}}
    assert values["config"]["revocations_file"] == f"{mount['mountPath']}/{file}"
    assert "subPath" not in mount


def test_the_key_of_nonces_is_mounted_from_its_secret_for_every_pod() -> None:
    text = section(page("how-to/dpop"), "## 4. Require nonces")
    (values,) = (yaml.safe_load(each.text) for each in blocks(text, "yaml") if "secrets" in each.text)
    (created,) = (each.text for each in blocks(text, "sh") if "create secret" in each.text)
    (name, file) = re.findall(r"create secret generic (\S+) --from-file=(\S+)", created)[0]
    (pod,) = pods([one(manifests("gateway", values), "Deployment")])
    (volume,) = [each["name"] for each in pod["spec"]["volumes"] if each.get("secret") == {"secretName": name}]
    (folder,) = [each["mountPath"] for each in container(pod)["volumeMounts"] if each["name"] == volume]
    assert values["config"]["dpop"]["nonce_key_file"] == f"{folder}/{file}"
    assert "nonces" not in notes("gateway", values)


def test_only_other_identity_headers_replace_the_pods_of_a_gateway_that_keeps_them() -> None:
    def annotations(changes: dict[str, Any]) -> dict[str, str]:
        (pod,) = pods([one(manifests("gateway", {"rolloutOnConfigChange": False, "config": changes}), "Deployment")])
        found: dict[str, str] = pod["metadata"]["annotations"]
        return found

    assert annotations({"logging": {"decisions": "all"}}) == annotations({})
    assert annotations({"upstream": {"headers": {"x-user": "sub"}}}) != annotations({})
    assert "other identity headers (`upstream.headers`)" in section(UPGRADES, "## Change the configuration")


def test_an_existing_config_map_leaves_its_rules_to_the_config_map() -> None:
    (block,) = blocks(page("how-to/chart"), "yaml", "values.yaml")
    values = yaml.safe_load(block.text)
    found = in_order(render(CHART, values))
    assert not [each for each in found if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", NAME)]
    (pod,) = pods([one(found, "Deployment")])
    assert {"name": values["existingConfigMap"]} in [each.get("configMap") for each in pod["spec"]["volumes"]]
