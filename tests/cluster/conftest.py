"""Fixtures for the tests in a cluster. KUBECONFIG names it; `python -m cluster` starts one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.client import Client
from cluster.issuer import Issuer
from cluster.kubectl import Namespace
from cluster.provider import Provider

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of this test module."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with Namespace(name) as created:
        yield created


@pytest.fixture(scope="module")
def client(namespace: Namespace) -> Client:
    """A client in the namespace of this test module."""
    return Client(namespace)


@pytest.fixture(scope="session")
def provider(worker_id: str, testrun_uid: str) -> Iterator[Provider]:
    """The provider of all test modules of this process, in a namespace of its own. A test does not stop it."""
    with Namespace(f"provider-{worker_id}-{testrun_uid[:8]}") as created:
        yield Provider(created, Client(created))


@pytest.fixture(scope="module")
def issuer(namespace: Namespace) -> Issuer:
    """An issuer whose keys are in the namespace of this test module: its tokens need no provider."""
    return Issuer(namespace)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest modules first, so that no process begins one when the others end."""
    items.sort(key=lambda item: "upgrade" not in item.path.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what tests have measured, but do not assert, with the fixture ``record_property``."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
