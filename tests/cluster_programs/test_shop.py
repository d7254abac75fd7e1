"""The application that the cluster tests put behind Envoy."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from support.pod_programs import TIMEOUT, RunningShop, running_shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connect = Callable[[], HTTPConnection]


@pytest.fixture
def shop() -> Iterator[RunningShop]:
    with running_shop() as shop:
        yield shop


@pytest.fixture
def connect(shop: RunningShop) -> Iterator[Connect]:
    with ExitStack() as stack:
        address = urlsplit(shop.url).netloc
        yield lambda: stack.enter_context(closing(HTTPConnection(address, timeout=TIMEOUT)))


def _json(response: HTTPResponse) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(response.read())
    return seen


def test_an_answer_has_the_request_the_pod_and_the_identity_headers_but_not_the_token(connect: Connect) -> None:
    connection = connect()
    headers = {"Authorization": "Bearer secret", "X-Auth-Subject": "alice", "Accept": "*/*"}
    connection.request("POST", "/orders?id=1", b"body", headers)
    assert _json(connection.getresponse()) == {
        "pod": "shop-1",
        "request": "POST /orders?id=1",
        "headers": {"x-auth-subject": "alice"},
        "authorization": True,
    }


def test_a_connection_is_kept_after_a_chunked_request(connect: Connect) -> None:
    connection = connect()
    connection.request("POST", "/orders", iter([b"one", b"two"]), encode_chunked=True)
    connection.getresponse().read()
    kept = connection.sock
    connection.request("GET", "/next")
    assert _json(connection.getresponse())["request"] == "GET /next"
    assert connection.sock is kept


@pytest.mark.parametrize("seconds", ["-1", "nan", "x"])
def test_a_wait_that_is_not_a_positive_number_is_none(connect: Connect, seconds: str) -> None:
    connection = connect()
    connection.request("GET", f"/slow?seconds={seconds}")
    assert connection.getresponse().status == 200


def test_it_finishes_the_request_in_flight_and_closes_idle_connections_when_it_stops(
    shop: RunningShop, connect: Connect
) -> None:
    idle, busy = connect(), connect()
    idle.request("GET", "/")
    idle.getresponse().read()
    assert idle.sock is not None
    busy.request("GET", "/slow?seconds=1")
    _wait_until_read(connect)
    shop.stop()
    assert idle.sock.recv(1) == b""
    response = busy.getresponse()
    assert response.status == 200
    assert response.getheader("connection") == "close"
    assert shop.process.wait(TIMEOUT) == 0
    with pytest.raises(ConnectionRefusedError):
        connect().connect()


def _wait_until_read(connect: Connect) -> None:
    """Requests on other connections are read in the order in which they were sent, so the earlier one is in flight."""
    later = connect()
    later.request("GET", "/", headers={"Connection": "close"})
    later.getresponse().read()


def test_it_stops_at_once_without_requests(shop: RunningShop) -> None:
    shop.stop()
    assert shop.process.wait(TIMEOUT) == 0
