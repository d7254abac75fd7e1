"""The pages of the reference that are generated: what they contain, and that they are current."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from authz_service.config.kinds import Text, walk
from authz_service.config.load import load
from authz_service.config.model import OPERATORS, Settings
from authz_service.config.schema import schema
from authz_service.config.sections import NOT_SHOWN, SectionKind, sections_within
from authz_service.config.units import DURATION, SIZE
from authz_service.config.values import PROVIDER_HEADERS, PROXY, TENANTS
from docs_tools.configuration import anchor, parts
from docs_tools.reference import pages
from docs_tools.types import has_words
from generate import CHART, descriptions
from support.documents import ROOT, page, section

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.kinds import Kind

PAGES = pages()
CONFIGURATION = PAGES["docs/reference/configuration.md"]
KEYS = {place: key for part in parts() for place, key in [(part.place, part.key), *part.own_keys()]}


@pytest.mark.parametrize("path", PAGES)
def test_the_committed_page_is_what_make_chart_writes(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path], "run `make chart`: the page is generated"


# The configuration.

BASE: dict[str, Any] = {
    "issuers": [{"issuer": "https://idp.example.com/", "name": "main", "audiences": ["https://api.example.com/"]}],
    "rules": [{"name": "base", "match": {"paths": ["/t/{id}"]}}],
}
WITHIN: dict[str, dict[str, Any]] = {  # what a section needs
    "server.tls": {"certificate_file": "tls.crt", "key_file": "tls.key"},
    "issuers[].introspection": {"client_id": "api", "client_secret_file": "secret"},
    "issuers[].security_events": {
        "poll_endpoint": "https://idp.example.com/poll", "audience": "a", "client_id": "c", "client_secret_file": "s",
    },
    "upstream.headers.*": {"claim": "a"},
    "resources[]": {"resource": "https://api.example.com/v1"},
}  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {  # what a key needs beside it, or None where it replaces another
    "issuers[].tenants": {
        "issuer": "https://idp.example.com/{tenant}", "keys": {"jwks_uri": "https://idp.example.com/j"},
    },
    "issuers[].keys.discovery": {"jwks_uri": "https://idp.example.com/jwks.json"},
    "issuers[].keys.client_certificate_file": {"client_key_file": "client.key"},
    "issuers[].keys.client_key_file": {"client_certificate_file": "client.crt"},
    "issuers[].introspection.auth_method": {"private_key_file": "key.pem", "client_secret_file": None},
    "issuers[].introspection.private_key_file": {"auth_method": "private_key_jwt", "client_secret_file": None},
    "issuers[].introspection.bearer_token_file": {"auth_method": "bearer_token", "client_secret_file": None},
    "issuers[].security_events.private_key_file": {"client_secret_file": None},
    "issuers[].security_events.bearer_token_file": {"client_secret_file": None, "client_id": None},
    "dpop.nonce_key_file": {"nonce": "required"},
    "rules[].policy": {"match": None},
}  # fmt: skip


def placed(place: str, example: Any) -> dict[str, Any]:
    """A small configuration with the example at its place."""
    whole: dict[str, Any] = json.loads(json.dumps(BASE))
    *outer, own = place.split(".")
    at: dict[str, Any] = whole
    so_far = ""
    for step in outer:
        so_far = f"{so_far}.{step}".removeprefix(".")
        name = step.removesuffix("[]")
        if name == "*":
            at = at.setdefault("a-claim", {})
        else:
            at = at.setdefault(name, [{}])[0] if step.endswith("[]") else at.setdefault(name, {})
        at |= WITHIN.get(so_far, {})
    at |= BESIDE.get(place, {}) | {own: example}
    for key in [key for key, value in at.items() if value is None]:
        del at[key]
    return whole


@pytest.mark.parametrize("place", KEYS)
def test_every_example_loads_at_its_place(place: str, tmp_path: Path) -> None:
    example = KEYS[place].example
    assert example is not NOT_SHOWN
    whole = placed(place, example)
    (tmp_path / "config.yaml").write_text(json.dumps(whole))
    load(tmp_path / "config.yaml", look_at_files=False)
    jsonschema.Draft202012Validator(schema()).validate(whole)


@pytest.mark.parametrize("place", KEYS)
def test_an_example_is_not_the_default(place: str) -> None:
    assert KEYS[place].example != KEYS[place].default


def test_every_key_of_the_model_is_on_the_page_once() -> None:
    declared = {key for _, found in sections_within(Settings) for key in found.declared.values()}
    assert {id(key) for key in KEYS.values()} == {id(key) for key in declared}
    headings = re.findall(r"^###? `(.+)`$", CONFIGURATION, re.MULTILINE)
    assert headings == list(KEYS)


def test_every_key_has_an_anchor_of_its_own() -> None:
    anchors = [anchor(place) for place in KEYS]
    assert sorted(set(anchors)) == sorted(anchors)


@pytest.mark.parametrize("place", KEYS)
def test_a_key_has_its_type_whether_it_may_be_left_out_its_example_and_its_description(place: str) -> None:
    level = "##" if f"\n## `{place}`\n" in CONFIGURATION else "###"
    facts, *description = section(CONFIGURATION, f"{level} `{place}`").strip().split("\n\n")
    assert re.match(r"[A-Z`].+?\. (Required\.|Optional\.|Default: .+?\.)( |$)", facts)
    assert ("Example: `" in facts) == (level == "###")
    first = KEYS[place].description.partition(" Default: ")[0].partition(" `")[0]
    assert description[0].startswith(first)


def test_every_type_has_words_of_its_own() -> None:
    texts = [kind for _, kind in walk(SectionKind(Settings)) if isinstance(kind, Text)]
    assert len(texts) > 50
    generic = {PROVIDER_HEADERS.member, PROXY, *(kind for _, kind in walk(TENANTS))}
    assert [kind for kind in texts if not has_words(kind) and kind not in generic] == []


def test_the_page_names_exactly_the_operators_on_claims() -> None:
    within = "rules[].require.claims.*."
    assert [place.removeprefix(within) for place in KEYS if place.startswith(within)] == list(OPERATORS)


@pytest.mark.parametrize(("name", "kind"), [("duration", DURATION), ("size", SIZE)])
def test_the_page_names_the_units_and_shows_values_with_them(name: str, kind: Kind[Any]) -> None:
    (row,) = re.findall(rf"^\| {name} \| (.*) \|$", CONFIGURATION, re.MULTILINE)
    units, _, values = row.partition(": ")
    for unit in re.findall("`(.*?)`", units):
        assert kind.accepts(f"1{unit}")
    for value in (shown := re.findall("`(.*?)`", values)):
        assert kind.accepts(value)
    assert len(shown) >= 3


# The chart's values.

CHART_PAGE = PAGES["docs/reference/chart.md"]


def test_every_value_of_the_chart_has_a_heading_with_an_anchor_of_its_own() -> None:
    headings = re.findall(r"^### `(.+)`$", CHART_PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(".".join(path) for path in descriptions())
    titles = re.findall(r"^#+ (.+)$", CHART_PAGE, re.MULTILINE)
    anchors = [anchor(title.lower().replace(" ", "-")) for title in titles]
    assert sorted(set(anchors)) == sorted(anchors)


def test_a_value_has_its_type_its_default_and_its_description() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, description in descriptions().items():
        text = section(CHART_PAGE, f"### `{'.'.join(path)}`").strip()
        facts, _, described = text.partition("\n\n")
        assert described.strip() == description
        default = defaults
        for key in path:
            default = default[key]
        if facts != "Section.":
            shown = re.fullmatch(r"[A-Z`].*?\. Default: `(.*)`\.", facts)
            assert shown, facts
            assert yaml.safe_load(shown[1]) == default


# The changelog.


def test_the_changelog_works_on_the_site_too() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.startswith("# Changelog\n\n")
    assert '\n--8<-- "CHANGELOG.md:3:"\n' in page("reference/changelog")
    links = re.findall(r"\]\(([^)]*)\)", changelog)
    assert links
    assert all(link.startswith("https://") for link in links)
