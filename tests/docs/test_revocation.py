"""The page on the chart: its values for security events give all pods one writable volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support import chart, manifests
from support.documents import blocks, page, section

PAGE = section(page("how-to/chart"), "## Security events")


def values() -> dict[str, Any]:
    (block,) = blocks(PAGE, "yaml")
    found: dict[str, Any] = yaml.safe_load(block.text)
    return found


@pytest.mark.parametrize("shape", ["service", "gateway"])
def test_the_values_mount_a_shared_volume_where_the_events_are_saved(shape: str) -> None:
    found = chart.manifests(shape, values())
    assert [problem for each in found for problem in manifests.problems(each)] == []
    (events,) = [each["security_events"] for each in values()["config"]["issuers"]]
    pod = next(each for each in chart.pods(found) if "volumes" in each["spec"])
    mounts = {each["mountPath"]: each for each in chart.container(pod)["volumeMounts"]}
    mount = mounts[str(Path(events["snapshot_file"]).parent)]
    assert not mount.get("readOnly", False)
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert "persistentVolumeClaim" in volume
    assert str(Path(events["client_secret_file"]).parent) in mounts
