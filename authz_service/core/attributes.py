"""The attributes of one request that take part in its decision.

Header names are lower-case, and the values of a repeated header are combined (``headers.combined``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Attributes(NamedTuple):
    """One request as Envoy received it. Any part may be empty: Envoy is trusted, what it relays is not."""

    method: str
    host: str  # as sent: in any case, perhaps with a port or a trailing dot
    path: str  # the request target as sent, query included
    headers: Mapping[str, str]
    policy: str = ""  # the rule that Envoy's configuration names for the route, if any
    certificate: str = ""  # the client certificate as Envoy sends it: URL-encoded PEM, from include_peer_certificate
    traceparent: str = ""  # of the call itself, by an Envoy that traces
    plain_names: bool = False  # whether the names of the headers are known to be plain (``headers.are_plain``)
