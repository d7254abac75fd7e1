"""Outcomes as JUnit XML, which Jenkins, GitLab and others read: one suite per file of cases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from authz_service.policy_tools.run_cases import Outcome

_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 section 2.2


def write(file: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """Write the report. ``outcomes`` are keyed by the file of cases.

    Raises:
        OSError: when the file cannot be written.
    """
    root = ET.Element("testsuites")
    for name, of_file in outcomes.items():
        failures = sum(not outcome.passed for outcome in of_file)
        suite = ET.SubElement(root, "testsuite", name=_escaped(name))
        suite.attrib |= {"tests": str(len(of_file)), "failures": str(failures), "errors": "0", "skipped": "0"}
        suite.set("time", _seconds(sum(outcome.seconds for outcome in of_file)))
        for outcome in of_file:
            _add(suite, name, outcome)
    ET.indent(root)
    file.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _add(suite: ET.Element, name: str, outcome: Outcome) -> None:
    case = ET.SubElement(suite, "testcase", name=_escaped(outcome.name), classname=_escaped(name))
    case.set("time", _seconds(outcome.seconds))
    if not outcome.passed:
        failure = ET.SubElement(case, "failure", message="not the expected answer", type="difference")
        failure.text = _escaped("\n".join(outcome.differences))


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}"


def _escaped(text: str) -> str:
    """The text without the characters that XML cannot contain."""
    return _NOT_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
