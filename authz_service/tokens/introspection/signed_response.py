"""Verifying a signed introspection response (RFC 9701).

It must be signed by the issuer's keys, be addressed to this client, and be of the type for introspection responses, so
that no other JWT of the issuer passes for one. Error messages quote nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from authz_service.core.errors import FetchFailed, Rejected
from authz_service.keys.cache import NoKey
from authz_service.keys.trials import Exhausted
from authz_service.tokens.jwt import jws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.config.model import Issuer
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.jwk import Key
    from authz_service.tokens.jwt.jws import Jws

MEDIA_TYPE: Final = "application/token-introspection+jwt"
_TYPES = frozenset({"token-introspection+jwt", MEDIA_TYPE})  # section 5


class SignedResponseVerifier:
    """Verifies the signed responses of one issuer's server to one client."""

    def __init__(self, issuer: Issuer, client_id: str, keys: KeyCache, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds since the epoch."""
        self._issuer = issuer
        self._client_id = client_id
        self._keys = keys
        self._clock = clock

    async def verify(self, body: bytes) -> Mapping[str, Any]:
        """The introspection response in a signed one.

        Raises:
            FetchFailed: if it is not the issuer's, not for this client, or no introspection response.
        """
        try:
            response = jws.parse(body.decode("ascii"))
        except (UnicodeDecodeError, Rejected):
            raise FetchFailed("the signed response is not a JWT") from None
        typ = response.header.get("typ")
        if not isinstance(typ, str) or typ.lower() not in _TYPES:
            raise FetchFailed("the signed response is not of type token-introspection+jwt")
        await self._verify_signature(response)
        return self._validate(response.unverified_claims)

    def _validate(self, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        audience, introspection = claims.get("aud"), claims.get("token_introspection")
        if claims.get("iss") != self._issuer.issuer:
            raise FetchFailed(f"iss of the signed response is another issuer, expected {self._issuer.issuer!r}")
        if self._client_id not in (audience if isinstance(audience, list) else [audience]):
            raise FetchFailed(f"aud of the signed response is another client, expected {self._client_id!r}")
        if not isinstance(introspection, dict):
            raise FetchFailed("the signed response has no object token_introspection")
        return introspection

    async def _verify_signature(self, response: Jws) -> None:
        if not self._issuer.has_keys:
            raise FetchFailed("the signed response cannot be verified: the issuer has no keys configured")
        if response.algorithm not in self._issuer.algorithms:
            accepted = ", ".join(self._issuer.algorithms)
            raise FetchFailed(f"the signed response has another algorithm than those accepted ({accepted})")
        key = self._verifying_key(response, may_fetch=True)
        if key is NoKey.FETCH:
            await self._keys.refresh_for_request()
            key = self._verifying_key(response, may_fetch=False)
        if isinstance(key, (NoKey, Exhausted)):
            raise FetchFailed(f"the signed response cannot be verified: {key.value}")
        if key is None:
            raise FetchFailed("the signature of the signed response does not verify")

    def _verifying_key(self, response: Jws, *, may_fetch: bool) -> Key | NoKey | Exhausted | None:
        """The issuer's key that verifies the signature; None if none does."""
        now = self._clock()
        named = self._keys.find(response.kid, now, may_fetch=may_fetch)
        if isinstance(named, NoKey):
            return named
        key = jws.verifying_key(response, named, self._keys.trials, now)
        if key is None and may_fetch and all(each.kid is None for each in named):  # a rotation does not show in the kid
            why = self._keys.look_for_new_key(response.kid, now, may_fetch=True)
            return why if why is NoKey.FETCH else None
        return key
