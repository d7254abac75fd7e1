"""The text of a first configuration is valid, whatever the issuer publishes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config import document
from authz_service.config.load import load
from authz_service.config.model import Keys, Settings
from authz_service.config.values import PLACEHOLDER_AUDIENCE, is_scope
from authz_service.config.warnings import warnings
from authz_service.initial_config.text import configuration
from support.published import EVERYTHING

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.initial_config.published import Published

NOTHING = EVERYTHING._replace(
    algorithms=(), scopes=(), auth_method=None, dpop_algorithms=(), binds_to_certificates=False, polls_events=False
)


def read(text: str) -> Settings:
    parsed = document.parse(text.encode())
    assert not parsed.problems
    return Settings.read(parsed.value)


def with_settings_turned_on(text: str) -> str:
    """Without the # before settings."""
    text = text.replace("    audiences:", "    name: main\n    audiences:", 1)
    return re.sub(r"^( *)#(?=[^ ])", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("published", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_it_has_what_the_issuer_publishes(published: Published) -> None:
    settings = read(configuration(published, Keys(), "https://api.example.com/"))
    (issuer,) = settings.issuers
    assert (issuer.issuer, issuer.audiences) == ("https://idp.example.com/", ("https://api.example.com/",))
    assert set(issuer.algorithms) == {"RS256", "ES256"} or not published.algorithms
    assert issuer.introspection is None
    assert issuer.security_events is None
    assert settings.dpop is None
    assert [rule.name for rule in settings.rules] == ["health", "api"]
    assert list(warnings(settings)) == []


def test_without_an_audience_the_placeholder_causes_a_warning() -> None:
    settings = read(configuration(EVERYTHING, Keys(), None))
    (warning,) = warnings(settings)
    assert warning.where == ("issuers", 0, "audiences", 0)
    assert "write the aud of the access tokens" in warning.text
    assert settings.issuers[0].audiences == (PLACEHOLDER_AUDIENCE,)


@pytest.mark.parametrize("method", ["client_secret_basic", "private_key_jwt", "bearer_token"])
def test_every_setting_that_is_turned_off_can_be_turned_on(method: str, tmp_path: Path) -> None:
    text = with_settings_turned_on(configuration(EVERYTHING._replace(auth_method=method), Keys(), "api"))
    text = text.replace("https://STREAM", "https://idp.example.com/stream").replace("AUDIENCE", "api")
    (tmp_path / "config.yaml").write_text(text)
    settings = load(tmp_path / "config.yaml", look_at_files=False)
    issuer = settings.issuers[0]
    assert issuer.introspection is not None
    assert issuer.introspection.auth_method == method
    assert issuer.security_events is not None
    assert settings.dpop is not None
    assert settings.dpop.algorithms == ("ES256", "EdDSA")
    assert settings.rules[1].require.scopes.all == ("read:orders",)
    assert "mtls" in settings.written


def test_what_was_needed_to_reach_the_issuer_is_in_the_file(tmp_path: Path) -> None:
    keys = Keys.read({"ca_file": str(tmp_path / "ca: 1.pem"), "allow_http": True})
    written = read(configuration(EVERYTHING, keys, "api")).issuers[0].keys
    assert (written.ca_file, written.allow_http) == (tmp_path / "ca: 1.pem", True)


def test_announced_scopes_are_listed_as_comments_without_those_of_openid_and_within_bounds() -> None:
    scopes = ("openid", "email", "a" * 101, *(f"scope:{number}" for number in range(100)))
    text = configuration(EVERYTHING._replace(scopes=scopes), Keys(), "api")
    assert re.findall(r"^    #   (\S+)$", text, re.MULTILINE) == [f"scope:{number}" for number in range(40)]
    assert "    #   and 60 more\n" in text
    assert '#require: {scopes: ["scope:0"]}' in text or "#require: {scopes: [scope:0]}" in text


def test_the_scopes_of_every_keycloak_realm_are_not_suggested() -> None:
    scopes = ("service_account", "roles", "web-origins", "openid", "orders", "acr", "basic", "microprofile-jwt")
    assert "#   orders\n    #require: {scopes: [orders]}\n" in configuration(
        EVERYTHING._replace(scopes=scopes), Keys(), "api"
    )
    text = configuration(EVERYTHING._replace(scopes=("roles", "basic")), Keys(), "api")  # scopes of an API elsewhere
    assert "#   roles\n    #   basic\n" in text


_PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40)
_AUDIENCES = _PRINTABLE.filter(lambda text: not set(text) & set("{}*") and text.isprintable())
_SCOPES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40).filter(is_scope)


@given(audience=_AUDIENCES, scopes=st.lists(_SCOPES, max_size=5), jwks_uri=st.text(max_size=60))
def test_no_foreign_string_changes_anything_else_in_the_file(audience: str, scopes: list[str], jwks_uri: str) -> None:
    plain: Any = yaml.safe_load(configuration(EVERYTHING, Keys(), "api"))
    text = configuration(EVERYTHING._replace(scopes=tuple(scopes), jwks_uri=jwks_uri), Keys(), audience)
    assert read(text).issuers[0].audiences == (audience,)
    value: Any = yaml.safe_load(text)
    assert value["issuers"][0].pop("audiences") == [audience]
    assert plain["issuers"][0].pop("audiences") == ["api"]
    assert value == plain


@given(folder=st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=30))
def test_a_folder_with_any_name_is_written_so_that_it_reads_back(folder: str) -> None:
    keys = Keys.read({"ca_file": f"/{folder}/ca.pem"})
    assert read(configuration(EVERYTHING, keys, "api")).issuers[0].keys.ca_file == keys.ca_file
