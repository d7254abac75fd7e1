"""What the explanations promise in tables, held by the code that decides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from authz_service.config.model import Issuer, Keys, Settings
from authz_service.core.errors import Rejected
from authz_service.core.paths import split
from authz_service.core.reasons import Reason
from support import trust
from support.documents import ROOT, page, section

if TYPE_CHECKING:
    from pathlib import Path

PATHS, TOKENS, OUTAGES = (page(f"understand/{name}") for name in ("paths", "id-and-access-tokens", "keys-and-outages"))


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table with this head."""
    table = text.partition(f"\n{head}\n")[2].partition("\n\n")[0]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()[1:]]


# Paths.


AMBIGUOUS = [
    path
    for _, example, _ in rows(PATHS, "| in the path | example | why |")
    for path in re.findall("`([^`]+)`", example)
]


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_each_example_of_an_ambiguous_path_is_denied(path: str) -> None:
    with pytest.raises(Rejected) as rejected:
        split(path)
    assert rejected.value.reason is Reason.AMBIGUOUS_PATH


RULES = """
issuers: [{issuer: https://idp.example.com/, audiences: [https://api.example.com/]}]
rules:
  - {name: package, match: {paths: ["/packages/{name}"], encoded_slash: true}, require: {scopes: [a]}}
  - {name: packages, match: {paths: ["/packages/{name}/admin"]}, require: {scopes: [a, b]}}
  - {name: items, match: {methods: [GET], paths: ["/v1/items/{id}"]}, require: {scopes: [a]}}
  - {name: purge, match: {paths: ["/v1/items/{id}:purge"]}, require: {scopes: [a, b]}}
  - {name: orders, match: {paths: ["/v1/orders/{id}"]}, require: {scopes: [a]}}
  - {name: close, match: {paths: ["/v1/orders/{id}:close"]}, require: {scopes: [a, b]}}
  - {name: admin, match: {paths: [/admin]}, require: {scopes: [b]}}
  - {name: page, match: {paths: ["/{page}", "/{page}/"]}, access: public}
"""


def test_check_config_warns_about_paths_as_the_page_quotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(RULES)
    assert main(["check-config", str(config)]) == 0
    warnings = capsys.readouterr().out
    table = rows(PATHS, "| your API | example | what `check-config` says | do |")
    quotes = [quote for row in table for quote in re.findall("`([^`]+)`", row[2])]
    assert len(quotes) == 5
    for quote in quotes:
        assert re.search(".*".join(map(re.escape, quote.split("…"))), warnings), quote


# ID tokens and access tokens.


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        *(({name: None}, "id_token") for name in ("nonce", "at_hash", "c_hash", "s_hash")),
        *(({name: "id"}, "id_token") for name in ("token_use", "token_type", "type", "typ")),
        ({"aud": "app"}, "id_token"),
        ({"aud": ["app"], "client_id": None, "azp": "app"}, "id_token"),
        ({"typ": "Refresh"}, "wrong_token_type"),
        ({"typ": "Offline"}, "wrong_token_type"),
        *(({name: "refresh"}, "wrong_token_type") for name in ("token_use", "token_type", "type")),
        ({"events": {}}, "wrong_token_type"),
        ({"typ": "Logout"}, "wrong_token_type"),
    ],
    ids=repr,
)
def test_each_marker_on_the_page_is_enough(claims: dict[str, Any], reason: str) -> None:
    named = {name: value for name, value in claims.items() if name not in {"aud", "client_id", "azp"}}
    assert all(f"`{name}" in TOKENS for name in named)
    assert all(f": {value}`" in TOKENS or f"`{value}`" in TOKENS for value in named.values() if isinstance(value, str))
    validator = trust.LocalValidator(audiences=["api", "app"])
    assert validator.reason(_signed(claims)) == reason


HEADER = {"typ": "JWT"}


def _signed(claims: dict[str, Any]) -> str:
    """A token with the header that most providers give both kinds."""
    whole = trust.claims() | claims
    return trust.RS.sign({name: whole[name] for name in whole if (name, whole[name]) != ("client_id", None)}, HEADER)


def test_the_markers_on_the_page_are_the_default_ones() -> None:
    first = rows(TOKENS, "| marker | where it comes from | setting |")[0][0]
    assert set(re.findall("`([a-z_]+)`", first)) == set(Issuer.read({"issuer": "https://x.example"}).id_token_markers)


# Keys and outages.


def test_the_times_on_the_page_are_the_defaults() -> None:
    keys = Keys.read({})
    introspection = yaml.safe_load(
        "{issuers: [{issuer: https://x.example, audiences: [a], introspection: {client_id: a, client_secret_file: s}}],"
        "rules: [{name: r, match: {paths: [/]}}]}"
    )
    opaque = Settings.read(introspection).issuers[0].introspection
    assert opaque is not None
    for seconds, quoted in (
        (keys.refresh_interval, "`refresh_interval` (5 minutes)"),
        (keys.min_refresh_interval, "`min_refresh_interval` (30 seconds)"),
        (keys.max_refresh_interval, "`max_refresh_interval` (1 hour)"),
        (keys.outage_tolerance, "`outage_tolerance` (24 hours)"),
        (keys.unknown_kid_cooldown, "`unknown_kid_cooldown` (30 seconds)"),
        (keys.timeout, "`timeout` (2 seconds)"),
        (opaque.cache_ttl, "30 seconds (`cache_ttl`)"),
    ):
        number, unit = re.findall(r"(\d+) (second|minute|hour)", quoted)[0]
        assert quoted in OUTAGES
        assert seconds == int(number) * {"second": 1, "minute": 60, "hour": 3600}[unit], quoted


def test_every_alert_of_the_page_exists() -> None:
    rules = yaml.safe_load((ROOT / "helm" / "authz-service" / "alerts" / "authz-service.yaml").read_text())
    alerts = {each["alert"] for group in rules["groups"] for each in group["rules"] if "alert" in each}
    part = section(OUTAGES, "## What happens in an outage")
    assert set(re.findall(r"\[(Authz\w+)\]", part)) <= alerts
