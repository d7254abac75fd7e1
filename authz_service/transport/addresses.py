"""Listening addresses: what is checked before a server is let loose on one.

Law: an address that somebody else serves is an error, never taken over. Several processes share one only where one of
them holds it for the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from authz_service.config.values import host_port
from authz_service.core.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOCKET_UMASK = 0o117  # leaves 0660: the owner and the group, in which the proxy must be
_NOBODY = frozenset({errno.ECONNREFUSED, errno.ENOENT})  # anything else, "too busy" included, is somebody
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # localhost may be ::1 where there is no IPv6
_PROBE_TIMEOUT = 1.0  # seconds: a local socket answers at once or never
BACKLOG: Final = 1024  # connections that wait to be accepted; the system may keep fewer


class Shared(NamedTuple):
    """An address that several processes serve, and that whoever started them holds for them."""

    address: str  # with the port that was chosen, where any would do
    descriptor: int | None = None  # of the unix socket, which is inherited; a port is shared by SO_REUSEPORT


@contextlib.contextmanager
def bound_with_care(address: str) -> Iterator[None]:
    """Around the binding of an address: a unix socket gets its mode from the start, and is nobody else's.

    Raises:
        StartFailed: when another process serves the address, or something that is no socket stands in its place.
    """
    if not address.startswith("unix:"):
        _require_free_port(address)
        yield
        return
    path = address.removeprefix("unix:")
    _require_free(path)
    before = os.umask(_SOCKET_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def listening_sockets(address: str) -> list[socket.socket]:
    """Sockets that listen on an address: as many as its name stands for. A wildcard of IPv6 takes IPv4 as well.

    Raises:
        OSError: when the address cannot be had.
    """
    return _sockets(address)


class Held:
    """An address that is held for processes that are to share it: nobody else can have it meanwhile.

    What holds it accepts no connection, and none is meant for it: a port does not listen, so the system hands its
    connections to those that do; those of a unix socket wait for whoever accepts first.
    """

    def __init__(self, address: str) -> None:
        """Begin to hold it.

        Raises:
            StartFailed: when the address cannot be had.
        """
        try:
            with bound_with_care(address):
                self._sockets = _sockets(address, shared=True, listening=address.startswith("unix:"))
            for each in self._sockets:  # it was for connections that ended just now, and would let others in beside us
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError:
            raise StartFailed(f"cannot listen on {address}: in use, or not allowed") from None
        self._file = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
        self._identity = self._file and _identity(self._file)

    @property
    def port(self) -> int:
        """That of TCP; 0 for a unix socket."""
        port: int = self._sockets[0].getsockname()[1] if self._file is None else 0
        return port

    def shared(self, address: str) -> Shared:
        """What those who share it are told."""
        if self._file is not None:
            return Shared(address, self._sockets[0].fileno())
        return Shared(f"{address.rpartition(':')[0]}:{self.port}")

    def release(self) -> None:
        """From now on it is theirs alone. Harmless when called again."""
        for each in self._sockets:
            each.close()

    def remove(self) -> None:
        """Take away the file of a unix socket, unless another process has put its own there by now."""
        if self._file is not None and _identity(self._file) == self._identity:
            self._file.unlink(missing_ok=True)


def _identity(file: Path) -> tuple[int, int, int] | None:
    """What tells a file from a later one of its name, which may well get its number as soon as that is free."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def shared_sockets(shared: Shared) -> list[socket.socket]:
    """Sockets that listen on an address that other processes listen on as well.

    Raises:
        OSError: when the address cannot be had.
    """
    if shared.descriptor is None:
        return _sockets(shared.address, shared=True)
    return [socket.socket(fileno=shared.descriptor)]


def _sockets(address: str, *, shared: bool = False, listening: bool = True) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        if address.startswith("unix:"):
            unlinked(address)  # of a process that is gone; see bound_with_care
            sockets.append(_bound(socket.AF_UNIX, address.removeprefix("unix:"), shared=False, listening=listening))
            return sockets
        host, port = host_port(address)
        missing: OSError | None = None
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, where in dict.fromkeys(found):  # a resolver may repeat itself
            chosen = sockets[0].getsockname()[1] if port == 0 and sockets else where[1]  # one port for all
            try:
                sockets.append(_bound(family, (where[0], chosen, *where[2:]), shared=shared, listening=listening))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def unlinked(address: str) -> None:
    """Take away the file of a unix socket, if there is one."""
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _bound(family: int, where: Any, *, shared: bool, listening: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended just now do not count
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, where[0] != "::")
        bound.bind(where)
        if listening:
            bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _require_free_port(address: str) -> None:
    """A name may stand for several addresses, and grpcio is content with those that are free."""
    with contextlib.suppress(socket.gaierror):  # a name that cannot be resolved cannot be bound either
        for family, kind, _, _, where in socket.getaddrinfo(*host_port(address), type=socket.SOCK_STREAM):
            if _in_use(family, kind, where):
                raise StartFailed(f"cannot listen on {address}: in use")


def _in_use(family: int, kind: int, where: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended just now do not count
            probe.bind(where)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _require_free(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartFailed(f"cannot listen on {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise StartFailed(f"cannot listen on {path}: something that is no socket stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        if probe.connect_ex(path) not in _NOBODY:
            raise StartFailed(f"cannot listen on {path}: another process serves it")
