"""The page on a chart of one's own: its files are a chart whose pod has authz-service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from generate import render, with_dependency
from support.chart import container, in_order, merged, one
from support.documents import blocks, page, section
from support.manifests import problems

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("how-to/sidecar")
SOCKET = {"authz-service": {"config": {"server": {"grpc_address": "unix:/run/authz/authz.sock"}}}}
PLAIN = {"authz-service": {"sidecar": {"native": False}}}


def rendered(
    folder: Path, changes: dict[str, Any] | None = None, *, edit: tuple[str, str] = ("", "")
) -> dict[str, str]:
    """The chart of the page, after ``helm dependency update``, with changed values and an edited pod."""
    chart = folder / "of the page" / "shop"
    (chart / "templates").mkdir(parents=True)
    for block in blocks(PAGE):
        if block.title == "values.yaml":
            (chart / block.title).write_text(yaml.safe_dump(merged(yaml.safe_load(block.text), changes or {})))
        elif block.title:
            (chart / block.title).write_text(block.text.replace(*edit) if edit[0] else block.text)
    return render(with_dependency(chart, folder), {}, name="shop", namespace="shop")


@pytest.mark.parametrize("changes", [{}, PLAIN, SOCKET])
def test_the_files_are_a_valid_chart_with_authz_service_in_its_pod(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = in_order(rendered(tmp_path, changes))
    assert [problem for each in found for problem in problems(each)] == []
    pod = one(found, "Deployment", "shop")["spec"]["template"]
    assert container(pod)["image"] == "REGISTRY/authz-service:0.1.0"
    initial = [each["name"] for each in pod["spec"]["initContainers"] or ()]
    assert ("authz-service" in initial) == (changes != PLAIN)
    application = container(pod, "shop")
    assert "securityContext" not in application
    assert f"user {pod['spec']['securityContext']['runAsUser']}" in PAGE
    policy = one(found, "NetworkPolicy", "shop")["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http", 9192]


def test_the_socket_is_mounted_in_a_container_with_the_lines_of_the_page(tmp_path: Path) -> None:
    (mount,) = (
        each for each in re.findall(r"```text\n(.*?)```", section(PAGE, "## 4. Let the proxy call it"), re.DOTALL)
    )
    before = "          # Serve until no client"
    found = in_order(rendered(tmp_path, SOCKET, edit=(before, mount + before)))
    application = container(one(found, "Deployment", "shop")["spec"]["template"], "shop")
    assert [each["mountPath"] for each in application["volumeMounts"]] == ["/run/authz"]


def test_the_messages_of_the_page_are_those_of_the_chart(tmp_path: Path) -> None:
    (block,) = blocks(PAGE, "yaml", "values.yaml")
    below_an_alias = {"authz-service": None, "guard": yaml.safe_load(block.text)["authz-service"]}
    alias = ("    version: 0.1.0\n", "    version: 0.1.0\n    alias: guard\n")
    with pytest.raises(Exception, match=r"(?s)the values are contradictory or incomplete.*config\.issuers is missing"):
        rendered(tmp_path / "level", {"authz-service": None})
    with pytest.raises(Exception, match="this chart has no dependency named authz-service"):
        rendered(tmp_path / "alias", below_an_alias, edit=alias)
    assert "`the values are contradictory or incomplete`" in PAGE
    assert "`this chart has no dependency named authz-service`" in PAGE
