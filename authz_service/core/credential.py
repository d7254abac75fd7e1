"""Parsing the token of a request from the one header that its rule names, by default ``Authorization: Bearer``.

Where the scheme is Bearer, DPoP (RFC 9449 section 7.1) is accepted as well: it says how the token is bound, not what it
allows.

No I/O, and no other place: not the query, a cookie or a form (RFC 9700 section 4.3.2). A header that could be read as
two credentials is malformed.
"""

from __future__ import annotations

import re
import string
from functools import cache
from typing import TYPE_CHECKING

from authz_service.core import octets
from authz_service.core.errors import Rejected
from authz_service.core.headers import cgi_name, sent_under_another_spelling
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHORIZATION = "authorization"
BEARER = "Bearer"
DPOP = "DPoP"

# Nearly every token has these characters, before padding (b64token of RFC 6750 section 2.1), and only one reading.
_PLAIN = octets.only(f"{string.ascii_letters}{string.digits}-._~+/")
_DPOP = DPOP.lower()
_CONTROL = re.compile("[\x00-\x1f\x7f]")


@cache  # small: the rules of a configuration share few schemes
def _joined(schemes: tuple[str, ...]) -> re.Pattern[str]:
    """A credential of one of these schemes after a comma: two headers joined into one."""
    return re.compile(rf",\s*(?:{'|'.join(map(re.escape, schemes))})(?:\s|,|\Z)", re.IGNORECASE)


def _is_plain(token: str) -> bool:
    unpadded = token.rstrip("=")
    return unpadded.isascii() and (encoded := unpadded.encode()) != b"" and encoded.translate(_PLAIN) == encoded


class CredentialHeader:
    """The header that holds the token, and the scheme before the token, if there is one."""

    def __init__(self, name: str = AUTHORIZATION, scheme: str | None = BEARER) -> None:
        """``name`` is in lower case. Without a ``scheme``, the whole value is the token."""
        self.name = name
        self.scheme = scheme
        self._plain_is_dpop = scheme is not None and scheme.lower() == _DPOP
        self._schemes = () if scheme is None else (scheme.lower(), _DPOP) if scheme == BEARER else (scheme.lower(),)
        self.accepts_dpop = _DPOP in self._schemes
        self._prefixes = (
            ("",) if scheme is None else (f"{scheme.title()[0]}{scheme[1:]} ", f"{scheme[0].lower()}{scheme[1:]} ")
        )
        self._prefix_length = len(self._prefixes[0])
        self._spellings = "-" in cgi_name(name)  # whether another name has the same cgi_name

    def __str__(self) -> str:
        return self.name.title() if self.scheme is None else f"{self.name.title()}: {self.scheme}"

    def value_with(self, token: str, *, dpop: bool = False) -> str:
        """The value of the header with this token; with the scheme DPoP where that is wanted and accepted."""
        scheme = DPOP if dpop and self.accepts_dpop else self.scheme
        return token if scheme is None else f"{scheme} {token}"

    def token_of(self, headers: Mapping[str, str], max_bytes: int) -> tuple[str, bool]:
        """The token of a request with these headers, by lower-case name, and whether its scheme is DPoP.

        The scheme may be in any case.

        Raises:
            Rejected: ``missing_token`` without the header or with another scheme; ``malformed_request`` for two
                credentials, an empty one, one longer than ``max_bytes``, outer whitespace, control characters, and a
                header that some servers read as this one.
        """
        if self._spellings and sent_under_another_spelling(headers, self.name):
            raise self._malformed("sent under another spelling, which some servers read as this header")
        value = headers.get(self.name)
        if value is None:
            raise Rejected(Reason.MISSING_TOKEN, f"no {self.name.title()} header")
        length = self._prefix_length
        if value[:length] in self._prefixes and len(token := value[length:]) <= max_bytes and _is_plain(token):
            return token, self._plain_is_dpop
        if _CONTROL.search(value):
            raise self._malformed("a control character")
        if value != value.strip():  # HTTP/2 carries it and other readers trim it: RFC 9113 section 8.2.1
            raise self._malformed("whitespace around the value")
        scheme, token = ("", value) if self.scheme is None else self._after_scheme(value)
        if not token:
            raise self._malformed("an empty credential")
        if "," in token or " " in token:
            raise self._malformed("more than one credential")
        if len(token) > max_bytes:
            raise self._malformed(f"{len(token)} bytes, expected at most {max_bytes} (server.max_token_bytes)")
        return token, scheme == _DPOP

    def _after_scheme(self, value: str) -> tuple[str, str]:
        """The scheme in lower case, and what follows it."""
        scheme, _, token = value.partition(" ")
        scheme = scheme.lower()
        if scheme not in self._schemes:
            if not scheme or scheme.partition(",")[0] in self._schemes or _joined(self._schemes).search(value):
                raise self._malformed("no scheme, or two credentials joined by a comma")
            raise Rejected(Reason.MISSING_TOKEN, f"the scheme of the {self.name.title()} header is not {self.scheme}")
        return scheme, token.lstrip(" ")

    def _malformed(self, what: str) -> Rejected:
        return Rejected(Reason.MALFORMED_REQUEST, f"the credential in the {self.name.title()} header: {what}")
