"""What Envoy tells about one request, as far as it takes part in the decision.

Law: a frozen value, made by a transport's mapping and read by everything below it. Header names are lower-case; a
header that came more than once stands once, its values joined by commas as RFC 9110 section 5.3 reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Attributes:
    """One request as Envoy saw it. Any part may be empty: the peer is trusted, what it relays is not."""

    method: str
    host: str  # as sent: any case, perhaps with a port or a trailing dot
    path: str  # the request target as sent, query included
    headers: Mapping[str, str]
    policy: str = ""  # what the proxy's own configuration chose for the route; "" where it chose nothing
