"""An address that somebody else serves is an error, and never taken over."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from authz_service.core.errors import StartFailed
from authz_service.transport.addresses import Held, Shared, bound_with_care, listening_sockets, shared_sockets

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
    with pytest.raises(StartFailed) as failed, bound_with_care(f"unix:{path}"):
        pytest.fail("bound over it")
    return str(failed.value)


def test_a_free_path_is_bound_with_a_mode_for_owner_and_group_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0o022)
    try:
        with bound_with_care(f"unix:{path}"), socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            assert path.stat().st_mode & 0o777 == 0o660
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_socket_that_nobody_serves_any_more_stands_in_nobodys_way(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        pass
    assert (tmp_path / "s").is_socket()
    with bound_with_care(f"unix:{tmp_path / 's'}"):
        pass


def test_a_socket_that_is_served_is_refused(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        assert "another process serves it" in refusal(tmp_path / "s")


def test_a_socket_whose_server_is_too_busy_to_accept_is_served_all_the_same(tmp_path: Path) -> None:
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
        with pytest.raises(StartFailed, match=f"cannot listen on {address}: in use"), bound_with_care(address):
            pytest.fail("bound over it")


def test_a_port_on_which_connections_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    with bound_with_care(f"127.0.0.1:{port}"):
        pass


@pytest.mark.parametrize("kind", ["a file", "a folder", "a link to a file"])
def test_what_is_no_socket_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    match kind:
        case "a file":
            path.write_text("precious")
        case "a folder":
            path.mkdir()
        case "a link to a file":
            (tmp_path / "file").write_text("precious")
            path.symlink_to("file")
    assert "no socket" in refusal(path)
    assert path.is_dir() or path.read_text() == "precious"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("s")
    assert "cannot listen on" in refusal(tmp_path / "s")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0", "192.0.2.1:1", "name.invalid:1"])
def test_a_port_that_nobody_serves_is_left_to_the_kernel(address: str) -> None:
    before = os.umask(0o022)
    try:
        with bound_with_care(address):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_the_mode_of_other_files_is_as_before_when_binding_fails(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with contextlib.suppress(RuntimeError), bound_with_care(f"unix:{tmp_path / 's'}"):
            raise RuntimeError
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_an_address_that_this_machine_lacks_or_that_is_told_twice_does_not_spoil_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
    there = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    for told in ([lacking, there, there], [there, there, lacking]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, told=told, **__: told)
        sockets = listening_sockets("name:0")
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1"]
        for each in sockets:
            each.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [lacking])
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number says it
        listening_sockets("name:0")
    assert refused.value.errno == errno.EADDRNOTAVAIL


# Held for several processes.


def test_a_port_that_is_held_is_nobody_elses_and_answers_nobody_until_one_listens_who_shares_it() -> None:
    held = Held("127.0.0.1:0")
    shared = held.shared("127.0.0.1:0")
    where = ("127.0.0.1", held.port)
    assert shared == Shared(f"127.0.0.1:{held.port}")
    with pytest.raises(StartFailed, match="in use"):
        Held(shared.address)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
    listening = [*shared_sockets(shared), *shared_sockets(shared)]
    socket.create_connection(where).close()
    for each in listening:
        each.close()
    held.release()
    held.release()  # harmless
    Held(shared.address).release()


def test_every_address_of_a_name_is_held_at_one_port() -> None:
    held = Held("localhost:0")
    with pytest.raises(StartFailed, match="in use"):
        Held(f"127.0.0.1:{held.port}")
    held.release()


def test_a_unix_socket_that_is_held_is_removed_unless_another_process_has_put_its_own_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    held = Held(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert held.port == 0
    assert held.shared(f"unix:{path}").address == f"unix:{path}"
    with pytest.raises(StartFailed, match="another process serves it"):
        Held(f"unix:{path}")
    (tmp_path / "another").touch()
    (tmp_path / "another").replace(path)
    held.remove()
    assert path.exists()
    path.unlink()
    held.remove()  # harmless
    held.release()
    again = Held(f"unix:{path}")
    again.release()
    again.remove()
    assert not path.exists()


def test_the_socket_of_a_successor_is_left_to_it_though_it_got_the_number_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    held = Held(f"unix:{path}")
    held.release()  # and those who shared it accept nothing any more, but still finish what is in flight
    successor = Held(f"unix:{path}")
    os.utime(path, (1, 1))  # another time, as it would be
    held.remove()
    assert path.is_socket()
    successor.release()


def test_an_address_that_cannot_be_had_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="in use, or not allowed"):
        Held(f"unix:{tmp_path / 'nowhere' / 's'}")
