"""The confirmation of a token: what its sender must prove to possess (``cnf``, RFC 7800). Pure.

Two methods are supported: a key that signs DPoP proofs (RFC 9449 section 6.1), and the client certificate of mutual TLS
(RFC 8705 section 3.1). A token with any other is refused, since nothing could verify it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from authz_service.core import base64url
from authz_service.core.errors import Rejected, quoted
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST_SIZE = hashlib.sha256().digest_size
_SUPPORTED = frozenset({"jkt", "x5t#S256"})
# Keycloak's member beside jkt, for the kind of its key. With another value, it is a key that signs no DPoP proofs.
_DPOP_KEY = ("kc-jkt-type", "DPoP")


class Confirmation(NamedTuple):
    """What the sender must prove, as SHA-256 digests. Each that is present must be proven."""

    jkt: bytes | None = None  # of the public key of the DPoP proofs (RFC 7638)
    x5t_s256: bytes | None = None  # of the client certificate in DER


# The confirmation of tokens that are taken as bearer tokens although they have one. Another object may equal it.
IGNORED: Final = Confirmation()


def confirmation_of(claims: Mapping[str, Any]) -> Confirmation | None:
    """The confirmation in a token's claims; None if the token is not bound to its sender.

    Raises:
        Rejected: ``invalid_claim`` or ``unsupported_confirmation``.
    """
    if "cnf" not in claims:
        return None
    members = claims["cnf"]
    if not isinstance(members, dict):
        raise Rejected(Reason.INVALID_CLAIM, "claim cnf is not an object")
    unsupported = sorted(members.keys() - _SUPPORTED)
    if unsupported and "jkt" in members and _DPOP_KEY in members.items():
        unsupported.remove(_DPOP_KEY[0])
    if unsupported or not members:
        found = f"has {quoted(unsupported)}" if unsupported else "is empty"
        raise Rejected(Reason.UNSUPPORTED_CONFIRMATION, f"claim cnf {found}; supported are jkt and x5t#S256")
    return Confirmation(_digest(members, "jkt"), _digest(members, "x5t#S256"))


def _digest(members: Mapping[str, Any], name: str) -> bytes | None:
    if name not in members:
        return None
    value = members[name]
    try:
        digest = base64url.decode(value) if isinstance(value, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_SIZE:
        raise Rejected(Reason.INVALID_CLAIM, f"cnf.{name} is not a SHA-256 digest in base64url")
    return digest
