"""What the explanations promise in tables, held by the code that decides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from authz_service.config.model import IntrospectionSettings, Issuer, Keys, TokenCache
from authz_service.config.server import Server
from authz_service.core.bounded import HEAVY_FACTOR
from authz_service.core.errors import Rejected
from authz_service.core.paths import MAX_PATH, split
from authz_service.core.reasons import Reason
from authz_service.core.response_cache import MAX_RULES
from authz_service.keys import cache
from authz_service.keys.absent_kids import MAX_KIDS
from authz_service.keys.trials import MAX_BUDGET, MAX_FREE, REFILL
from authz_service.providers import resolver
from authz_service.tokens.introspection import introspector
from authz_service.tokens.introspection.breaker import FAILURES_TO_PROBE, MAX_BACKOFF
from authz_service.tokens.introspection.http_client import MAX_RESPONSE
from authz_service.tokens.jwt import invalid
from authz_service.tokens.jwt.cache import MAX_RECENT
from authz_service.transport import grpcio_server
from authz_service.transport.http2.compression import MAX_HEADER_LIST
from authz_service.transport.http2.limits import MAX_WORK, UNCOUNTED_STREAMS
from authz_service.transport.http2.memory import GUARANTEED, MAX_CONNECTIONS, SHARED
from authz_service.transport.tls import listener
from support import trust
from support.documents import ROOT, code, page, section, table

if TYPE_CHECKING:
    from pathlib import Path

PATHS, TOKENS, OUTAGES = (page(f"understand/{name}") for name in ("paths", "id-and-access-tokens", "keys-and-outages"))

OPAQUE = IntrospectionSettings.read({"client_id": "api", "client_secret_file": "secret"})
WORDS = {4: "four", 5: "five", 8: "eight"}


# Paths.


AMBIGUOUS = [path for _, example, _ in table(PATHS, "in the path") for path in code(example)]


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
    quotes = [quote for _, _, quoted, _ in table(PATHS, "your API") for quote in code(quoted)]
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
    first = table(TOKENS, "marker")[0][0]
    assert set(code(first)) == set(Issuer.read({"issuer": "https://x.example"}).id_token_markers)


# Keys and outages.


def words(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_the_times_on_the_page_are_the_defaults() -> None:
    keys = Keys.read({})
    for seconds, quoted in (
        (keys.refresh_interval, "`refresh_interval` (5 minutes)"),
        (keys.min_refresh_interval, "`min_refresh_interval` (30 seconds)"),
        (keys.max_refresh_interval, "`max_refresh_interval` (1 hour)"),
        (keys.outage_tolerance, "`outage_tolerance` (24 hours)"),
        (keys.unknown_kid_cooldown, "`unknown_kid_cooldown` (30 seconds)"),
        (keys.timeout, "`timeout` (2 seconds)"),
        (OPAQUE.cache_ttl, "30 seconds (`cache_ttl`)"),
    ):
        number, unit = re.findall(r"(\d+) (second|minute|hour)", quoted)[0]
        assert quoted in words(OUTAGES)
        assert seconds == int(number) * {"second": 1, "minute": 60, "hour": 3600}[unit], quoted


def test_every_alert_of_the_page_exists() -> None:
    rules = yaml.safe_load((ROOT / "helm" / "authz-service" / "alerts" / "authz-service.yaml").read_text())
    alerts = {each["alert"] for group in rules["groups"] for each in group["rules"] if "alert" in each}
    part = section(OUTAGES, "## What happens in an outage")
    assert set(re.findall(r"\[(Authz\w+)\]", part)) <= alerts


# Limits and times in the other explanations.


@pytest.mark.parametrize(
    ("name", "quoted", "value"),
    [
        ("memory", "`token_cache.max_bytes`, {} MiB", TokenCache.read({}).max_bytes >> 20),
        ("memory", "such as expired ones | {} MiB", invalid._BOUNDS.max_bytes >> 20),
        ("memory", "absent key ids, for each issuer | {:,}, of at most 256 characters", MAX_KIDS),
        ("memory", "All but the {:,} most recent tokens are packed", MAX_RECENT),
        ("memory", "for at most {} rules", WORDS[MAX_RULES]),
        ("memory", "needs more than {} times the average", WORDS[HEAVY_FACTOR]),
        ("memory", "of which there are at most {:,}", MAX_CONNECTIONS),
        ("memory", "One host has at most {} handshakes", listener._MAX_HANDSHAKES),
        ("memory", "A header list of more than {} KiB", MAX_HEADER_LIST >> 10),
        ("memory", "streams beyond {}, each connection may buffer 32 KiB", UNCOUNTED_STREAMS),
        ("memory", "each connection may buffer {} KiB", GUARANTEED >> 10),
        ("memory", "all of them together {} MiB more", SHARED >> 20),
        ("memory", "or {} KiB of header blocks", MAX_WORK >> 10),
        ("memory", "metadata of more than 256 and {} MiB", grpcio_server._MAX_METADATA_BYTES >> 20),
        ("memory", "messages or metadata of more than {} and 16 MiB", grpcio_server._MAX_MESSAGE_BYTES >> 20),
        ("opaque-tokens", "`negative_cache_ttl` ({:.0f} seconds)", OPAQUE.negative_cache_ttl),
        ("opaque-tokens", "more than {} KiB, a signature", MAX_RESPONSE >> 10),
        ("opaque-tokens", "after {} failed calls in a row", WORDS[FAILURES_TO_PROBE]),
        ("opaque-tokens", "twice as long, up to {:.0f} seconds", MAX_BACKOFF),
        ("opaque-tokens", "`Retry-After`, at most {:.0f}", introspector._MAX_RETRY_AFTER),
        ("decision", "`server.check_deadline` ({:.0f} second)", Server.read({}).check_deadline),
        ("decision", "`token_cache.max_ttl` ({:.0f} minutes)", TokenCache.read({}).max_ttl / 60),
        ("decision", "`cache_ttl` ({:.0f} seconds)", OPAQUE.cache_ttl),
        ("keys-and-outages", "Up to {} requests share one extra fetch", cache._MAX_WAITING),
        ("keys-and-outages", "Up to {} keys are always tried", MAX_FREE),
        ("keys-and-outages", "{:.0f} verifications at once", MAX_BUDGET),
        ("keys-and-outages", "{:.0f} more per second", REFILL),
        ("keys-and-outages", "at most `max_keys`, {}", Keys.read({}).max_keys),
        ("keys-and-outages", "addresses are cached for {:.0f} seconds", resolver._LOOKUP_TTL),
        ("paths", "more than {:,} characters", MAX_PATH),
    ],
)
def test_a_number_on_a_page_is_that_of_the_program(name: str, quoted: str, value: object) -> None:
    assert quoted.format(value) in words(page(f"understand/{name}"))


def test_the_comparison_and_the_memory_page_have_the_figures_of_the_last_measurement() -> None:
    measured = page("understand/performance")
    resident = float(re.findall(r"^\| serve, when ready \| ([\d.]+) ", measured, re.MULTILINE)[0])
    start = int(re.findall(r"^\| serve, 1 rule, until ready \| (\d+) ", measured, re.MULTILINE)[0])
    assert f"its memory fell to {resident:.0f} MiB and its start to {start / 1000:.2f} seconds" in words(
        page("compare")
    )
    assert f"About {5 * round(resident / 5)} MB with one issuer" in page("understand/memory")
