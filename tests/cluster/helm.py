"""Releases of the chart, by Helm's own engine. KUBECONFIG names the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import helm_python

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.kubectl import Namespace

CHART: Final = Path(__file__).parent.parent.parent / "helm" / "authz-service"
# Images are loaded into the nodes, and the cluster reaches no registry.
IMAGE: Final = {"repository": "localhost/authz-service", "pullPolicy": "Never"}
_TIMEOUT: Final = 180  # seconds that Helm waits

HelmError = helm_python.HelmError


class Release:
    """A release of a chart in a namespace."""

    def __init__(self, namespace: Namespace, name: str, chart: Path = CHART) -> None:
        self.namespace = namespace
        self.name = name
        self.chart = chart

    def install(self, values: Mapping[str, Any], *, wait: bool = True) -> None:
        """Install it, and wait until it is ready. Raises HelmError."""
        with self._config() as config:
            config.install(
                self.chart,
                self.name,
                dict(values),
                wait="watcher" if wait else "hookOnly",
                timeout=_TIMEOUT,
                namespace=self.namespace.name,
            )

    def upgrade(
        self,
        values: Mapping[str, Any],
        *,
        chart: Path | None = None,
        wait: bool = True,
        rollback_on_failure: bool = False,
        timeout: int = _TIMEOUT,
    ) -> None:
        """Upgrade it. Raises HelmError."""
        with self._config() as config:
            config.upgrade(
                chart or self.chart,
                self.name,
                dict(values),
                namespace=self.namespace.name,
                wait="watcher" if wait else "hookOnly",
                timeout=timeout,
                rollback_on_failure=rollback_on_failure,
            )

    def rollback(self, revision: int | None = None) -> None:
        """Return to a revision, by default to the previous one."""
        with self._config() as config:
            config.rollback(self.name, version=revision, wait="watcher", timeout=_TIMEOUT)

    def test(self) -> str:
        """Run `helm test --logs`, and return the log of its pod. Raises HelmError."""
        with self._config() as config:
            logs: str = config.test(self.name, timeout=_TIMEOUT, logs=True)["logs"]
            return logs

    def uninstall(self) -> None:
        """Uninstall it."""
        with self._config() as config:
            config.uninstall(self.name, wait="watcher", timeout=_TIMEOUT)

    def revisions(self) -> list[dict[str, Any]]:
        """Its revisions, the oldest first."""
        with self._config() as config:
            return list(config.history(self.name))

    def manifests(self) -> list[str]:
        """The objects of the newest revision, and those of its hooks."""
        with self._config() as config:
            stored = config.get_all(self.name)
            return [stored["summary"]["manifest"], *(hook["manifest"] for hook in stored["hooks"])]

    def status(self) -> dict[str, Any]:
        """The newest revision, with its manifest and its notes."""
        with self._config() as config:
            return dict(config.status(self.name))

    def _config(self) -> helm_python.Config:
        return helm_python.Config(namespace=self.namespace.name)
