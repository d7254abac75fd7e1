"""The sockets of the admin address."""

from __future__ import annotations

import os
import socket
from typing import Final

from authz_service.core.errors import StartFailed

BACKLOG: Final = 128  # connections that wait to be accepted


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen, one for each address of the host; port 0 is any free port.

    Raises:
        StartFailed: when the address cannot be used.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, sockaddr in dict.fromkeys(found):  # a resolver may repeat itself
            sockets.append(_listening(family, sockaddr))
    except (OSError, ValueError) as error:  # ValueError: not a valid host name
        for each in sockets:
            each.close()
        raise StartFailed(
            f"the admin server cannot listen on {host} port {port}: {_cause(error)}; change server.admin_address"
        ) from error
    return sockets


def _listening(family: int, sockaddr: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # recently closed connections do not count
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(sockaddr)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _cause(error: OSError | ValueError) -> str:
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else "not a valid host name"
