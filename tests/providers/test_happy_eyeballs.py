"""Of several addresses, the first that accepts is used, and no attempt or socket is left behind."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from authz_service.providers import happy_eyeballs
from authz_service.providers.happy_eyeballs import ATTEMPT_DELAY, connect
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from authz_service.providers.resolver import Address

ADDRESSES = [(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(9)]


class Attempts:
    """The outcome of connecting to each address: seconds until it succeeds, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: float | OSError) -> None:
        self._outcomes = dict(zip(ADDRESSES, outcomes, strict=False))
        self.started: list[tuple[float, Address]] = []
        self.sockets: list[socket.socket] = []
        self.cancelled = 0
        monkeypatch.setattr(happy_eyeballs, "_attempt", self.attempt)

    @property
    def addresses(self) -> list[Address]:
        return list(self._outcomes)

    async def attempt(self, address: Address) -> socket.socket:
        self.started.append((asyncio.get_running_loop().time(), address))
        outcome = self._outcomes[address]
        if isinstance(outcome, OSError):
            raise outcome
        try:
            await asyncio.sleep(outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.sockets.append(socket.socket())
        return self.sockets[-1]

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@in_virtual_time
async def test_the_first_address_is_used_if_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 0.1, 0.0)
    made = await connect(attempts.addresses)
    assert attempts.sockets == [made]
    assert len(attempts.started) == 1
    attempts.close()


@in_virtual_time
async def test_if_an_address_hangs_the_next_is_tried_beside_it_and_the_first_to_accept_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = Attempts(monkeypatch, 3600.0, 3600.0, 0.1, 0.0)
    made = await connect(attempts.addresses)
    assert attempts.sockets == [made]
    assert [at for at, _ in attempts.started] == [0.0, ATTEMPT_DELAY, 2 * ATTEMPT_DELAY]
    assert attempts.cancelled == 2
    attempts.close()


@in_virtual_time
async def test_an_earlier_address_may_still_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 0.3, 3600.0)
    made = await connect(attempts.addresses)
    assert (attempts.sockets, attempts.cancelled) == ([made], 1)
    attempts.close()


@in_virtual_time
async def test_if_an_address_refuses_the_next_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, ConnectionRefusedError(), ConnectionRefusedError(), 0.0)
    await connect(attempts.addresses)
    assert [at for at, _ in attempts.started] == [0.0, 0.0, 0.0]
    attempts.close()


@in_virtual_time
async def test_if_all_addresses_refuse_the_last_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, OSError("first"), ConnectionRefusedError("last"))
    with pytest.raises(ConnectionRefusedError):
        await connect(attempts.addresses)
    with pytest.raises(OSError, match="no address"):
        await connect([])


@in_virtual_time
async def test_of_two_that_accept_at_the_same_time_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, ATTEMPT_DELAY + 0.1, 0.1)
    made = await connect(attempts.addresses)
    assert [each is made or each.fileno() == -1 for each in attempts.sockets] == [True] * len(attempts.sockets)
    assert made.fileno() != -1
    attempts.close()


@in_virtual_time
async def test_a_cancelled_caller_leaves_no_attempt_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 3600.0, 3600.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await connect(attempts.addresses)
    assert attempts.cancelled == 2


async def test_a_socket_is_connected_after_another_address_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()
        addresses = [(socket.AF_INET, refusing), (socket.AF_INET, there.getsockname())]
        with await connect(addresses) as made:
            assert made.getpeername() == there.getsockname()
