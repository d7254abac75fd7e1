"""Converts a method, URL and headers to the attributes that Envoy would send.

The URL is taken literally. Everything after the host is the request target, since a library that normalizes URLs would
hide the ambiguous paths that are worth testing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from authz_service.core.attributes import Attributes
from authz_service.core.credential import CredentialHeader
from authz_service.core.errors import Rejected
from authz_service.core.headers import combined

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.rules.policy import Policy, Rule

_URL = re.compile(r"https?://([^/?#]+)(.*)", re.DOTALL | re.IGNORECASE)


def attributes_of(method: str, url: str, headers: Iterable[tuple[str, str]], policy: str = "") -> Attributes:
    """The attributes of a request. The values of a repeated header are joined as Envoy joins them.

    Raises:
        ValueError: if the URL is not absolute; the message does not repeat it.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("the URL must be absolute: write https://host/path")
    host, target = match[1], match[2]
    if not target.startswith("/"):
        target = f"/{target}"  # clients send https://host and https://host?query with a /
    return Attributes(method, host, target, combined(headers), policy)


def rule_of(attributes: Attributes, policy: Policy) -> Rule | None:
    """The rule that decides the request, if one does."""
    try:
        return policy.choose(attributes, policy.split(attributes.path))
    except Rejected:
        return None


def with_token(attributes: Attributes, token: str, policy: Policy) -> Attributes:
    """The request with this token where its rule reads it, or in Authorization if no rule matches.

    If the request has a DPoP proof, the scheme is DPoP where the rule accepts it.
    """
    rule = rule_of(attributes, policy)
    credential = CredentialHeader() if rule is None else rule.credential
    value = credential.value_with(token, dpop="dpop" in attributes.headers)
    return attributes._replace(headers=combined([*attributes.headers.items(), (credential.name, value)]))
