"""Every example is a valid configuration whose cases pass; together they show the whole rule language."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from authz_service.cli import main
from authz_service.config.load import load
from authz_service.config.model import (
    OPERATORS,
    ClaimCondition,
    Match,
    Require,
    RuleSettings,
    Settings,
)
from authz_service.config.sections import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(folder for folder in (ROOT / "examples").iterdir() if folder.is_dir())
PROVIDERS = {
    *("auth0", "okta", "entra-id", "keycloak", "google", "cognito", "kubernetes", "github-actions", "gitlab-ci"),
    *("spiffe", "entra-multi-tenant", "zitadel", "authentik", "dex", "cloudflare-access", "google-iap"),
    *("keycloak-dpop", "keycloak-security-events"),
}
WITHOUT_LOGIN = {
    "kubernetes",
    "github-actions",
    "spiffe",
    "cloudflare-access",
    "google-iap",
}  # providers that issue no ID tokens of people
# Folders that exist in a cluster only.
MOUNTS = ("/var/run/secrets/api-server", "/var/run/secrets/keycloak", "/var/lib/authz-service")
NAMES = [folder.name for folder in EXAMPLES]


def cases_of(folder: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = yaml.safe_load((folder / "cases.yaml").read_text())["cases"]
    return cases


@pytest.mark.parametrize("folder", EXAMPLES, ids=NAMES)
def test_an_example_is_valid_and_without_warnings_but_for_shadow_mode(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("token", "secret"):
        (tmp_path / name).write_text("example")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    config, text = tmp_path / "config.yaml", (folder / "config.yaml").read_text()
    for mount in MOUNTS:
        text = text.replace(mount, str(tmp_path))
    config.write_text(text)
    assert main(["check-config", str(config)]) == 0
    *warnings, valid = capsys.readouterr().out.splitlines()
    assert valid.endswith(": valid")
    assert all(re.search(r"\.mode: denies nothing", line) for line in warnings)
    assert len(warnings) == (3 if folder.name == "shadow-migration" else 0)


@pytest.mark.parametrize("folder", EXAMPLES, ids=NAMES)
def test_the_cases_of_an_example_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--config", str(folder / "config.yaml"), str(folder / "cases.yaml")]) == 0
    assert capsys.readouterr().out.endswith(f"{len(cases_of(folder))} passed, 0 failed\n")


@pytest.mark.parametrize("folder", EXAMPLES, ids=NAMES)
def test_the_cases_of_an_example_show_allowed_and_denied_requests(folder: Path) -> None:
    expected = [case["expect"] for case in cases_of(folder)]
    reasons = {each.get("reason") for each in expected}
    assert "missing_token" in reasons
    assert "id_token" in reasons or folder.name in WITHOUT_LOGIN
    assert any(each.get("decision") == "allow" for each in expected)
    if folder.name in PROVIDERS:
        assert "wrong_audience" in reasons


@pytest.mark.parametrize("folder", EXAMPLES, ids=NAMES)
def test_every_rule_of_an_example_decides_some_case(folder: Path) -> None:
    settings = load(folder / "config.yaml", look_at_files=False)
    shown = {case["expect"].get("rule") for case in cases_of(folder)}
    assert {rule.name for rule in settings.rules} <= shown


def test_each_provider_has_an_example_and_the_readme_lists_them_all() -> None:
    others = {
        "grpc-service",
        "mcp",
        "multi-tenant",
        "people-and-workloads",
        "resource-paths",
        "shadow-migration",
        "static-key",
    }
    assert PROVIDERS | others == set(NAMES)
    listed = re.findall(r"^\| \[`([a-z0-9-]+)`\]", (ROOT / "examples" / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == NAMES


def sections(part: object) -> Iterator[Section]:
    """A part of the settings, and all within it."""
    if isinstance(part, Section):
        yield part
        for _, value in part.members():
            yield from sections(value)
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from sections(item)
    elif isinstance(part, dict):
        for item in part.values():
            yield from sections(item)


def written(settings: list[Settings]) -> set[str]:
    return {f"{type(part).__name__}.{key}" for each in settings for part in sections(each) for key in part.written}


def all_of(*kinds: type[Section]) -> set[str]:
    return {f"{kind.__name__}.{key}" for kind in kinds for key in kind.declared}


def test_the_examples_show_every_key_of_a_rule() -> None:
    shown = written([load(folder / "config.yaml", look_at_files=False) for folder in EXAMPLES])
    assert all_of(RuleSettings, Match, Require, ClaimCondition) <= shown
    assert len(OPERATORS) == 13
