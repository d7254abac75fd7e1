"""Parsing the bearer token in the Authorization header.

No I/O, and no other place: not the query, a cookie or a form (RFC 9700 section 4.3.2). A header that could be read as
two credentials is malformed.
"""

from __future__ import annotations

import re

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

# What nearly every credential looks like (b64token of RFC 6750 section 2.1), and which has only one reading.
_PLAIN = re.compile(r"[Bb]earer ([A-Za-z0-9\-._~+/]+=*)")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
# A Bearer credential after a comma: two Authorization headers joined into one.
_JOINED_BEARER = re.compile(r",\s*bearer(?:\s|,|\Z)", re.IGNORECASE)


def bearer_token(authorization: str | None, max_bytes: int) -> str:
    """The token in an Authorization header (RFC 6750 section 2.1) with the scheme Bearer in any case.

    Raises:
        Rejected: ``missing_token`` without the header or with another scheme; ``malformed_request`` for two
            credentials, an empty one, one longer than ``max_bytes``, outer whitespace, and control characters.
    """
    if authorization is None:
        raise Rejected(Reason.MISSING_TOKEN, "no Authorization header")
    if (plain := _PLAIN.fullmatch(authorization)) and len(plain[1]) <= max_bytes:
        return plain[1]
    if _CONTROL.search(authorization):
        raise _malformed("a control character in the Authorization header")
    if authorization != authorization.strip():  # HTTP/2 carries it and other readers trim it: RFC 9113 section 8.2.1
        raise _malformed("whitespace around the value of the Authorization header")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        if not scheme or scheme.lower().startswith("bearer,") or _JOINED_BEARER.search(authorization):
            raise _malformed("no scheme in the Authorization header, or two credentials joined by a comma")
        raise Rejected(Reason.MISSING_TOKEN, "the Authorization scheme is not Bearer")
    token = token.lstrip(" ")
    if not token:
        raise _malformed("an empty credential in the Authorization header")
    if "," in token or " " in token:
        raise _malformed("more than one credential in the Authorization header")
    if len(token) > max_bytes:
        raise _malformed(f"a credential of {len(token)} bytes, expected at most {max_bytes} (server.max_token_bytes)")
    return token


def _malformed(cause: str) -> Rejected:
    return Rejected(Reason.MALFORMED_REQUEST, cause)
