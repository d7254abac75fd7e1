"""The JSON Schemas of the configuration file and of other files in YAML, for editors and for programs that write them.

A schema accepts what the loader accepts. It does not cover the checks between several keys. The title of a key is its
place in the file, such as ``issuers[].keys.jwks_uri``, since an editor shows it beside the description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, NoDefault

from authz_service.config.model import Section, Settings

if TYPE_CHECKING:
    from pydantic_core import core_schema

_ID = "urn:authz-service:schema:"  # a name, not an address: no editor or validator fetches anything for it


class _Generator(GenerateJsonSchema):
    """Omits titles that only repeat the key, and defaults that cannot be written."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the signature is pydantic's
        return False

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        return super().get_default_value(schema) if schema.get("validate_default", True) else NoDefault


def schema() -> dict[str, Any]:
    """The schema of the configuration file."""
    return schema_of(Settings, "config", "Configuration of authz-service")


def schema_of(root: type[Section], name: str, title: str) -> dict[str, Any]:
    """The schema of a file, in draft 2020-12."""
    generated = root.model_json_schema(schema_generator=_Generator)
    _add_titles(generated, generated, "")
    return {"$schema": _Generator.schema_dialect, "$id": f"{_ID}{name}", **generated, "title": title}


def _add_titles(part: dict[str, Any], whole: dict[str, Any], place: str) -> None:
    """Give each key its place as its title, and its section's description if it has none of its own.

    A section that occurs in several places has the titles of the first one.
    """
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    for key, value in part.get("properties", {}).items():
        if "title" not in value:
            value["title"] = f"{place}.{key}".removeprefix(".")
            if "$ref" in value:
                value.setdefault("description", whole["$defs"][value["$ref"].rpartition("/")[2]]["description"])
            _add_titles(value, whole, value["title"])
    for branch in part.get("anyOf", ()):
        _add_titles(branch, whole, place)
    for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(part.get(keyword), dict):
            _add_titles(part[keyword], whole, f"{place}{mark}")
