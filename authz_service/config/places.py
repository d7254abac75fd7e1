"""The types of addresses to listen on, and of files.

They are apart from ``values``, so that ``healthcheck`` reads the ``server`` section without what the others need.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from authz_service.config.files import open_regular
from authz_service.config.kinds import Text, TextInFolder
from authz_service.core.errors import shown

_MAX_PORT = 65535
_MAX_SOCKET_PATH = 107  # sun_path of unix(7) is 108 bytes, the last of them zero
_MAX_QUOTED_PATH = 300  # characters
_NO_FILE = "must be the path of a file"
_NO_SOCKET = "must be the path of a unix socket"


def _shown_path(path: Path) -> str:
    return shown(str(path), _MAX_QUOTED_PATH)


def _grpc_address(value: str, folder: Path | None) -> str:
    if value.startswith("unix:"):
        return f"unix:{_socket_path(value.removeprefix('unix:'), folder)}"
    _require_address(value, "127.0.0.1:9191, [::1]:9191, or unix:/path/to.sock")
    return value


def _socket_path(value: str, folder: Path | None) -> Path:
    if not value or "\0" in value:
        raise ValueError("must name a path: write unix:/path/to.sock")
    path = Path(folder or "", value)
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"the socket's path is longer than {_MAX_SOCKET_PATH} bytes: choose a shorter one")
    if folder is not None and not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises if access is denied
        raise ValueError(f"the socket's folder {_shown_path(path.parent)} does not exist: create it first")
    return path


def _tcp_address(value: str) -> str:
    _require_address(value, "127.0.0.1:9192, or [::1]:9192")
    return value


def _require_address(value: str, examples: str) -> None:
    try:
        host_port(value)
    except ValueError as error:
        raise ValueError(f"{error}, such as {examples}") from None


def host_port(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: when it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})", address)
    if not match or int(match[3]) > _MAX_PORT or (match[1] and not _is_v6(match[1])):
        raise ValueError(f"{shown(address)} is not an address: write host:port")
    return match[1] or match[2], int(match[3])


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _file(value: str, folder: Path | None) -> Path:
    file = _path(value, folder)
    if folder is not None:
        _require_readable(file)
    return file


def _own_file(value: str, folder: Path | None) -> Path:
    file = _path(value, folder)
    if folder is not None and not os.path.isdir(file.parent):  # noqa: PTH112 - as for the socket
        raise ValueError(f"the file's folder {_shown_path(file.parent)} does not exist: create it first")
    if folder is not None and os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113
        raise ValueError(f"{_shown_path(file)} exists and is not a regular file: write the path of a file")
    return file


def _path(value: str, folder: Path | None) -> Path:
    if not value or "\0" in value:
        raise ValueError(_NO_FILE)
    return Path(folder or "", value)


def _reader_socket(value: str, folder: Path | None) -> Path:
    if not value or "\0" in value:
        raise ValueError(_NO_SOCKET)
    return _socket_path(value, folder)


def _require_readable(file: Path) -> None:
    try:
        with open_regular(file):
            pass
    except OSError as error:
        raise ValueError(f"{_shown_path(file)} cannot be read: {error.strerror}") from None


GRPC_ADDRESS = TextInFolder(_grpc_address)
TCP_ADDRESS = Text(_tcp_address)
FILE = TextInFolder(_file, otherwise=_NO_FILE)
OWN_FILE = TextInFolder(_own_file, otherwise=_NO_FILE)
READER_SOCKET = TextInFolder(_reader_socket, otherwise=_NO_SOCKET)
