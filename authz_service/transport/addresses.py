"""Listening addresses: binds sockets, and makes sure that no other process serves the address.

Invariants: an address that another process serves is an error, and never taken over. Several processes share an address
only if one process has reserved it for them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from authz_service.core.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNIX = "unix:"
_SOCKET_UMASK = 0o117  # leaves 0660: the owner and the group, which must include the proxy
_NOT_SERVED = frozenset({errno.ECONNREFUSED, errno.ENOENT})  # any other error, EAGAIN included, means a server
_NOT_LOCAL = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # localhost may be ::1 on a host without IPv6
_PROBE_TIMEOUT = 1.0  # seconds: a local socket answers at once or never
BACKLOG: Final = 1024  # connections that wait to be accepted; the system may reduce it


class SharedAddress(NamedTuple):
    """An address that several processes serve, and that the process that started them has reserved."""

    address: str  # with the port that was chosen, if port 0 was configured
    descriptor: int | None = None  # of the unix socket, which is inherited; a port is shared by SO_REUSEPORT


@contextlib.contextmanager
def exclusive_bind(address: str) -> Iterator[None]:
    """Require that no process serves the address, and create a unix socket bound inside with the right mode.

    Raises:
        StartFailed: if another process serves the address, or a file that is not a socket is in its place.
    """
    if not address.startswith(_UNIX):
        _require_free_port(address)
        yield
        return
    _require_free_path(address.removeprefix(_UNIX))
    previous = os.umask(_SOCKET_UMASK)
    try:
        yield
    finally:
        os.umask(previous)


def listening_sockets(address: str) -> list[socket.socket]:
    """Sockets that listen on an address, one for each that its name resolves to. The IPv6 wildcard includes IPv4.

    Raises:
        OSError: if the address cannot be bound.
    """
    return _bind_all(address)


def shared_sockets(shared: SharedAddress) -> list[socket.socket]:
    """Sockets that listen on an address on which other processes listen as well.

    Raises:
        OSError: if the address cannot be bound.
    """
    if shared.descriptor is None:
        return _bind_all(shared.address, shared=True)
    return [socket.socket(fileno=shared.descriptor)]


def unlink_socket(address: str) -> None:
    """Remove the file of a unix socket, if there is one."""
    if address.startswith(_UNIX):
        Path(address.removeprefix(_UNIX)).unlink(missing_ok=True)


class ReservedAddress:
    """An address that is bound for the processes that will share it, so that no other process can bind it.

    The reserving process accepts no connections. Its port does not listen, so the system gives connections to the
    processes that do; connections to a unix socket wait for the first process that accepts.
    """

    def __init__(self, address: str) -> None:
        """Reserve the address.

        Raises:
            StartFailed: if it cannot be bound.
        """
        is_unix = address.startswith(_UNIX)
        self._address = address
        self._file = Path(address.removeprefix(_UNIX)) if is_unix else None
        try:
            with exclusive_bind(address):
                self._sockets = _bind_all(address, shared=True, listening=is_unix)
            for each in self._sockets:  # it was set for recently closed connections, and would admit other processes
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise StartFailed(f"cannot listen on {address}: {error.strerror or error}") from None
        self._identity = self._file and _identity(self._file)

    @property
    def port(self) -> int:
        """The TCP port; 0 for a unix socket."""
        port: int = self._sockets[0].getsockname()[1] if self._file is None else 0
        return port

    @property
    def shared(self) -> SharedAddress:
        """The address for the processes that share it."""
        if self._file is not None:
            return SharedAddress(self._address, self._sockets[0].fileno())
        return SharedAddress(f"{self._address.rpartition(':')[0]}:{self.port}")

    def release(self) -> None:
        """Leave the address to the processes that share it. Idempotent."""
        for each in self._sockets:
            each.close()

    def unlink(self) -> None:
        """Remove the file of a unix socket, unless another process has created its own there."""
        if self._file is not None and _identity(self._file) == self._identity:
            self._file.unlink(missing_ok=True)


def _identity(file: Path) -> tuple[int, int, int] | None:
    """Distinguishes a file from a later one of its name, which may reuse its inode number."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _host_port(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of an address; the configuration has validated its form."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _bind_all(address: str, *, shared: bool = False, listening: bool = True) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        if address.startswith(_UNIX):
            unlink_socket(address)  # left by a process that has ended; see exclusive_bind
            sockets.append(_bind(socket.AF_UNIX, address.removeprefix(_UNIX), shared=False, listening=listening))
            return sockets
        host, port = _host_port(address)
        not_local: OSError | None = None
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, sockaddr in dict.fromkeys(found):  # a resolver may repeat itself
            chosen = sockets[0].getsockname()[1] if port == 0 and sockets else sockaddr[1]  # one port for all
            try:
                sockets.append(_bind(family, (sockaddr[0], chosen, *sockaddr[2:]), shared=shared, listening=listening))
            except OSError as error:
                if error.errno not in _NOT_LOCAL:
                    raise
                not_local = error
        if not_local is not None and not sockets:
            raise not_local
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bind(family: int, sockaddr: Any, *, shared: bool, listening: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # recently closed connections do not count
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sockaddr[0] != "::")
        bound.bind(sockaddr)
        if listening:
            bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _require_free_port(address: str) -> None:
    """A name may resolve to several addresses, and grpcio is satisfied if it can bind one of them."""
    with contextlib.suppress(socket.gaierror):  # a name that does not resolve cannot be bound either
        for family, kind, _, _, sockaddr in socket.getaddrinfo(*_host_port(address), type=socket.SOCK_STREAM):
            if _in_use(family, kind, sockaddr):
                raise StartFailed(f"cannot listen on {address}: in use")


def _in_use(family: int, kind: int, sockaddr: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # recently closed connections do not count
            probe.bind(sockaddr)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _require_free_path(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartFailed(f"cannot listen on {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise StartFailed(f"cannot listen on {path}: the file is not a socket; remove it or configure another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        if probe.connect_ex(path) not in _NOT_SERVED:
            raise StartFailed(f"cannot listen on {path}: another process serves it")
