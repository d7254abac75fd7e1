"""An address that another process serves is an error, and never taken over."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import StartFailed
from authz_service.transport.addresses import (
    ReservedAddress,
    SharedAddress,
    exclusive_bind,
    listening_sockets,
    shared_sockets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def served(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(path))
        if kind is socket.SOCK_STREAM:
            server.listen(0)
        yield server


def refusal(path: Path) -> str:
    with pytest.raises(StartFailed) as failed, exclusive_bind(f"unix:{path}"):
        pytest.fail("bound an address in use")
    return str(failed.value)


def test_a_free_path_is_bound_with_a_mode_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0o022)
    try:
        with exclusive_bind(f"unix:{path}"), socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            assert path.stat().st_mode & 0o777 == 0o660
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_socket_file_left_by_a_process_that_ended_is_free(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        pass
    assert (tmp_path / "s").is_socket()
    with exclusive_bind(f"unix:{tmp_path / 's'}"):
        pass


def test_a_socket_that_is_served_is_refused(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        assert "another process serves it" in refusal(tmp_path / "s")


def test_a_socket_whose_server_is_too_busy_to_accept_is_served(tmp_path: Path) -> None:
    with served(tmp_path / "s"), contextlib.ExitStack() as waiting:
        while True:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)  # noqa: FBT003 - the socket module's own signature
            if client.connect_ex(str(tmp_path / "s")):
                break
        assert "another process serves it" in refusal(tmp_path / "s")


def test_a_socket_of_another_kind_is_served_too(tmp_path: Path) -> None:
    with served(tmp_path / "s", socket.SOCK_DGRAM):
        assert "another process serves it" in refusal(tmp_path / "s")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - nothing is bound
def test_a_port_that_is_served_is_refused_under_every_name(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{host}:{server.getsockname()[1]}"
        with pytest.raises(StartFailed, match=f"cannot listen on {address}: in use"), exclusive_bind(address):
            pytest.fail("bound an address in use")


def test_a_port_with_recently_closed_connections_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    with exclusive_bind(f"127.0.0.1:{port}"):
        pass


@pytest.mark.parametrize("kind", ["a file", "a directory", "a link to a file"])
def test_a_file_that_is_not_a_socket_is_refused_and_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    match kind:
        case "a file":
            path.write_text("precious")
        case "a directory":
            path.mkdir()
        case "a link to a file":
            (tmp_path / "file").write_text("precious")
            path.symlink_to("file")
    assert "not a socket" in refusal(path)
    assert path.is_dir() or path.read_text() == "precious"


def test_a_loop_of_symbolic_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("s")
    assert "cannot listen on" in refusal(tmp_path / "s")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0", "192.0.2.1:1", "name.invalid:1"])
def test_a_port_that_is_not_served_is_left_to_the_kernel(address: str) -> None:
    before = os.umask(0o022)
    try:
        with exclusive_bind(address):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_the_umask_is_restored_when_binding_fails(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with contextlib.suppress(RuntimeError), exclusive_bind(f"unix:{tmp_path / 's'}"):
            raise RuntimeError
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_an_address_that_is_not_local_or_resolved_twice_does_not_affect_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    not_local = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
    local = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    for found in ([not_local, local, local], [local, local, not_local]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        sockets = listening_sockets("name:0")
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1"]
        for each in sockets:
            each.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [not_local])
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its errno is asserted
        listening_sockets("name:0")
    assert refused.value.errno == errno.EADDRNOTAVAIL


# Reserved for several processes.


def test_a_reserved_port_refuses_other_processes_and_connections_until_a_sharing_process_listens() -> None:
    reserved = ReservedAddress("127.0.0.1:0")
    shared = reserved.shared
    sockaddr = ("127.0.0.1", reserved.port)
    assert shared == SharedAddress(f"127.0.0.1:{reserved.port}")
    with pytest.raises(StartFailed, match="in use"):
        ReservedAddress(shared.address)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(sockaddr)
    listening = [*shared_sockets(shared), *shared_sockets(shared)]
    socket.create_connection(sockaddr).close()
    for each in listening:
        each.close()
    reserved.release()
    reserved.release()  # harmless
    ReservedAddress(shared.address).release()


def test_every_address_of_a_name_is_reserved_at_one_port() -> None:
    reserved = ReservedAddress("localhost:0")
    with pytest.raises(StartFailed, match="in use"):
        ReservedAddress(f"127.0.0.1:{reserved.port}")
    reserved.release()


def test_a_reserved_unix_socket_is_unlinked_unless_another_process_has_created_its_own_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    reserved = ReservedAddress(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert reserved.port == 0
    assert reserved.shared.address == f"unix:{path}"
    with pytest.raises(StartFailed, match="another process serves it"):
        ReservedAddress(f"unix:{path}")
    (tmp_path / "another").touch()
    (tmp_path / "another").replace(path)
    reserved.unlink()
    assert path.exists()
    path.unlink()
    reserved.unlink()  # harmless
    reserved.release()
    again = ReservedAddress(f"unix:{path}")
    again.release()
    again.unlink()
    assert not path.exists()


def test_the_socket_of_a_successor_is_not_unlinked_even_if_it_has_the_same_inode(tmp_path: Path) -> None:
    path = tmp_path / "s"
    reserved = ReservedAddress(f"unix:{path}")
    reserved.release()  # and the processes that shared it no longer accept, but finish what is in flight
    successor = ReservedAddress(f"unix:{path}")
    os.utime(path, (1, 1))  # another time, as in reality
    reserved.unlink()
    assert path.is_socket()
    successor.release()


def test_an_address_that_cannot_be_bound_cannot_be_reserved(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="No such file or directory"):
        ReservedAddress(f"unix:{tmp_path / 'missing' / 's'}")
