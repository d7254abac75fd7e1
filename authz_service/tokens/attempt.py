"""What one attempt to validate a token may fetch.

A request makes up to three attempts: the first, one after its issuer's keys were fetched, and the last, which uses what
is known by then. Frozen values; nothing is fetched here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.tokens.introspection.response import IntrospectionResult


class Attempt(NamedTuple):
    """What may still be fetched, and the introspection results that were fetched for this request."""

    fetch_keys: bool = False
    introspect: bool = False
    results: Sequence[IntrospectionResult] = ()


FIRST = Attempt(fetch_keys=True, introspect=True)
AFTER_KEYS = Attempt(introspect=True)
LAST = Attempt()
