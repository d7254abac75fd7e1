"""Client authentication at the development identity provider (RFC 6749 section 2.3.1).

Secrets are compared in constant time, from the Authorization header or the form, and never logged.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web


def is_authenticated(request: web.Request, form: Mapping[str, object], client_id: str, secret: str) -> bool:
    """Whether the request carries this client's secret."""
    expected = f"{client_id}:{secret}"
    presented = (_from_header(request.headers.get("Authorization", "")), _from_form(form))
    return any(hmac.compare_digest(each.encode(), expected.encode()) for each in presented)


def _from_header(authorization: str) -> str:
    """The Basic credential. Both halves are form-urlencoded, because either may contain a colon."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return f"{unquote_plus(client_id)}:{unquote_plus(secret)}"


def _from_form(form: Mapping[str, object]) -> str:
    return f"{form.get('client_id', '')}:{form.get('client_secret', '')}"
