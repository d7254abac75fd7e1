"""Parses a JSON object that a provider or a file supplies."""

from __future__ import annotations

import codecs
from typing import Any

from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed


def parse(data: bytes, what: str) -> dict[str, Any]:
    """Parse strictly. ``what`` names the document in the error.

    A byte order mark at the start is ignored (RFC 8259 section 8.1). In a token, it is an error.

    Raises:
        FetchFailed: if it is not a JSON object, or if parsers may read it differently.
    """
    try:
        value = strict_json.loads(data.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise FetchFailed(f"{what} is not strict JSON: {error}") from None
    if not isinstance(value, dict):
        raise FetchFailed(f"{what} is not a JSON object")
    return value
