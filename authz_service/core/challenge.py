"""A challenge: one value of WWW-Authenticate (RFC 9110 section 11.6.1).

Its parameters are those of RFC 6750 section 3, RFC 9470 section 3, RFC 9449 section 7.1, and RFC 9728 section 5.1.

Its strings come from the closed list of reasons and from the configuration. A request can contribute only a segment of
its path, if a rule's scope refers to it, and only as a scope-token.
"""

from __future__ import annotations

import re

from authz_service.core.credential import DPOP

_NOT_IN_QUOTED_STRING = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


def quote(text: str) -> str:
    """A quoted-string (RFC 9110 section 5.6.4) that reads back as ``text``.

    Controls that a quoted-string cannot contain become spaces, so that nothing can end the header's line.
    """
    text = _NOT_IN_QUOTED_STRING.sub(" ", text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def challenge(
    scheme: str,
    realm: str,
    *,
    error: str | None = None,
    description: str | None = None,
    scope: str | None = None,
    max_age: str | None = None,
    acr_values: str | None = None,
    algs: str | None = None,
    resource_metadata: str | None = None,
) -> str:
    """``Bearer realm="..."``, or another scheme, with the given parameters.

    ``scope``, ``acr_values`` and ``algs`` are separated by spaces, ``max_age`` is in whole seconds. Of DPoP, the error
    comes first, as in RFC 9449: clients find it only there.
    """
    errors = ("error", error), ("error_description", description)
    parameters = (
        *((*errors, ("realm", realm)) if scheme == DPOP else (("realm", realm), *errors)),
        ("scope", scope),
        ("max_age", max_age),
        ("acr_values", acr_values),
        ("algs", algs),
        ("resource_metadata", resource_metadata),
    )
    return f"{scheme} " + ", ".join(f"{name}={quote(value)}" for name, value in parameters if value is not None)
