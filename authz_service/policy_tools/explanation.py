"""Formats an explanation for people and for scripts.

Both forms have the same steps and end with the response that Envoy would get. Decides nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from authz_service.core.decision import (
    CORRELATION_MEMBERS,
    METADATA_MEMBERS,
    Allow,
    Answer,
    Deny,
    decision_label,
    outcome_label,
)
from authz_service.core.errors import printable
from authz_service.core.paths import without_secrets, without_userinfo
from authz_service.core.reasons import DENIALS
from authz_service.terminal import wrapped
from authz_service.transport.ext_authz.as_json import response_as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.core.attributes import Attributes
    from authz_service.policy_tools.explain import Explanation, Step
    from authz_service.terminal import Color

_ID = "explained"  # in place of a decision id
_RESPONSE_INDENT = 15  # of the second line of a header: further than the header itself
_MARKS = {True: ("good", "\u2713"), False: ("bad", "\u2717"), None: ("dim", "\u00b7")}


def as_json(explanation: Explanation, attributes: Attributes) -> str:
    """One JSON object: request, decision, steps, and the CheckResponse as protobuf's JSON writes it."""
    decision = explanation.decision
    members = {
        "request": {"method": attributes.method, "host": without_userinfo(attributes.host), "path": _path(attributes)},
        "decision": outcome_label(decision),
        "verdict": decision_label(decision),
        "reason": decision.reason,
        "rule": decision.rule,
        "mode": decision.mode,
        "cause": decision.cause,
        "steps": [step._asdict() for step in explanation.steps],
        "answer": response_as_json(decision, _ID, attributes, explanation.metadata),
    }
    return json.dumps(members, indent=2)


def as_text(explanation: Explanation, attributes: Attributes, color: Color, columns: int | None = None) -> str:
    """Lines of text: the request, one line per step, the response. ``columns`` is the width of the terminal, if any."""
    host = _ascii(without_userinfo(attributes.host))
    lines = [color("strong", f"{_ascii(attributes.method)} {host}{_path(attributes)}")]
    width = max(len(step.name) for step in explanation.steps)
    part = ""
    for step in explanation.steps:
        start = f"  {step.part if step.part != part else '':<9} "
        lines += _lines(start, step, width, color, columns)
        part = step.part
    for line in _response(explanation, attributes, color):
        lines += wrapped(line, _RESPONSE_INDENT, columns)
    return "\n".join(lines)


def _lines(start: str, step: Step, width: int, color: Color, columns: int | None) -> Iterator[str]:
    """The lines of one step. The color of a step that did not pass is that of all its text."""
    kind, mark = _MARKS[step.passed]
    text = printable(f"{mark} {step.name:<{width}}  {step.detail}".rstrip())
    indent = len(start) + len(mark) + 1 + width + 2
    first, *more = wrapped(start + text, indent, columns)
    colored = color(kind, mark) + first[len(start) + 1 :] if step.passed else color(kind, first[len(start) :])
    yield start + colored
    for line in more:
        yield line if step.passed else f"{line[:indent]}{color(kind, line[indent:])}"


def _response(explanation: Explanation, attributes: Attributes, color: Color) -> Iterator[str]:
    decision = explanation.decision
    response = response_as_json(decision, _ID, attributes, explanation.metadata)
    is_allowed = isinstance(decision, Allow)
    shadow = ", which shadow mode does not enforce" if is_allowed and decision_label(decision) == "deny" else ""
    is_denied = isinstance(decision, Deny)
    outcome = f"deny with {int(DENIALS[decision.reason].status)}" if is_denied else outcome_label(decision)
    yield f"  {'answer':<9} {color('bad' if is_denied else 'good', outcome)}, {decision.reason}{shadow}"
    part = response["ok_response" if is_allowed else "denied_response"]
    for option in part.get("headers", ()):
        yield printable(f"{'':<11} {option['header']['key']}: {option['header']['value']}")
    if isinstance(decision, Answer):
        yield printable(f"{'':<11} {decision.body}")
    for option in part.get("response_headers_to_add", ()):
        yield printable(f"{'':<11} to the client: {option['header']['key']}: {option['header']['value']}")
    for name in part.get("headers_to_remove", ()):
        yield color("dim", printable(f"{'':<11} removed: {name}"))
    for name, value in response["dynamic_metadata"].items():
        if name not in METADATA_MEMBERS | CORRELATION_MEMBERS:
            yield printable(f"{'':<11} metadata {name}: {json.dumps(value)}")


def _path(attributes: Attributes) -> str:
    return _ascii(without_secrets(attributes.path))


def _ascii(text: str) -> str:
    return ascii(text)[1:-1]
