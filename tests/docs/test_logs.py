"""The page on logs: the line of a decision, the metadata, and the events of the program."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.attributes import Attributes
from authz_service.core.claims import Identity, UnverifiedIdentity
from authz_service.core.correlation import correlation_of
from authz_service.core.decision import CORRELATION_MEMBERS, METADATA_MEMBERS, Decision, Deny
from authz_service.core.reasons import Reason
from authz_service.telemetry import decision_log, log_text
from authz_service.telemetry.decision_log import DecisionLog
from support.documents import ROOT, blocks, code, page, section, tables
from support.log_lines import lines, written

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = page("reference/logs")
DECISIONS = section(PAGE, "## The decision log")
METHODS = {"info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "critical"}


def rows(text: str) -> list[list[str]]:
    return [row for each in tables(text) for row in each.rows]


EVENTS = {event: level for names, level, *_ in rows(section(PAGE, "## Events")) for event in code(names)}


def line_of(decision: Decision, worker: int | None = None) -> dict[str, Any]:
    headers = {
        "x-request-id": "8f4b2a4e-5e8e-9c1e-8f6f-0a1b2c3d4e5f",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    attributes = Attributes("POST", "api.example.com", "/v1/appointments?q=1", headers)
    stream = written(worker=worker)
    DecisionLog("all").write(attributes, decision, "6f0c2a51d7b84e39", correlation_of(headers), 61e-6)
    (line,) = lines(stream)
    return line


def test_the_line_on_the_page_is_a_line_of_the_program() -> None:
    shown = json.loads(blocks(DECISIONS, "json")[0].text)
    identity = Identity("main", "u1", "app")
    denied = Deny(Reason.INSUFFICIENT_SCOPE, "write", "missing scopes: write:appointments", identity=identity)
    assert list(shown.items()) == list((line_of(denied) | {"time": shown["time"]}).items())


def test_the_page_has_exactly_the_fields_of_the_program() -> None:
    documented = {name for names, *_ in rows(DECISIONS.partition("\n### ")[0]) for name in code(names)}
    verified = line_of(Deny(Reason.EXPIRED, "read", identity=Identity("main", "u1", "app")), worker=1)
    unverified = line_of(Deny(Reason.BAD_SIGNATURE, "read", identity=UnverifiedIdentity("https://x", "k1")))
    assert documented == verified.keys() | unverified.keys()


def test_the_page_has_the_limits_of_the_program() -> None:
    limits = section(PAGE, "### Limits")
    numbers = [decision_log._MAX_CLIENT_STRING, decision_log._MAX_UNVERIFIED, log_text.MAX_STRING]
    assert re.findall(r"\d[\d,]*\b", limits) == [f"{number:,}" for number in numbers]


def test_the_page_has_exactly_the_members_of_the_metadata() -> None:
    documented = {name for names, *_ in rows(section(PAGE, "## Dynamic metadata")) for name in code(names)}
    assert documented == METADATA_MEMBERS | CORRELATION_MEMBERS


def constants(path: str) -> Iterator[str]:
    tree = ast.parse((ROOT / path).read_bytes())
    return (each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str))


SOURCES = [str(path.relative_to(ROOT)) for path in (ROOT / "authz_service").rglob("*.py")]


def logged() -> Iterator[tuple[str, str]]:
    """The events with a level from info on that the program logs by their text, with their levels."""
    for path in SOURCES:
        if path.partition("/")[2].startswith(("demo/", "policy_tools/")):
            continue
        for call in ast.walk(ast.parse((ROOT / path).read_bytes())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            logger = ast.unparse(call.func.value)
            event = call.args[-1 if logger.endswith("_warnings") else 0]
            if not logger.endswith(("logger", "_warnings")) or call.func.attr not in METHODS:
                continue
            if isinstance(event, ast.Constant) and isinstance(event.value, str):
                yield event.value, METHODS[call.func.attr]


def test_every_event_of_the_program_is_on_the_page_with_its_level() -> None:
    found = dict(logged())
    assert len(found) > 30
    assert {event: EVENTS.get(event) for event in found} == found


def test_every_event_on_the_page_exists() -> None:
    every = {text for path in SOURCES for text in constants(path)}
    assert [event for event in EVENTS if event not in every] == []


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_a_level(event: str) -> None:
    assert EVENTS[event] in set(METHODS.values())
