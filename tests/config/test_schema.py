"""The JSON Schema accepts what the loader accepts, and shows every default as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from authz_service.cli import main
from authz_service.config.model import Settings
from authz_service.config.schema import schema
from authz_service.config.sections import Section
from authz_service.config.server import Server
from authz_service.policy_tools import cases

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = Path(__file__).parent / "examples"
SCHEMA = schema()


def section(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][name]
    return found


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    return resolved(section(part["$ref"].rpartition("/")[2])) if "$ref" in part else part


TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "boolean": bool, "integer": int, "number": float, "array": list, "object": dict, "null": type(None),
}  # fmt: skip


def accepts(part: dict[str, Any], value: Any) -> bool:
    """The subset of JSON Schema that this schema uses."""
    part = resolved(part)
    if "anyOf" in part:
        return any(accepts(branch, value) for branch in part["anyOf"])
    allowed = [part["const"]] if "const" in part else part.get("enum", [value])
    if not isinstance(value, TYPES[part["type"]]) or value not in allowed:
        return False
    match value:
        case str():
            return re.search(part.get("pattern", ""), value) is not None
        case list():
            return len(value) >= part.get("minItems", 0) and all(accepts(part["items"], item) for item in value)
        case dict():
            return set(part.get("required", ())) <= value.keys() and all(_member(part, *each) for each in value.items())
        case _:
            return True


def _member(part: dict[str, Any], key: str, value: Any) -> bool:
    known = part.get("properties", {}).get(key, part["additionalProperties"])
    return known is not False and accepts(known, value)


def test_it_is_a_draft_2020_12_schema_with_a_title() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "Configuration of authz-service"
    assert SCHEMA["required"] == ["issuers", "rules"]
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("name", ["complete.yaml", "rules.yaml"])
def test_the_schema_accepts_what_the_loader_accepts(name: str) -> None:
    assert accepts(SCHEMA, yaml.safe_load((EXAMPLES / name).read_text()))


def test_the_schema_refuses_a_file_with_mistakes() -> None:
    assert not accepts(SCHEMA, yaml.safe_load((EXAMPLES / "many_mistakes.yaml").read_text()))


def test_every_section_refuses_unknown_keys() -> None:
    assert all(part["additionalProperties"] is False for part in (SCHEMA, *SCHEMA["$defs"].values()))


@pytest.mark.parametrize("whole", [SCHEMA, cases.schema()], ids=["config", "cases"])
def test_every_section_and_every_key_has_a_title_and_a_description(whole: dict[str, Any]) -> None:
    for part in (whole, *whole["$defs"].values()):
        assert part["description"]
        assert part["title"]
        for name, key in part["properties"].items():
            assert key["description"], name
            assert key["title"].rpartition(".")[2] == name


def test_the_title_of_a_key_is_its_place_in_the_file() -> None:
    assert SCHEMA["properties"]["server"]["title"] == "server"
    assert section("Keys")["properties"]["jwks_uri"]["title"] == "issuers[].keys.jwks_uri"
    assert section("Alternative")["properties"]["scopes"]["title"] == "rules[].require.any_of[].scopes"
    assert section("ClaimCondition")["properties"]["in"]["title"] == "rules[].require.claims.*.in"


@pytest.mark.parametrize(("name", "written"), [("config", SCHEMA), ("cases", cases.schema())])
def test_the_committed_schemas_are_those_of_the_program(name: str, written: dict[str, Any]) -> None:
    committed = (ROOT / "docs" / "schema" / f"{name}.json").read_text()
    assert committed == json.dumps(written, indent=2) + "\n", "run `make chart`, and commit what it writes"
    assert written["$id"] == f"urn:authz-service:schema:{name}"
    jsonschema.Draft202012Validator.check_schema(written)


VALIDATORS = {
    "config": jsonschema.Draft202012Validator(SCHEMA),
    "cases": jsonschema.Draft202012Validator(cases.schema()),
}
# Values of the chart have the chart's schema, which Helm holds them to.
YAML_EXAMPLES = [file for file in sorted((ROOT / "examples").glob("*/*.yaml")) if file.name != "values.yaml"]


@pytest.mark.parametrize("file", YAML_EXAMPLES, ids=[f"{file.parent.name}/{file.name}" for file in YAML_EXAMPLES])
def test_every_example_names_its_schema_for_editors_and_is_valid_by_it(file: Path) -> None:
    text = file.read_text()
    mark, _, path = text.partition("\n")[0].partition("=")
    assert mark == "# yaml-language-server: $schema"
    assert (file.parent / path).resolve() == ROOT / "docs" / "schema" / f"{file.stem}.json"
    assert list(VALIDATORS[file.stem].iter_errors(yaml.safe_load(text))) == []


URL = "https://a.example/"
MISTAKES: dict[str, list[tuple[str, Any]]] = {
    "config": [
        ("issuers", []),
        ("isuers", []),
        ("server", {"grpc_address": 9191}),
        ("server", {"workers": 0}),
        ("rules", [{"name": "a", "require": {"scopes": "a b"}}]),
        ("rules", [{"name": "a", "match": {"paths": "/"}}]),
        ("logging", {"level": "loud"}),
        ("token_cache", {"max_ttl": 5}),
    ],
    "cases": [
        ("cases", []),
        ("case", []),
        ("cases", [{"name": "a", "request": {"url": URL}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "expect": {}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "expect": {"reason": "no_reason"}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "expect": {"decison": "deny"}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "expect": {"status": "401"}}]),
        ("cases", [{"name": "a", "request": {}, "expect": {"decision": "deny"}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "token": {"sub": "x"}, "expect": {"rule": "-"}}]),
        ("cases", [{"name": "a", "request": {"url": URL}, "proof": "x", "expect": {"status": 1}}]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "key", "value"), [(kind, key, value) for kind, mistakes in MISTAKES.items() for key, value in mistakes]
)
def test_schema_and_program_refuse_the_same_mistakes(kind: str, key: str, value: Any, tmp_path: Path) -> None:
    folder = ROOT / "examples" / "mcp"
    content = yaml.safe_load((folder / f"{kind}.yaml").read_text()) | {key: value}
    assert not VALIDATORS[kind].is_valid(content)
    (tmp_path / f"{kind}.yaml").write_text(json.dumps(content))
    files = {"config": folder / "config.yaml", "cases": folder / "cases.yaml"} | {kind: tmp_path / f"{kind}.yaml"}
    assert main(["test", "--config", str(files["config"]), str(files["cases"])]) == 2


@pytest.mark.parametrize(
    ("name", "key", "default"),
    [
        ("Server", "check_deadline", "1s"),
        ("Server", "max_request_bytes", "1MiB"),
        ("Keys", "outage_tolerance", "24h"),
        ("Keys", "max_bytes", "512KiB"),
        ("Keys", "discovery", True),
        ("Issuer", "algorithms", ["RS256", "PS256", "ES256", "EdDSA", "Ed25519", "Ed448"]),
        ("Issuer", "max_token_age", None),
        ("TokenCache", "max_ttl", "5m"),
    ],
)
def test_a_default_is_shown_as_it_is_written(name: str, key: str, default: object) -> None:
    assert section(name)["properties"][key]["default"] == default


def test_every_default_could_be_written() -> None:
    for part in SCHEMA["$defs"].values():
        for key, value in part["properties"].items():
            assert "default" not in value or accepts(value, value["default"]), key


def test_only_a_key_with_the_default_null_accepts_null() -> None:
    nullable = {
        f"{name}.{key}"
        for name, part in SCHEMA["$defs"].items()
        for key, value in part["properties"].items()
        if accepts(value, None)
    }
    keys = ("ca_file", "metadata_url", "bearer_token_file", "client_certificate_file", "client_key_file")
    others = {
        "Issuer.max_token_age",
        "IntrospectionSettings.endpoint",
        "SecurityEventsSettings.token_endpoint",
        "DpopSettings.nonce_key_file",
    }
    assert nullable == others | {f"Keys.{key}" for key in keys}


def test_scopes_are_a_list_or_a_mapping() -> None:
    scopes = section("Require")["properties"]["scopes"]
    assert accepts(scopes, ["a"])
    assert accepts(scopes, {"all": ["a"], "any": [], "none": ["b"]})
    assert not accepts(scopes, "a")
    assert not accepts(scopes, {"some": ["a"]})


def test_files_are_strings_and_durations_have_a_pattern() -> None:
    assert section("Tls")["properties"]["key_file"]["type"] == "string"
    timeout = section("Keys")["properties"]["timeout"]
    assert accepts(timeout, "250ms")
    assert not accepts(timeout, "250")
    assert not accepts(timeout, 250)


def test_it_has_each_section_of_the_model() -> None:
    sections = [*Section.__subclasses__()]
    for each in sections:
        sections += each.__subclasses__()
    modules = {Settings.__module__, Server.__module__}
    names = {each.__name__ for each in sections if each.__module__ in modules}
    assert names == SCHEMA["$defs"].keys() | {"Settings"}


def test_every_key_has_its_description_and_an_example_that_editors_show() -> None:
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    for name, part in ((name, part) for each in sections for name, part in each["properties"].items()):
        assert part["description"], name
        assert len(part["examples"]) == 1, name
        assert accepts(part, part["examples"][0]), name
