"""What the introspector requires of a client, and the errors that it handles differently.

::

    FetchFailed            no response that can be read
    |-- ClientRefused      the server rejects our credentials, or this client
    |-- Forbidden          status 403: the server rejects this client, or a firewall in front of it the token
    `-- RequestRefused     the server works, and does not respond to a request about this token
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Mapping


class ClientRefused(FetchFailed):
    """The server rejects our client credentials, or does not let this client introspect tokens."""


class Forbidden(FetchFailed):
    """Status 403: the server does not let this client introspect, or something in front of it rejects the token."""


class RequestRefused(FetchFailed):
    """The server works, and refuses a request about this token: no reason to pause."""


class IntrospectionClient(Protocol):
    """Sends requests to one introspection server."""

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """The response body for a token.

        Raises:
            FetchFailed: when there is none that can be read, within the time that a request may take.
        """

    async def prepare(self) -> None:
        """Prepare what the first request would have to wait for. Never raises for what is not available yet."""

    async def close(self) -> None:
        """Close the connections."""
