"""Issuers of one form that share their keys: ``https://login.example.com/{tenantid}/v2.0``.

Pure. The braces are exactly one whole segment of the path. What they match is one segment that no two readers of a URL
could read differently.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")  # unreserved characters (RFC 3986 section 2.3)
_TEMPLATE = r"(https?://[^/{}*]+/(?:[^{}*]*/)?)\{([A-Za-z_][A-Za-z0-9_]*)\}((?:/[^{}*]*)?)"
_MARKS = frozenset("{}*")


class IssuerTemplate(NamedTuple):
    """A parsed template, with the tenants that are accepted."""

    prefix: str
    name: str  # within the braces
    suffix: str
    tenants: frozenset[str] | None = None  # None: any

    def tenant_of(self, iss: str) -> str | None:
        """The tenant in an issuer of this form; None if it has another form, or its tenant is not accepted."""
        if not (iss.startswith(self.prefix) and iss.endswith(self.suffix)):
            return None
        tenant = iss[len(self.prefix) : len(iss) - len(self.suffix)]
        return tenant if self._accepts(tenant) else None

    def _accepts(self, segment: str) -> bool:
        return TENANT.fullmatch(segment) is not None and (self.tenants is None or segment in self.tenants)

    def filled(self, tenant: str) -> str:
        """The issuer of a tenant."""
        return f"{self.prefix}{tenant}{self.suffix}"

    def overlaps(self, other: IssuerTemplate) -> bool:
        """Whether an issuer can have both forms."""
        mine, theirs = self._segments(), other._segments()
        return len(mine) == len(theirs) and all(self._both(other, *pair) for pair in zip(mine, theirs, strict=True))

    def _segments(self) -> list[str | None]:
        """The segments of the URL; None for the tenant."""
        return [*self.prefix.split("/")[:-1], None, *self.suffix.split("/")[1:]]

    def _both(self, other: IssuerTemplate, mine: str | None, theirs: str | None) -> bool:
        """Whether a segment can be both."""
        if mine is None and theirs is None:
            return self.tenants is None or other.tenants is None or not self.tenants.isdisjoint(other.tenants)
        if mine is None:
            return theirs is not None and self._accepts(theirs)
        return mine == theirs if theirs is not None else other._accepts(mine)


def parse_issuer_template(issuer: str) -> IssuerTemplate | None:
    """The template in an issuer of the configuration; None if there is none.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    if _MARKS.isdisjoint(issuer):
        return None
    parts = re.fullmatch(_TEMPLATE, issuer)
    if parts is None:
        raise ValueError(
            "has a brace or a *, which can only be one whole segment of the path: write one {name}, as in "
            "https://login.example.com/{tenantid}/v2.0"
        )
    return IssuerTemplate(parts[1], parts[2], parts[3])
