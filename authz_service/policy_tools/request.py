"""Converts a method, URL and headers to the attributes that Envoy would send.

The URL is taken literally. Everything after the host is the request target, since a library that normalizes URLs would
hide the ambiguous paths that are worth testing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from authz_service.core import paths
from authz_service.core.attributes import Attributes
from authz_service.core.credential import CredentialHeader
from authz_service.core.errors import Rejected
from authz_service.core.headers import combined

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.rules.policy import Policy

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


def with_token(attributes: Attributes, token: str, policy: Policy) -> Attributes:
    """The request with this token where its rule reads it, or as a bearer token if no rule matches."""
    try:
        rule = policy.choose(attributes, paths.split(attributes.path))
    except Rejected:
        rule = None
    credential = CredentialHeader() if rule is None else rule.credential
    sent = (credential.name, credential.value_with(token))
    return replace(attributes, headers=combined([*attributes.headers.items(), sent]))
