"""The headers that carry the caller's identity to the upstream.

Invariants: a configured header never reaches the upstream with a value that the client sent: it is overwritten from the
claims, or removed. A claim that could split or disguise a header is left out; it never refuses a valid token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from authz_service.core.claim_path import NotAnObjectError
from authz_service.core.header_value import UnencodableError, encode
from authz_service.core.headers import are_plain, cgi_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from authz_service.core.claim_path import ClaimPath
    from authz_service.core.claims import Claims


class HeaderSource(NamedTuple):
    """Where the value of a header comes from."""

    claim: ClaimPath
    encoding: str | None = None  # a name of ``header_value``


class TokenHeaders(NamedTuple):
    """The headers to overwrite and to remove on the requests of one token."""

    overwrite: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]
    omitted: tuple[tuple[str, str], ...]  # those of the removed ones whose claim cannot be sent, each with the cause


class UpstreamHeaders:
    """The ``upstream`` part of the settings, compiled."""

    def __init__(self, headers: Mapping[str, HeaderSource], credentials: Iterable[str] = ()) -> None:
        """``headers`` are keyed by their lower-case names. ``credentials`` are headers to remove from every request."""
        self._sources = tuple((name, _value_of(source), source) for name, source in headers.items())
        self._always_removed = tuple(name for name in credentials if name not in headers)
        self._names = frozenset((*headers, *self._always_removed))
        self._cgi_names = frozenset(map(cgi_name, self._names))
        self._lengths = frozenset(map(len, self._names))
        self._plain = are_plain(self._names)  # then no plain name spoofs one
        self._all_removed = self._always_removed + tuple(headers)

    def for_token(self, claims: Claims) -> TokenHeaders:
        """The headers to change on a request with a token, besides the ``spoofed`` ones."""
        overwrite: list[tuple[str, str]] = []
        omitted: list[tuple[str, str]] = []
        remove = self._always_removed
        for name, value_of, source in self._sources:
            value = ""
            try:
                found = value_of(claims)
                if found is not None:
                    value = encode(found, source.encoding)
            except UnencodableError as error:
                omitted.append((name, str(error)))
            except NotAnObjectError:
                omitted.append((name, f"{source.claim} leads through a value that is not an object"))
            if value:
                overwrite.append((name, value))
            else:
                remove += (name,)
        return TokenHeaders(tuple(overwrite), remove, tuple(omitted))

    def without_token(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """The headers to remove on a request that passes without a token."""
        return self._all_removed + self.spoofed(sent)

    def spoofed(self, sent: Mapping[str, str], *, plain: bool = False) -> tuple[str, ...]:
        """Headers such as ``x_auth_subject``, which servers that follow CGI read as ``x-auth-subject``.

        ``plain``: the names are known to be (``headers.are_plain``).
        """
        if self._plain and (plain or are_plain(sent)):
            return ()
        return tuple(
            name
            for name in sent
            # ``cgi_name`` keeps the length and is expensive: it is called for few names.
            if len(name) in self._lengths and name not in self._names and cgi_name(name) in self._cgi_names
        )


def _value_of(source: HeaderSource) -> Callable[[Claims], Any]:
    """Gives the JSON value of a header; None if the token lacks the claim."""
    if source.encoding and source.claim.text == "scope":
        return lambda claims: sorted(claims.scopes) or None
    return claim_getter(source.claim)


def claim_getter(path: ClaimPath) -> Callable[[Claims], Any]:
    """Gives the JSON value that a path of ``upstream`` selects; None if the token lacks it.

    It raises ``NotAnObjectError`` if the path leads through a value that is not an object.
    """
    match path.text:
        case "sub":
            return lambda claims: claims.subject or None
        case "client_id":
            return lambda claims: claims.client_id or None
        case "scope":
            return lambda claims: claims.scope or None
        case "*":  # the whole claim set
            return lambda claims: claims.raw
        case _:
            return lambda claims: path.follow(claims.raw)
