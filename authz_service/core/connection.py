"""The Connection header, which lets the next proxy take other headers away.

Law: pure. Envoy removes the header from every request but an upgrade, and forwards that one as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields and options that concern one connection (RFC 9110 section 7.6.1; HTTP2-Settings: RFC 7540 section 3.2.1).
_HOP_BY_HOP = frozenset(
    {
        *("close", "http2-settings", "keep-alive", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # anything else separates: proxies differ in what they split at
_MAX_LENGTH = 1024  # characters: headers in use have 30


def validate(headers: Mapping[str, str]) -> None:
    """Refuse a Connection header that names a field which is for the upstream.

    A proxy behind Envoy removes every field that it names (RFC 9110 section 7.6.1): the identity that was just set, or
    the header by which a rule was chosen.

    Raises:
        Rejected: ``malformed_request``.
    """
    connection = headers.get("connection")
    if connection is None:
        return
    if len(connection) > _MAX_LENGTH:
        raise Rejected(Reason.MALFORMED_REQUEST, f"a Connection header of more than {_MAX_LENGTH} characters")
    for option in _TOKEN.findall(connection.lower()):
        if option not in _HOP_BY_HOP:
            raise Rejected(Reason.MALFORMED_REQUEST, f"the Connection header names {quoted(option)}, not hop-by-hop")
