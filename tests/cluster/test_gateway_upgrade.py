"""No request is lost while the pods of a gateway are replaced, and while their number changes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cluster.gateway import ORDERS, SLOW, Gateway, example, running, summary
from support.chart import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.client import Client
    from cluster.kubectl import Namespace
    from cluster.provider import Provider

# A pod that stops drains for 5 seconds more than a request may take. The rest only makes the tests shorter.
_VALUES = {
    "gateway": {"envoy": {"routeTimeout": "9s"}},
    "probes": {"startup": {"periodSeconds": 1}},
    "checkConfig": {"enabled": False},
}


@pytest.fixture(scope="module")
def gateway(namespace: Namespace, client: Client, provider: Provider) -> Gateway:
    return Gateway(namespace, client, provider, merged(example(), _VALUES))


def test_a_rolling_upgrade_loses_no_request_and_announces_the_end_of_each_connection(
    gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    before = gateway.pods()
    with under_load(gateway, record_property, "rolling upgrade"):
        gateway.upgrade({"podAnnotations": {"restarted": "once"}})
    assert len(gateway.pods()) == len(before) == 2
    assert not set(before) & set(gateway.pods())


def test_fewer_pods_lose_no_request_and_announce_the_end_of_each_connection(
    gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    with under_load(gateway, record_property, "2 pods to 1"):
        gateway.upgrade({"replicas": 1})
    assert len(gateway.pods()) == 1


def test_more_pods_get_requests_once_they_can_serve_them(
    gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    gateway.scale(1)
    before = gateway.pods()
    with under_load(gateway, record_property, "1 pod to 3", drains=False):
        gateway.upgrade({"replicas": 3})
        gateway.wait_served_by(gateway.pods())
    assert len(gateway.pods()) == 3
    assert set(before) < set(gateway.pods())


@contextmanager
def under_load(
    gateway: Gateway, record: Callable[[str, object], None], what: str, *, drains: bool = True
) -> Iterator[None]:
    """Fast and slow requests, on kept and on new connections. None of them may be lost."""
    start = time.monotonic()
    loads = {
        "fast requests, kept connections": gateway.load(ORDERS, gateway.token, rate=20, connections=6),
        "fast requests, new connections": gateway.load(ORDERS, gateway.token, rate=10, connections=6, keep=False),
        "slow requests, kept connections": gateway.load(SLOW, gateway.token, rate=3, connections=12),
        "slow requests, new connections": gateway.load(SLOW, gateway.token, rate=2, connections=12, keep=False),
    }
    with running(loads) as results:
        yield
    record(f"{what}, under load", f"{time.monotonic() - start:.0f} s")
    for name, result in results.items():
        record(f"{what}, {name}", summary(result))
    assert not {name: result.failures for name, result in results.items() if result.lost}
    assert {name: result.unannounced for name, result in results.items()} == dict.fromkeys(loads, 0)
    assert (sum(result.announced for result in results.values()) > 0) == drains
