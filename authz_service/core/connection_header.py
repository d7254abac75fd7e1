"""Validation of the Connection header, by which a request can make the next proxy remove other headers.

Envoy removes the header from every request except an upgrade, and forwards that one unchanged.
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
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # everything else separates: proxies differ in where they split
_MAX_LENGTH = 1024  # characters; real ones have about 30


def validate(headers: Mapping[str, str]) -> None:
    """Refuse a Connection header that names an end-to-end header.

    A proxy behind Envoy removes every header that it names (RFC 9110 section 7.6.1): the identity that was just set, or
    the header that selected the rule.

    Raises:
        Rejected: ``malformed_request``.
    """
    value = headers.get("connection")
    if value is None:
        return
    if len(value) > _MAX_LENGTH:
        raise Rejected(
            Reason.MALFORMED_REQUEST, f"the Connection header has {len(value)} characters, at most {_MAX_LENGTH}"
        )
    for option in _TOKEN.findall(value.lower()):
        if option not in _HOP_BY_HOP:
            raise Rejected(
                Reason.MALFORMED_REQUEST, f"the Connection header names {quoted(option)}, which is not hop-by-hop"
            )
