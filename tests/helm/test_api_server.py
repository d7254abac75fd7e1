"""The token and the authority for requests to the API server, which has the keys of service account tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import helm_python as helm
import pytest
import yaml

from generate import APPLICATION, render, with_dependency
from support.chart import NAME, container, containers, in_order, manifests, one
from support.documents import yaml_blocks
from support.manifests import problems

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "/var/run/secrets/api-server"
TOKEN, AUTHORITY = f"{FOLDER}/token", f"{FOLDER}/ca.crt"
VOLUME = "authz-api-server"
SHAPES = ("service", "gateway", "sidecar")


def from_api_server(**keys: str) -> dict[str, Any]:
    """A configuration with keys of the API server and these files."""
    issuer = {
        "issuer": "https://kubernetes.default.svc.cluster.local",
        "audiences": ["a"],
        "keys": {"jwks_uri": "https://kubernetes.default.svc/openid/v1/jwks", **keys},
    }
    return {"config": {"issuers": [issuer]}}


BOTH = from_api_server(bearer_token_file=TOKEN, ca_file=AUTHORITY)


def pod_of(name: str, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The pod of a shape; with shape sidecar, that of an application's chart."""
    if name == "sidecar":
        found = in_order(render(with_dependency(APPLICATION, folder), {"authz-service": changes}))
        deployment = one(found, "Deployment", "shop")
    else:
        found = manifests(name, changes)
        deployment = one(found, "Deployment")
    assert [problem for each in found for problem in problems(each)] == []
    pod: dict[str, Any] = deployment["spec"]["template"]
    return pod


def sources(pod: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What the volume has, or None without it."""
    found = [each["projected"]["sources"] for each in pod["spec"]["volumes"] if each["name"] == VOLUME]
    mounts = [each for each in container(pod)["volumeMounts"] if each["name"] == VOLUME]
    assert len(found) == len(mounts)
    return found[0] if found else None


TOKEN_SOURCE = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
AUTHORITY_SOURCE = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}


@pytest.mark.parametrize("name", SHAPES)
def test_only_authz_service_has_the_files_that_the_configuration_uses(name: str, tmp_path: Path) -> None:
    pod = pod_of(name, BOTH, tmp_path)
    assert sources(pod) == [TOKEN_SOURCE, AUTHORITY_SOURCE]  # the default audience is the API server's
    mounted = {
        each["name"]: [mount for mount in each.get("volumeMounts", ()) if mount["name"] == VOLUME]
        for each in containers(pod)
    }
    assert {holder: mounts for holder, mounts in mounted.items() if mounts} == {
        "authz-service": [{"name": VOLUME, "mountPath": FOLDER, "readOnly": True}]
    }
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_the_token_is_readable_for_the_user_by_the_group_of_the_pod(tmp_path: Path) -> None:
    security = pod_of("service", BOTH, tmp_path)["spec"]["securityContext"]
    assert security["fsGroup"] == security["runAsGroup"]


def test_a_file_that_the_configuration_does_not_use_is_not_mounted(tmp_path: Path) -> None:
    assert sources(pod_of("service", from_api_server(ca_file=AUTHORITY), tmp_path)) == [AUTHORITY_SOURCE]
    assert sources(pod_of("service", from_api_server(bearer_token_file=TOKEN), tmp_path)) == [TOKEN_SOURCE]
    assert sources(pod_of("service", {}, tmp_path)) is None


@pytest.mark.parametrize("path", [FOLDER, f"{FOLDER}/", "/var/run/secrets", TOKEN])
@pytest.mark.parametrize("name", SHAPES)
def test_a_volume_of_the_values_in_its_place_is_the_only_one(name: str, path: str, tmp_path: Path) -> None:
    own = {
        "extraVolumes": [{"name": "own", "projected": {"sources": [TOKEN_SOURCE, AUTHORITY_SOURCE]}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": path, "readOnly": True}],
    }
    pod = pod_of(name, BOTH | own, tmp_path)
    assert sources(pod) is None
    assert path in {each["mountPath"] for each in container(pod)["volumeMounts"]}


def test_a_volume_elsewhere_does_not_replace_it(tmp_path: Path) -> None:
    own = {
        "extraVolumes": [{"name": "own", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": f"{FOLDER}-of-another-cluster"}],
    }
    assert sources(pod_of("service", BOTH | own, tmp_path)) == [TOKEN_SOURCE, AUTHORITY_SOURCE]


def test_the_volume_for_an_existing_config_map_is_the_one_in_the_page(tmp_path: Path) -> None:
    (block,) = (each for each in yaml_blocks("how-to/api-server") if "kube-root-ca.crt" in each)
    own = yaml.safe_load(block)
    (volume,) = own["extraVolumes"]
    assert volume["projected"]["sources"] == [TOKEN_SOURCE, AUTHORITY_SOURCE]
    existing = {"existingConfigMap": "shop-config", "config": {"issuers": None, "rules": None}}
    pod = pod_of("service", existing | own, tmp_path)
    assert sources(pod) is None
    assert FOLDER in {each["mountPath"] for each in container(pod)["volumeMounts"]}


def test_another_file_in_the_folder_is_rejected_with_the_remedy() -> None:
    with pytest.raises(helm.HelmRenderError, match=r"api-server/jwt, but this folder has only token and ca\.crt: use"):
        manifests("service", from_api_server(bearer_token_file=f"{FOLDER}/jwt"))


def test_the_check_of_the_configuration_has_no_token() -> None:
    spec = one(manifests("service", BOTH), "Job", f"{NAME}-check")["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["volumes"]] == ["config"]
    assert "--without-files" in spec["containers"][0]["args"]
