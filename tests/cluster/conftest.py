"""Fixtures for the tests in a cluster. KUBECONFIG names it; `python -m cluster` starts one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.kubectl import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of this test module."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with Namespace(name) as created:
        yield created
