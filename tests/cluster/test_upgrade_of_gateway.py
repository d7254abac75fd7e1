"""Shape `gateway` is upgraded from the last release, and rolled back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cluster import last_release
from cluster.helm import CHART, Release
from cluster.upgrades import (
    LAST_CHART,
    LAST_IMAGE,
    Traffic,
    assert_nothing_lost,
    gateway_values,
    identity,
    pods,
    wait_settled,
)
from support.chart import merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.client import Client, LoadResult
    from cluster.issuer import Issuer
    from cluster.kubectl import Namespace


def test_a_gateway_is_upgraded_from_the_last_release_and_rolled_back_under_load(
    namespace: Namespace, client: Client, issuer: Issuer, record_property: Callable[[str, object], None]
) -> None:
    values = gateway_values(issuer, LAST_CHART)
    token = issuer.token(values, "orders")
    release = Release(namespace, "shop", LAST_CHART)
    release.install(merged(values, {"image": LAST_IMAGE}))
    before = identity(release)
    for upgrade in (True, False, True):
        traffic = Traffic(client, release, token)
        if upgrade:
            release.upgrade(values, chart=CHART)
        else:
            release.rollback()
        wait_settled(release)
        slow, fast = traffic.stop()
        if upgrade and not ANNOUNCES:
            found = f"{fast.unannounced} connections closed unannounced, {fast.lost} of {fast.requests} requests lost"
            record_property("when a pod of the last release stops", found)
            assert_kept_connections_cut(slow, fast)
        else:
            assert_nothing_lost(slow, fast)
        assert identity(release) == before
        (pod,) = pods(release)
        tags = {each["image"].rpartition(":")[2] for each in pod["spec"]["initContainers"]}
        assert (last_release.TAG in tags) != upgrade
    release.uninstall()


# Whether Envoy announces to its clients that it stops. The version before the first tag does not.
ANNOUNCES: Final = any(
    "/healthcheck/fail" in path.read_text()
    for folder in ("templates", "files")
    for path in (LAST_CHART / folder).rglob("*.*")
)


def assert_kept_connections_cut(slow: LoadResult, fast: LoadResult) -> None:
    """All that is lost are requests that arrive on kept connections at the moment in which the pod ends.

    That is after five seconds, when Envoy and the application get SIGTERM at once: the connection is closed, or Envoy
    answers 503 because the application has closed its own. Slow requests on new connections are answered before.
    """
    assert (slow.lost, slow.answers) == (0, {"200": slow.requests}), slow.failures
    cut = {kind for kind in fast.answers if kind not in {"200", "503"}}
    assert all(kind.endswith("(kept connection)") for kind in cut), fast.failures
    assert fast.unannounced + fast.lost > 0  # or it announces it: then nothing may be lost
