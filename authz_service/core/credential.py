"""Taking the one bearer token out of the Authorization header.

Law: pure. A token is taken from nowhere else: not from the query, a cookie or a form (RFC 9700 section 4.3.2). What
could be read as two credentials is refused rather than guessed at.
"""

from __future__ import annotations

import re

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

# What nearly every credential looks like (b64token of RFC 6750 section 2.1): nothing in it can be read in two ways.
_PLAIN = re.compile(r"[Bb]earer ([A-Za-z0-9\-._~+/]+=*)")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f]")
# A Bearer credential somewhere behind a comma: the trace of two Authorization headers joined into one.
_JOINED_BEARER = re.compile(r",\s*bearer(?:\s|,|\Z)", re.IGNORECASE)


def bearer_token(authorization: str | None, max_bytes: int) -> str:
    """The token in an Authorization header (RFC 6750 section 2.1), whose scheme may be in any case.

    ``max_bytes`` bounds the token's length.

    Raises:
        Rejected: ``missing_token`` without the header or with another scheme; ``malformed_request`` for two
            credentials, an empty or oversized one, outer whitespace, and control characters.
    """
    if authorization is None:
        raise Rejected(Reason.MISSING_TOKEN, "no Authorization header")
    if (plain := _PLAIN.fullmatch(authorization)) and len(plain[1]) <= max_bytes:
        return plain[1]
    if _UNPRINTABLE.search(authorization):
        raise Rejected(Reason.MALFORMED_REQUEST, "a control character in the Authorization header")
    if authorization != authorization.strip():  # which HTTP/2 carries, and others trim: RFC 9113 section 8.2.1
        raise Rejected(Reason.MALFORMED_REQUEST, "whitespace around the value of the Authorization header")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        if not scheme or scheme.lower().startswith("bearer,") or _JOINED_BEARER.search(authorization):
            raise Rejected(Reason.MALFORMED_REQUEST, "no scheme, or two credentials joined, one of them a bearer token")
        raise Rejected(Reason.MISSING_TOKEN, "an Authorization scheme other than Bearer")
    token = token.lstrip(" ")
    if not token:
        raise Rejected(Reason.MALFORMED_REQUEST, "an empty credential")
    if "," in token or " " in token:
        raise Rejected(Reason.MALFORMED_REQUEST, "more than one credential")
    if len(token) > max_bytes:
        raise Rejected(Reason.MALFORMED_REQUEST, "the credential is larger than max_token_bytes")
    return token
