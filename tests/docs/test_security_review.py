"""The answers for a security review: their numbers, ports and exceptions are those of the program and of the chart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.config.model import IntrospectionSettings, Keys, SecurityEventsSettings, TokenCache
from authz_service.config.server import Server
from authz_service.keys.absent_kids import MAX_KIDS
from authz_service.runtime import worker_process
from authz_service.telemetry.log_text import cleaned
from authz_service.tokens.jwt import invalid
from authz_service.transport.http2.memory import GUARANTEED, MAX_CONNECTIONS, SHARED
from support.documents import ROOT, page, section, tables

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("understand/security-review")
CHART = ROOT / "helm/authz-service"
SHAPES = ("gateway", "service", "sidecar")
OPAQUE = IntrospectionSettings.read({"client_id": "api", "client_secret_file": "secret"})
EVENTS = SecurityEventsSettings.read(
    {"poll_endpoint": "https://idp.example.com/poll", "audience": "a", "client_id": "c", "client_secret_file": "s"}
)
KEYS, SERVER, CACHE = Keys.read({}), Server.read({}), TokenCache.read({})


@pytest.mark.parametrize(
    ("quoted", "value"),
    [
        ("{:.0f} seconds (`cache_ttl`)", OPAQUE.cache_ttl),
        ("{:.0f} seconds for introspection responses", OPAQUE.cache_ttl),
        ("{:.0f} hours (`outage_tolerance`)", KEYS.outage_tolerance / 3600),
        ("{:.0f} hours (`keep`)", EVENTS.keep / 3600),
        ("at most {:.0f} minutes (`token_cache.max_ttl`)", CACHE.max_ttl / 60),
        ("one fetch of keys in {:.0f} seconds", KEYS.unknown_kid_cooldown),
        ("killed after {:.0f} seconds and replaced", worker_process._MAX_TIMEOUTS * worker_process._REPLY_TIMEOUT),
        ("A token has at most {} KiB", SERVER.max_token_bytes >> 10),
        ("a call of Envoy at most {} MiB", SERVER.max_request_bytes >> 20),
    ],
)
def test_a_number_is_that_of_the_program(quoted: str, value: float) -> None:
    assert quoted.format(value) in PAGE.replace("\n", " ")


def test_the_lifetime_of_the_keys_and_the_deadline_are_the_defaults() -> None:
    assert (KEYS.refresh_interval, KEYS.max_refresh_interval, SERVER.check_deadline) == (300, 3600, 1)
    assert "five minutes, or at most an hour" in PAGE
    assert "at most one second (`check_deadline`)" in PAGE


def objects(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def container_ports(shape: str) -> set[int]:
    pods = [
        each["spec"]["template"]["spec"]
        for each in objects(ROOT / f"helm/examples/{shape}.yaml")
        if "template" in each.get("spec", {})
    ]
    containers = [
        container
        for pod in pods
        for container in (*pod.get("initContainers", ()), *pod["containers"])
        if container["name"] in {"authz-service", "envoy"}
    ]
    return {port["containerPort"] for container in containers for port in container.get("ports", ())}


def test_the_ports_are_those_of_the_containers_in_every_shape() -> None:
    (table,) = tables(section(PAGE, "### Which ports are open?"))
    listed = {int(re.match(r"\d+", row[0])[0]) for row in table.rows}  # type: ignore[index]
    assert listed == set().union(*(container_ports(shape) for shape in SHAPES))
    assert {row[0].split(",")[0]: row[1] for row in table.rows}["9191"].startswith(
        f"`{SERVER.grpc_address.rpartition(':')[0]}`"
    )
    assert SERVER.admin_address == "127.0.0.1:9192"


def configuration(shape: str) -> dict[str, Any]:
    maps = [each["data"] for each in objects(ROOT / f"helm/examples/{shape}.yaml") if each["kind"] == "ConfigMap"]
    (text,) = {data["config.yaml"] for data in maps if "config.yaml" in data}
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def test_with_the_chart_the_ports_listen_where_the_page_says() -> None:
    grpc = {shape: configuration(shape)["server"]["grpc_address"] for shape in SHAPES}
    assert grpc["gateway"].startswith("unix:")
    assert grpc["service"] == "0.0.0.0:9191"
    assert grpc["sidecar"] == "127.0.0.1:9191"
    assert {configuration(shape)["server"]["admin_address"] for shape in SHAPES} == {"0.0.0.0:9192"}


def test_a_process_that_hangs_is_restarted_in_the_time_of_the_liveness_probe() -> None:
    probe = yaml.safe_load((CHART / "values.yaml").read_text())["probes"]["liveness"]
    stop = 5  # terminationGracePeriodSeconds of the probe
    longest = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] + stop
    assert 30 < longest <= 40
    assert "within 40 seconds" in PAGE
    assert "within 40 seconds" in page("understand/keys-and-outages")


def test_the_memory_is_the_sum_of_the_parts_that_clients_can_fill() -> None:
    idle = int(re.findall(r"a process needs about (\d+) MB when idle", page("understand/memory"))[0])
    parts = CACHE.max_bytes + invalid._BOUNDS.max_bytes + MAX_KIDS * 1500 + MAX_CONNECTIONS * GUARANTEED + SHARED
    assert round(idle + parts / (1 << 20), -1) == 140
    for text in (PAGE, page("understand/memory")):
        assert "about 140 MiB at most" in text.replace("\n", " ")
    limit = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]["limits"]["memory"]
    assert limit == "256Mi"
    assert "limit is 256 MiB" in PAGE


def test_an_opaque_token_in_a_path_is_the_one_that_cannot_be_recognized() -> None:
    jwt, opaque = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "ory_at_k3Jd.9sQe"
    assert cleaned(f"/reset/{jwt}") == "/reset/[redacted]"
    assert cleaned(f"/reset/{opaque}") == f"/reset/{opaque}"
    assert "opaque token that a client writes into the *path*" in PAGE.replace("\n", " ")
    assert "an opaque token that a client writes into the path" in page("reference/logs").replace("\n", " ")
