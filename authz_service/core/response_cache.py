"""The responses prepared for one validated token, so that its next request under the same rule reuses them.

They are prepared from the token's second request on: one that is used once needs none.

Owns how many there are and what they cost: their bytes are charged to the cache entry that holds the token, and
refunded when they are dropped. The token's entry and its responses are evicted together. It holds no decision: a rule's
conditions are evaluated for each request before its response is used.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any

from authz_service.core.bounded import Account

if TYPE_CHECKING:
    from collections.abc import ItemsView

    from authz_service.core.bounded import BoundedMap, K

MAX_RULES = 8  # rules that one token is used for
_OVERHEAD = 192  # bytes of a response besides its headers and its attachment
_HEADER = 88  # bytes of a header besides its value; names are those of the configuration


class CachedResponse:
    """What one rule adds to the requests of one token, and what a transport attached to it."""

    __slots__ = ("_account", "attached", "omitted", "overwrite", "remove")

    def __init__(
        self,
        overwrite: tuple[tuple[str, str], ...],
        remove: tuple[str, ...],
        omitted: tuple[str, ...],
        account: Account,
    ) -> None:
        """``account`` is charged for what is attached."""
        self.overwrite = overwrite
        self.remove = remove
        self.omitted = omitted  # the removed headers whose claim cannot be sent
        self.attached: bytes | None = None  # None until a transport attached something
        self._account = account

    @property
    def values(self) -> tuple[Any, ...]:
        """Strings and octets, from which ``ResponseCache.restore`` makes it again."""
        return self.overwrite, self.remove, self.omitted, self.attached

    def attach(self, encoded: bytes) -> bytes:
        """Attach what a transport encoded from this response, for it to reuse."""
        self.attached = encoded
        self._account.charge(getsizeof(encoded))
        return encoded


class ResponseCache:
    """The responses of one token, by rule."""

    __slots__ = ("_account", "_responses")

    def __init__(self) -> None:
        self._responses: dict[object, CachedResponse] = {}
        self._account = Account()

    def __len__(self) -> int:
        return len(self._responses)

    @property
    def charged(self) -> int:
        """The bytes of all responses."""
        return self._account.charged

    def charge_to(self, entries: BoundedMap[K, Any], key: K) -> None:
        """Charge what is added from now on to the entry with this key, which holds the token."""
        self._account.bind(entries, key)

    def items(self) -> ItemsView[object, CachedResponse]:
        """The rules and their responses."""
        return self._responses.items()

    def restore(self, rule: object, values: tuple[Any, ...], charged: int) -> None:
        """Add a response by the ``values`` that it had in another object of the same token, charged already."""
        overwrite, remove, omitted, attached = values
        response = self._responses[rule] = CachedResponse(overwrite, remove, omitted, self._account)
        response.attached = attached
        self._account.charged = charged

    def get(self, rule: object) -> CachedResponse | None:
        """The response of a rule, if there is one."""
        return self._responses.get(rule)

    def add(
        self,
        rule: object,
        overwrite: tuple[tuple[str, str], ...],
        remove: tuple[str, ...],
        omitted: tuple[str, ...] = (),
    ) -> CachedResponse:
        """Add the response of a rule. When there are ``MAX_RULES`` already, they are dropped first.

        Dropping them all also frees those of rules that a reload removed.
        """
        if len(self._responses) >= MAX_RULES:
            self._responses.clear()
            self._account.refund()
        response = self._responses[rule] = CachedResponse(overwrite, remove, omitted, self._account)
        values = sum([getsizeof(value) for _, value in overwrite])
        self._account.charge(_OVERHEAD + len(overwrite) * _HEADER + values)
        return response
