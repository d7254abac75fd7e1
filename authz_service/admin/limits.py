"""The limits of a connection to an admin server, and of the number of connections."""

from __future__ import annotations

from typing import Final

MAX_CONNECTIONS: Final = 64
HEADER_TIMEOUT: Final = 5.0  # seconds for a complete request, from its first byte or from the start of the connection
KEEPALIVE_TIMEOUT: Final = 75.0  # seconds to the next request: longer than the usual scrape interval of 15 to 60
SEND_TIMEOUT: Final = 10.0  # seconds for the client to take a response
LINGER_TIMEOUT: Final = 1.0  # seconds in which a client may still send after the last response
STOP_TIMEOUT: Final = 1.0  # seconds for responses that are in progress when the server stops
