"""The JSON Schema of the configuration file, for editors and for whoever writes one by a program.

Law: what the loader accepts, the schema accepts; what concerns several keys, only the loader knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, NoDefault

from authz_service.config.model import Settings

if TYPE_CHECKING:
    from pydantic_core import core_schema


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat the key, and without defaults that cannot be written."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the signature is pydantic's
        return False

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        return super().get_default_value(schema) if schema.get("validate_default", True) else NoDefault


def schema() -> dict[str, Any]:
    """The schema, in draft 2020-12."""
    return {
        "$schema": _Generator.schema_dialect,
        **Settings.model_json_schema(schema_generator=_Generator),
        "title": "Configuration of authz-service",
    }
