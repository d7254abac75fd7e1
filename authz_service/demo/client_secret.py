"""How a client shows its secret to the development identity provider (RFC 6749 section 2.3.1).

Law: compared in constant time, in the header or in the form, and never shown again.
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


def shows(request: web.Request, form: Mapping[str, object], client_id: str, secret: str) -> bool:
    """Whether the request shows that it is this client's."""
    known = f"{client_id}:{secret}"
    shown = (_in_header(request.headers.get("Authorization", "")), _in_form(form))
    return any(hmac.compare_digest(each.encode(), known.encode()) for each in shown)


def _in_header(authorization: str) -> str:
    """What stands in a Basic credential, whose two halves are form-urlencoded, since either may hold a colon."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return f"{unquote_plus(client_id)}:{unquote_plus(secret)}"


def _in_form(form: Mapping[str, object]) -> str:
    return f"{form.get('client_id', '')}:{form.get('client_secret', '')}"
