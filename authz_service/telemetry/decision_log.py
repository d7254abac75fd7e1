"""The decision log: one line per decision.

Every denied request waits for its line, so no logging record is made: the members that depend on the configuration
alone are formatted once for each rule and reason, and the others are inserted. ``logs.configure`` sets where the lines
go and in which format.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from authz_service.core.claims import UnverifiedIdentity
from authz_service.core.correlation import NO_CORRELATION
from authz_service.core.decision import decision_label
from authz_service.core.paths import without_secrets, without_userinfo
from authz_service.core.reasons import DENIALS
from authz_service.telemetry.log_text import MAX_STRING, cleaned, is_clean, timestamp, truncated
from authz_service.telemetry.logs import decision_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz_service.core.attributes import Attributes
    from authz_service.core.claims import Claims, Identity
    from authz_service.core.correlation import Correlation
    from authz_service.core.decision import Decision
    from authz_service.core.reasons import Reason
    from authz_service.telemetry.logs import LineOutput

_MAX_CLIENT_STRING = 256  # characters of a string from a client: enough to recognize it, too few to fill a disk
_MAX_UNVERIFIED = 128  # of a string from a token whose signature was not verified


class DecisionLog:
    """Writes the decisions of one configuration, or those that it selects."""

    _LABELS: Mapping[str, tuple[str, ...]] = {"none": (), "denied": ("deny",), "all": ("allow", "deny", "answer")}

    def __init__(self, which: Literal["none", "denied", "all"]) -> None:
        self._labels = self._LABELS[which]
        self._lines: _Lines | None = None

    def write(
        self, attributes: Attributes, decision: Decision, decision_id: str, correlation: Correlation, seconds: float
    ) -> None:
        """Log a decision and its duration, if decisions of its kind are logged."""
        label = decision_label(decision)
        if label not in self._labels or (output := decision_output()) is None:
            return
        if self._lines is None or self._lines.output is not output:
            self._lines = _Lines(output)
        output.write(self._lines.line(label, attributes, decision, decision_id, correlation, seconds))


class _Lines:
    """The lines of one configuration in the format of one output."""

    def __init__(self, output: LineOutput) -> None:
        self.output = output
        format_ = output.format
        self._string = format_.string
        self._time = f"{format_.before_first}{format_.string('time')}{format_.after_name}"
        start_of = format_.start_of
        self._method, self._host, self._path = start_of("method"), start_of("host"), start_of("path")
        self._request_id, self._trace_id, self._span_id = map(start_of, ("request_id", "trace_id", "span_id"))
        self._issuer, self._subject, self._client_id = map(start_of, ("issuer", "subject", "client_id"))
        self._unverified_issuer, self._unverified_kid = map(start_of, ("unverified_issuer", "unverified_kid"))
        self._duration = start_of("duration_us")
        self._end = f"{format_.after_last}\n"
        self._prepared: dict[tuple[str, Reason, str, str], tuple[str, str]] = {}

    def line(
        self,
        label: str,
        attributes: Attributes,
        decision: Decision,
        decision_id: str,
        correlation: Correlation,
        seconds: float,
    ) -> str:
        """The line of a decision."""
        key = label, decision.reason, decision.rule, decision.mode
        after_time, after_id = self._prepared.get(key) or self._prepare(*key)
        cause = truncated(decision.cause, MAX_STRING)
        method = truncated(attributes.method, _MAX_CLIENT_STRING)
        host = truncated(without_userinfo(attributes.host), _MAX_CLIENT_STRING)
        path = truncated(without_secrets(attributes.path), _MAX_CLIENT_STRING)
        string = self._string if is_clean(f"{cause}\n{method}\n{host}\n{path}") else self._string_of_cleaned
        return (
            f"{self._time}{self._string(timestamp(time.time()))}{after_time}{self._string(decision_id)}{after_id}"
            f"{string(cause) if label == 'deny' else ''}{self._method}{string(method)}{self._host}{string(host)}"
            f"{self._path}{string(path)}"
            f"{'' if correlation is NO_CORRELATION else self._ids(correlation)}"
            f"{self._identity(decision.claims or decision.identity)}"
            f"{self._duration}{round(seconds * 1e6)}{self._end}"
        )

    def _ids(self, correlation: Correlation) -> str:
        request_id, trace_id, span_id, _ = correlation
        ids = ""
        if request_id:
            string = self._string if is_clean(request_id) else self._string_of_cleaned
            ids = f"{self._request_id}{string(request_id)}"
        if trace_id:  # hexadecimal, as is span_id
            ids = f"{ids}{self._trace_id}{self._string(trace_id)}{self._span_id}{self._string(span_id)}"
        return ids

    def _identity(self, known: Claims | Identity | UnverifiedIdentity | None) -> str:
        """Whose token it was."""
        if known is None:
            return ""
        if isinstance(known, UnverifiedIdentity):
            members = (self._unverified_issuer, known.issuer), (self._unverified_kid, known.kid)
            strings = [
                f"{start}{self._string_of_cleaned(truncated(each, _MAX_UNVERIFIED))}"
                for start, each in members
                if isinstance(each, str)
            ]
            return "".join(strings)
        issuer, subject, client_id = (
            truncated(known.issuer, _MAX_CLIENT_STRING),
            truncated(known.subject, _MAX_CLIENT_STRING),
            truncated(known.client_id, _MAX_CLIENT_STRING),
        )
        string = self._string if is_clean(f"{issuer}\n{subject}\n{client_id}") else self._string_of_cleaned
        return f"{self._issuer}{string(issuer)}{self._subject}{string(subject)}{self._client_id}{string(client_id)}"

    def _prepare(self, label: str, reason: Reason, rule: str, mode: str) -> tuple[str, str]:
        """What the lines with these members have after the time and after the decision id."""
        start_of, value = self.output.format.start_of, self.output.format.value
        constant = {"level": "info", "logger": "authz.decision", "event": "decision", **self.output.always}
        members: dict[str, object] = {"decision": label, "reason": str(reason), "rule": cleaned(rule), "mode": mode}
        if label == "deny":
            members["status"] = int(DENIALS[reason].status)
        after_time, after_id = (
            "".join(f"{start_of(name)}{value(each)}" for name, each in part.items()) for part in (constant, members)
        )
        prepared = (
            f"{after_time}{start_of('decision_id')}",
            f"{after_id}{start_of('cause')}" if label == "deny" else after_id,
        )
        self._prepared[label, reason, rule, mode] = prepared
        return prepared

    def _string_of_cleaned(self, string: str) -> str:
        return self._string(cleaned(string))
