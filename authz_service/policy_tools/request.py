"""A request as a person writes it, as the attributes that Envoy would hand over.

Law: taken literally. What is written after the host is the request target, to the octet: a library that mends URLs
would hide the very paths that one wants to ask about.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from authz_service.core.attributes import Attributes
from authz_service.core.headers import combined

if TYPE_CHECKING:
    from collections.abc import Iterable

_URL = re.compile(r"https?://([^/?#]+)(.*)", re.DOTALL | re.IGNORECASE)


def attributes_of(method: str, url: str, headers: Iterable[tuple[str, str]], policy: str = "") -> Attributes:
    """The attributes of a request. Headers that come more than once have their values joined, as Envoy joins them.

    Raises:
        ValueError: when the URL is none; the text does not repeat it.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("the URL must be absolute: write https://host/path")
    host, target = match[1], match[2]
    if not target.startswith("/"):
        target = f"/{target}"  # as every client sends it, for https://host and https://host?query
    return Attributes(method, host, target, combined(headers), policy)
