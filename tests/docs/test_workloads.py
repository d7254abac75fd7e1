"""The guide to service account tokens: its blocks are those of the example, valid, and work together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from authz_service.core.reasons import Reason
from generate import CHART, render
from support import offline
from support.chart import containers, in_order, one
from support.console import printed
from support.documents import ROOT, blocks, code, page, section, tables, yaml_blocks
from support.manifests import problems
from support.signing import Signer

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / "examples" / "kubernetes"
GUIDE = page("how-to/service-accounts")
API_SERVER = "how-to/api-server"
BLOCKS = [*yaml_blocks(API_SERVER), *yaml_blocks("how-to/service-accounts")]
COMMANDS = [each.text for each in blocks(GUIDE, "sh")]
CONFIGURATION: dict[str, Any] = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((EXAMPLE / "values.yaml").read_text())


def block(beginning: str) -> str:
    """The last block with this beginning."""
    return [each for each in BLOCKS if each.startswith(beginning)][-1]


def installed() -> list[dict[str, Any]]:
    """What `helm install orders --namespace shop` renders, in the namespace of the tests."""
    return in_order(render(CHART, VALUES, name="orders"))


def test_guide_example_and_values_have_one_configuration() -> None:
    (config,) = (each.text for each in blocks(GUIDE, "yaml", "config.yaml"))
    assert yaml.safe_load(config) == CONFIGURATION
    (issuers,) = (yaml.safe_load(each) for each in yaml_blocks(API_SERVER) if each.startswith("issuers:"))
    assert issuers["issuers"] == CONFIGURATION["issuers"]
    server = VALUES["config"]["server"]
    assert VALUES["config"] == {"server": server} | CONFIGURATION


def test_the_values_render_valid_objects_with_the_names_in_the_guide() -> None:
    found = installed()
    assert [problem for each in found for problem in problems(each)] == []
    (port,) = one(found, "Service", "orders")["spec"]["ports"]
    assert port["port"] == 80
    assert one(found, "Deployment", "orders")["spec"]["template"]["spec"]["serviceAccountName"] == "orders"
    assert one(found, "ServiceAccount", "orders")
    policy = one(found, "NetworkPolicy", "orders")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert VALUES["networkPolicy"]["clients"] == policy["ingress"][0]["from"][:-1]  # and the pod of `helm test`


def test_a_public_issuer_needs_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = (each for each in BLOCKS if "oidc.eks" in each)
    config = tmp_path / "config.yaml"
    config.write_text(text + yaml.safe_dump({"rules": CONFIGURATION["rules"]}))
    assert main(["check-config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: valid\n"
    assert "keys" not in yaml.safe_load(text)["issuers"][0]


def test_the_issuer_and_its_algorithms_are_those_of_the_metadata() -> None:
    (block,) = blocks(GUIDE, "json")
    metadata = json.loads(block.text)
    (issuer,) = CONFIGURATION["issuers"]
    assert metadata["issuer"] == issuer["issuer"]
    assert metadata["id_token_signing_alg_values_supported"] == issuer["algorithms"]
    # The example names the address of the keys for this reason.
    assert metadata["jwks_uri"] != issuer["keys"]["jwks_uri"]


def test_the_caller_is_a_restricted_pod_and_requests_the_audience_of_the_api() -> None:
    caller = yaml.safe_load(block("apiVersion: apps/v1"))
    assert problems(caller) == []
    pod = caller["spec"]["template"]
    (volume,) = pod["spec"]["volumes"]
    (source,) = volume["projected"]["sources"]
    token = source["serviceAccountToken"]
    assert [token["audience"]] == CONFIGURATION["issuers"][0]["audiences"]
    assert 600 <= token["expirationSeconds"] <= 2 * 3600  # Kubernetes' minimum, and max_token_age
    (caller_container,) = containers(pod)
    (mount,) = caller_container["volumeMounts"]
    assert f"{mount['mountPath']}/{token['path']}" in "".join(COMMANDS)
    assert f"system:serviceaccount:shop:{pod['spec']['serviceAccountName']}" in json.dumps(CONFIGURATION)


def test_the_binding_is_valid_and_names_the_service_account_of_the_pods() -> None:
    binding = yaml.safe_load(block("apiVersion: rbac"))
    assert problems(binding) == []
    (subject,) = binding["subjects"]
    assert one(installed(), "ServiceAccount", subject["name"])


def explain(account: str, issued: int, folder: Path) -> str:
    """The output of the guide's command for a token of a service account, with the guide's revocation in effect."""
    (command,) = (each for each in COMMANDS if "explain" in each)
    in_pod = command.partition(" -- \\\n")[2].replace("/etc/authz-service/config.yaml", str(folder / "config.yaml"))
    signer = Signer("RS256", "a")
    (folder / "revocations.yaml").write_text(block("revocations:"))
    issuer = CONFIGURATION["issuers"][0] | {"max_token_age": None}
    changes = {"issuers": [issuer], "revocations_file": "revocations.yaml"}
    offline.written(CONFIGURATION | changes, folder, signer)
    claims = {"iss": issuer["issuer"], "aud": issuer["audiences"], "iat": issued, "exp": 4_000_000_000}
    return printed(in_pod, folder, given=signer.sign(claims | {"sub": f"system:serviceaccount:shop:{account}"}))


BEFORE, AFTER = 1_760_000_000, 1_780_000_000  # the time in the guide's revocation


@pytest.mark.parametrize(
    ("account", "issued", "answer"),
    [
        ("cart", AFTER, "allow, ok"),
        ("search", AFTER, "deny with 403, claim_mismatch"),
        ("cart", BEFORE, "deny with 401, revoked"),
    ],
)
def test_the_command_explains_a_call_with_a_requested_token(
    account: str, issued: int, answer: str, tmp_path: Path
) -> None:
    assert answer in explain(account, issued, tmp_path)


def test_every_reason_in_the_table_exists() -> None:
    named = [
        reason for first, *_ in tables(section(GUIDE, "## When a call is denied"))[0].rows for reason in code(first)
    ]
    assert len(named) == 8
    assert set(named) <= {reason.value for reason in Reason}
