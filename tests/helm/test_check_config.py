"""The Job that checks the configuration before Helm changes anything."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from generate import CHART, render
from support.chart import NAME, containers, in_order, manifests, one
from support.manifests import problems

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = ("service", "gateway", "sidecar")
CHECK = f"{NAME}-check"
FOLDER = "/etc/authz-service"


def check(found: list[dict[str, Any]], folder: Path, name: str = CHECK) -> subprocess.CompletedProcess[str]:
    """Run the Job's command with its ConfigMap, on a machine without the files that the configuration names."""
    spec = one(found, "Job", name)["spec"]["template"]["spec"]
    (container,), (volume,) = spec["containers"], spec["volumes"]
    assert [(each["name"], each["mountPath"]) for each in container["volumeMounts"]] == [(volume["name"], FOLDER)]
    for file, text in one(found, "ConfigMap", volume["configMap"]["name"])["data"].items():
        (folder / file).write_text(text)
    assert container["command"] == ["authz-service"]
    arguments = [each.replace(FOLDER, str(folder)) for each in container["args"]]
    command = [sys.executable, "-m", "authz_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", SHAPES)
def test_the_configuration_of_each_shape_passes_without_secrets(name: str, tmp_path: Path) -> None:
    done = check(manifests(name), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("valid\n")


def test_an_invalid_configuration_fails_with_its_line(tmp_path: Path) -> None:
    rules = [{"name": "a", "match": {"paths": ["v1"]}}, {"name": "a", "match": {"paths": ["/v1"]}}]
    found = manifests("service", {"config": {"rules": rules}})
    done = check(found, tmp_path)
    assert done.returncode == 1
    assert "config.yaml:" in done.stdout
    assert "rules[0].match.paths[0]: " in done.stdout
    assert "rules[1].name: " in done.stdout


def test_the_readme_shows_what_the_job_prints(tmp_path: Path) -> None:
    readme = (CHART / "README.md").read_text()
    (text,) = re.findall(r"```yaml\n(shape: .*?)```", readme, re.DOTALL)
    values = yaml.safe_load(text)
    values["config"]["rules"][0]["require"]["issuers"] = ["mian"]
    found = in_order(render(CHART, values, name="shop"))
    done = check(found, tmp_path, "shop-authz-service-check")
    assert f"shop-authz-service-check --namespace shop\n{done.stdout.replace(str(tmp_path), FOLDER)}```" in readme


@pytest.mark.parametrize("name", SHAPES)
def test_it_uses_no_object_that_the_release_creates_later(name: str) -> None:
    found = manifests(name, {"imagePullSecrets": [{"name": "registry"}], "serviceAccount": {"name": "mine"}})
    job, config = one(found, "Job", CHECK), one(found, "ConfigMap", CHECK)
    assert problems(job) == problems(config) == []
    for each in (job, config):
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert int(config["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["volumes"] == [{"name": "config", "configMap": {"name": CHECK}}]


def test_it_ends_before_helm_stops_waiting_and_reports_one_failure() -> None:
    spec = one(manifests("service"), "Job", CHECK)["spec"]
    assert spec["activeDeadlineSeconds"] < 300
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_its_pod_meets_the_restricted_standard_and_nothing_selects_it() -> None:
    found = manifests("service")
    pod = one(found, "Job", CHECK)["spec"]["template"]
    (container,) = containers(pod)
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    labels = pod["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert not one(found, kind)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert not one(found, "Service")["spec"]["selector"].items() <= labels.items()
    assert not one(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_an_existing_config_map_that_does_not_exist_fails_at_once(tmp_path: Path) -> None:
    absent = {"existingConfigMap": "shop-config", "config": {"issuers": None, "rules": None}}
    spec = one(manifests("service", absent), "Job", CHECK)["spec"]["template"]["spec"]
    (volume,) = spec["volumes"]
    assert volume["configMap"] == {"name": "shop-config", "optional": True}
    arguments = [each.replace(FOLDER, str(tmp_path)) for each in spec["containers"][0]["args"]]
    command = [sys.executable, "-m", "authz_service", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot be read: No such file or directory" in done.stdout


def test_its_resources_are_those_of_the_values_as_a_quota_may_require() -> None:
    limited = {"resources": {"limits": {"cpu": "1"}}}
    found = manifests("service", {"checkConfig": limited, "test": limited, "commonLabels": {"team": "identity"}})
    for pod in (one(found, "Job", CHECK)["spec"]["template"], one(found, "Pod", f"{NAME}-test")):
        (container,) = containers(pod)
        assert container["resources"]["limits"] == {"cpu": "1", "memory": "128Mi"}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert pod["metadata"]["labels"]["team"] == "identity"


def test_it_can_be_switched_off() -> None:
    found = manifests("service", {"checkConfig": {"enabled": False}})
    assert CHECK not in {each["metadata"]["name"] for each in found}
