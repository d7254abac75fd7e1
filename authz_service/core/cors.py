"""Recognition of a CORS preflight, which a browser sends without credentials before a cross-origin request.

Only what a browser sends is recognized (Fetch standard, section 4.8). A preflight may pass without a token, so it must
contain nothing that an upstream could take for another request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from authz_service.core.headers import AmbiguousHeaderError, cgi_name, value_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from authz_service.core.attributes import Attributes

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # a method, RFC 9110 section 9.1
_ORIGIN = r"[!-~]+"  # one serialized origin or null, RFC 6454 section 7.1
_AUTHORIZATION = frozenset({"authorization"})
# With these an upstream may treat an OPTIONS request as one of another method.
_METHOD_OVERRIDES = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})


def is_preflight(attributes: Attributes, credentials: Collection[str] = _AUTHORIZATION) -> bool:
    """Whether the request is a CORS preflight: one origin, one requested method, and no credential.

    ``credentials`` are the ``cgi_name`` of each header that may hold one.
    """
    headers = attributes.headers
    if attributes.method != "OPTIONS":
        return False
    if any(name in _METHOD_OVERRIDES or name in credentials for name in map(cgi_name, headers)):
        return False
    try:
        origin, method = value_of(headers, "origin"), value_of(headers, "access-control-request-method")
    except AmbiguousHeaderError:
        return False
    return bool(origin and re.fullmatch(_ORIGIN, origin) and method and re.fullmatch(_TOKEN, method))
