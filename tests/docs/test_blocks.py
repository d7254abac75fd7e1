"""Every block of YAML in every page is valid. ``block_kinds`` explains how it is recognized."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import trustme
import yaml

from authz_service.cli import main
from authz_service.demo.envoy import binary
from generate import CHART, render
from support import manifests
from support.block_kinds import CONFIGURATION_PARTS, kind_of
from support.chart import in_order, merged, shape
from support.documents import ROOT, Block, blocks, page, pages
from support.missing import not_proved
from support.prometheus import programs
from support.tutorial_bootstrap import tutorial_bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TIMEOUT: Final = 60.0  # seconds, of a program
MESH: Final = json.loads((ROOT / "tests" / "support" / "schemas" / "meshconfig.json").read_text())
# The only warnings of configurations in pages: each explains why it is there.
WARNINGS: Final = {
    "how-to/shadow-mode": "denies nothing",
    "how-to/mcp-providers": "accepts tokens for 0b1f2c3d-0000-4000-8000-00000000000a",
}
# Pages with files of other programs and of another chart: tests/docs/test_providers.py and test_sidecar.py read them.
PROVED_ELSEWHERE: Final = {"how-to/providers/ci-jobs", "how-to/providers/dex", "how-to/sidecar"}
BLOCKS: Final = [
    pytest.param(name, block, id=f"{name}.md:{block.line}") for name in pages() for block in blocks(page(name), "yaml")
]


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_every_block_of_yaml_is_valid(
    name: str, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = kind_of(block.text)
    document = manifests.documents(block.text)[0]
    monkeypatch.chdir(tmp_path)
    if kind == "objects":
        assert [problem for each in manifests.documents(block.text) for problem in manifests.problems(each)] == []
    elif kind == "mesh":
        assert list(jsonschema.Draft202012Validator(MESH).iter_errors(document["meshConfig"])) == []
    elif kind == "values":
        check_values(document)
    elif kind == "prometheus":
        check_prometheus(block.text, tmp_path)
    elif kind == "configuration":
        (tmp_path / "config.yaml").write_text(block.text)
        status = main(["check-config", "--without-files", "config.yaml"])
        *warnings, _ = printed = capsys.readouterr().out.splitlines()
        assert status == 0, printed
        assert all(name in WARNINGS and WARNINGS[name] in each for each in warnings), warnings
        assert warnings or name not in WARNINGS, f"{name} is in WARNINGS without need"
    elif kind == "revocations":
        (tmp_path / "revocations.yaml").write_text(block.text)
        named = {each["issuer"] for each in document["revocations"] if "issuer" in each}
        check_configuration(configuration({"revocations_file": "revocations.yaml"}, named), capsys)
    elif kind == "cases":
        before = [
            each.text
            for each in blocks(page(name), "yaml")
            if each.line < block.line and kind_of(each.text) == "configuration"
        ]
        (tmp_path / "config.yaml").write_text(before[-1])
        (tmp_path / "cases.yaml").write_text(block.text)
        assert main(["test", "--config", "config.yaml", "cases.yaml"]) == 0, capsys.readouterr().out
    elif kind in {"provider", "parent"}:
        assert name in PROVED_ELSEWHERE
    elif kind in {*CONFIGURATION_PARTS, "issuers", "rules"}:
        check_configuration(completed(kind, document), capsys)
    else:
        check_envoy(document if kind == "bootstrap" else within_envoy(kind, document), tmp_path)


# Configurations.


def check_configuration(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    status = main(["check-config", "--without-files", "config.yaml"])
    assert status == 0, capsys.readouterr().out


def configuration(part: dict[str, Any], issuers: Iterable[str]) -> dict[str, Any]:
    """A configuration with this part, and with issuers of these names."""
    names = sorted({"main", *issuers})
    base = {
        "issuers": [
            {"issuer": f"https://{name}.example.com/", "name": name, "audiences": ["https://api.example.com/"]}
            for name in names
        ],
        "rules": [{"name": "base", "match": {"paths": ["/base"]}}],
    }
    return base | part


def completed(kind: str, part: Any) -> dict[str, Any]:
    """The configuration around a part."""
    issuer = {"issuer": "https://idp.example.com/", "audiences": ["https://api.example.com/"]}
    match = {} if kind == "rule" and {"match", "policy"} & set(part) else {"match": MATCH}
    whole: dict[str, Any] = part
    if kind in {"issuers", "rules"}:
        whole = {kind: part}
    elif kind == "issuer":
        whole = {"issuers": [issuer | part]}
    elif kind in {"requirement", "match"}:
        whole = {"rules": [{"name": "rule"} | match | {"require" if kind == "requirement" else "match": part}]}
    elif kind == "rule":
        whole = {"rules": [{"name": "rule"} | match | part]}
    named = {name for each in requirements(whole.get("rules", ())) for name in each.get("issuers", ())}
    named |= {name for each in whole.get("resources", ()) for name in each.get("issuers", ())}
    return configuration(whole, named)


MATCH: Final = {"paths": ["/t/{tenant}/{id}/**"]}  # with what a requirement may compare


def requirements(rules: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        require = rule.get("require", {})
        yield from (require, *require.get("any_of", ()))


# The chart.


def check_values(values: dict[str, Any]) -> None:
    """Values without a shape are a change of one: of a gateway if they name it."""
    base = "gateway" if "gateway" in values else "service"
    rendered = render(CHART, values if "shape" in values else merged(shape(base), values))
    assert [problem for each in in_order(rendered) for problem in manifests.problems(each)] == []


# Prometheus.


def check_prometheus(text: str, folder: Path) -> None:
    found = programs()
    if found is None:
        not_proved("that a configuration of Prometheus in a page is valid", missing="Prometheus")
    (folder / "prometheus.yaml").write_text(text)
    command = [str(found / "promtool"), "check", "config", "--lint=all", "--lint-fatal", "prometheus.yaml"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr


# Envoy.


def within_envoy(kind: str, part: Any) -> dict[str, Any]:
    """A bootstrap with this part."""
    bootstrap: dict[str, Any] = tutorial_bootstrap()
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    if kind in {"filters", "manager"}:
        added = {"http_filters": part} if kind == "filters" else dict(part)
        filters = added.get("http_filters", manager["http_filters"])
        router = [] if filters[-1]["name"] == "envoy.filters.http.router" else [manager["http_filters"][-1]]
        manager |= added | {"http_filters": [*filters, *router]}
    elif kind in {"clusters", "resources"}:
        clusters = part if kind == "clusters" else part["clusters"]
        names = {each["name"] for each in clusters}
        others = [each for each in bootstrap["static_resources"]["clusters"] if each["name"] not in names]
        bootstrap["static_resources"]["clusters"] = [*clusters, *others]
    elif kind == "host":
        host |= part
    else:
        base = host["routes"][0]
        host["routes"] = [
            each if "direct_response" in each else base | each for each in ([part] if kind == "route" else part)
        ]
    return bootstrap


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def check_envoy(bootstrap: dict[str, Any], folder: Path) -> None:
    """Envoy itself accepts the bootstrap, with certificates where it names files."""
    certificate = authority().issue_cert("api.example.com")
    pem = {
        "key": certificate.private_key_pem.bytes(),
        "ca": authority().cert_pem.bytes(),
        "crt": certificate.cert_chain_pems[0].bytes(),
    }
    for kind, content in pem.items():
        (folder / kind).write_bytes(content)

    def present(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: file_of(each) if key == "filename" else present(each) for key, each in value.items()}
        return [present(each) for each in value] if isinstance(value, list) else value

    def file_of(name: str) -> str:
        return str(folder / ("key" if name.endswith(".key") else "ca" if "ca" in Path(name).stem else "crt"))

    file = folder / "envoy.json"
    file.write_text(json.dumps(present(bootstrap)))
    command = [binary(), "--mode", "validate", "--config-path", str(file), "--log-level", "error"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
