"""The JSON Schema of the configuration file, for editors and for programs that write one.

The schema accepts what the loader accepts. It does not cover the checks between several keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, NoDefault

from authz_service.config.model import Settings

if TYPE_CHECKING:
    from pydantic_core import core_schema


class _Generator(GenerateJsonSchema):
    """Omits titles that only repeat the key, and defaults that cannot be written."""

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
