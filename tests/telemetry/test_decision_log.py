"""Each decision is one line with what is known of its request, and without its secrets."""

from __future__ import annotations

import io
import logging
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz_service.core.attributes import Attributes
from authz_service.core.claims import Claims, Identity, UnverifiedIdentity
from authz_service.core.correlation import NO_CORRELATION, Correlation, correlation_of
from authz_service.core.decision import Allow, Answer, Decision, Deny, decision_label
from authz_service.core.reasons import DENIALS, Reason
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.logs import configure, fields
from support.log_lines import ANY_TEXT, TOKEN, BrokenStream, lines, secrets_in, written


def attributes(**parts: Any) -> Attributes:
    return Attributes(
        **({"method": "GET", "host": "api.example.com", "path": "/v1/appointments/7", "headers": {}} | parts)
    )


def claims(subject: str = "u1", client_id: str = "app") -> Claims:
    return Claims("main", subject, client_id, frozenset(), frozenset(), "", {})


def decision_lines(
    decision: Decision, sent: Attributes | None = None, which: Literal["none", "denied", "all"] = "all"
) -> list[dict[str, Any]]:
    stream = written(level="info")
    DecisionLog(which).write(
        sent := sent or attributes(), decision, "decision-1", correlation_of(sent.headers), 0.0012345
    )
    return lines(stream)


def decision_line(decision: Decision, sent: Attributes | None = None) -> dict[str, Any]:
    [line] = decision_lines(decision, sent)
    return line


ALLOWED = Allow(Reason.OK, "read", claims())
DENIED = Deny(Reason.EXPIRED, "read", cause="it expired 12 s ago")
ANSWERED = Answer(Reason.RESOURCE_METADATA, '{"resource": "https://api.example"}', ())


@pytest.mark.parametrize(
    ("which", "expected"),
    [("none", []), ("denied", ["deny"]), ("all", ["allow", "deny", "answer"])],
    ids=["none", "denied", "all"],
)
def test_only_configured_decisions_are_written(which: Literal["none", "denied", "all"], expected: list[str]) -> None:
    found = [line for each in (ALLOWED, DENIED, ANSWERED) for line in decision_lines(each, which=which)]
    assert [line["decision"] for line in found] == expected


def test_an_allowed_request_is_one_line_with_subject_request_and_rule() -> None:
    line = decision_line(ALLOWED, attributes(headers={"x-request-id": "r1", "cookie": "secret"}))
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "authz.decision",
        "event": "decision",
        "decision_id": "decision-1",
        "decision": "allow",
        "reason": "ok",
        "rule": "read",
        "mode": "enforce",
        "method": "GET",
        "host": "api.example.com",
        "path": "/v1/appointments/7",
        "request_id": "r1",
        "issuer": "main",
        "subject": "u1",
        "client_id": "app",
        "duration_us": 1234,
    }


def test_a_denial_has_its_status_and_its_cause_too() -> None:
    line = decision_line(DENIED)
    assert (line["decision"], line["status"], line["cause"]) == ("deny", 401, "it expired 12 s ago")
    assert not {"issuer", "subject", "client_id", "request_id"} & line.keys()


def test_a_denial_of_a_verified_token_names_issuer_subject_and_client() -> None:
    line = decision_line(Deny(Reason.EXPIRED, "read", identity=Identity("main", "u1", "app")))
    assert (line["issuer"], line["subject"], line["client_id"]) == ("main", "u1", "app")
    assert not line.keys() & {"unverified_issuer", "unverified_kid"}


def test_what_an_unverified_token_claims_is_marked_as_such_and_truncated() -> None:
    line = decision_line(
        Deny(Reason.UNKNOWN_KEY, "read", identity=UnverifiedIdentity("https://x/" + "y" * 200, "k" * 200))
    )
    assert line["unverified_issuer"] == "https://x/" + "y" * 118 + "..."
    assert line["unverified_kid"] == "k" * 128 + "..."
    assert not line.keys() & {"issuer", "subject", "client_id"}


@pytest.mark.parametrize("issuer", [None, 7, ["https://x/"], {"a": 1}])
def test_an_unverified_issuer_that_is_not_a_string_and_an_absent_kid_are_left_out(issuer: object) -> None:
    line = decision_line(Deny(Reason.UNKNOWN_ISSUER, "read", identity=UnverifiedIdentity(issuer, None)))
    assert not line.keys() & {"unverified_issuer", "unverified_kid"}


def test_a_decision_has_the_ids_of_its_request() -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"x-request-id": "r1", "traceparent": f"00-{trace}-{span}-00"}
    line = decision_line(DENIED, attributes(headers=headers))
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("r1", trace, span)
    malformed = decision_line(DENIED, attributes(headers={"x-request-id": "a b", "traceparent": trace}))
    assert not malformed.keys() & {"request_id", "trace_id", "span_id"}


def test_an_answer_is_logged_without_its_document() -> None:
    line = decision_line(ANSWERED)
    assert (line["decision"], line["reason"], line["rule"]) == ("answer", "resource_metadata", "-")
    assert not {"status", "cause"} & line.keys()
    assert "https://api.example" not in str(line.values())


@pytest.mark.parametrize("reason", DENIALS)
def test_every_reason_of_a_denial_is_logged(reason: Reason) -> None:
    line = decision_line(Deny(reason))
    assert (line["reason"], line["rule"], line["status"]) == (reason, "-", DENIALS[reason].status)


@pytest.mark.parametrize("target", ["/a?access_token=secret", "/a#access_token=secret", "/a#b?secret", "/a?b#secret"])
def test_neither_query_nor_fragment_is_written(target: str) -> None:
    line = decision_line(DENIED, attributes(path=target))
    assert line["path"] == "/a"
    assert "secret" not in str(line)


def test_no_header_except_the_request_id_is_written() -> None:
    headers = {"authorization": "Basic secret", "cookie": "secret", "x-forwarded-for": "secret"}
    assert "secret" not in str(decision_line(DENIED, attributes(headers=headers)))


def test_strings_from_clients_are_truncated() -> None:
    long = "x" * 10_000
    sent = attributes(method=long, host=long, path=long)
    line = decision_line(Allow(Reason.OK, "read", claims(long, long)), sent)
    for name in ("method", "host", "path", "subject", "client_id"):
        assert line[name] == "x" * 256 + "..."


@pytest.mark.parametrize(
    "host", ["me:secret@api.example.com:80", "secret@api.example.com:80", "a@b:secret@api.example.com:80"]
)
def test_user_and_password_before_a_host_are_not_written(host: str) -> None:
    line = decision_line(DENIED, attributes(host=host, path=f"http://{host}/a?b"))
    assert (line["host"], line["path"]) == ("api.example.com:80", "http://api.example.com:80/a")
    assert "secret" not in str(line)


def test_a_truncated_token_is_still_redacted() -> None:
    line = decision_line(DENIED, attributes(path="/" + "x" * 200 + TOKEN))
    assert line["path"] == "/" + "x" * 200 + "[redacted]"


@given(method=ANY_TEXT, host=ANY_TEXT, path=ANY_TEXT, request_id=ANY_TEXT, subject=ANY_TEXT, client_id=ANY_TEXT)
def test_any_request_gives_exactly_one_line(
    method: str, host: str, path: str, request_id: str, subject: str, client_id: str
) -> None:
    sent = Attributes(method, host, path, {"x-request-id": request_id})
    line = decision_line(Deny(Reason.ID_TOKEN, "read", claims=claims(subject, client_id)), sent)
    assert {"method", "host", "path", "subject", "client_id", "duration_us"} <= line.keys()


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize(
    "long", ["x" * 480_000, "\x00" * 480_000, "\U0001f600" * 480_000, "\ud800" * 480_000, '"' * 480_000]
)
def test_no_string_makes_a_line_long(format_: str, long: str) -> None:
    stream = written(format_)
    sent = attributes(method=long, host=long, path=f"/{long}", headers={"x-request-id": long})
    for decision in (
        Deny(Reason.INSUFFICIENT_SCOPE, cause=long, claims=claims(long, long)),
        Deny(Reason.UNKNOWN_KEY, cause=long, identity=UnverifiedIdentity(long, long)),
    ):
        DecisionLog("all").write(sent, decision, "id", correlation_of(sent.headers), 0.001)
    assert [len(line) < 100_000 for line in stream.getvalue().splitlines()] == [True] * 2
    assert stream.getvalue().count("...") == 12


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(before=ANY_TEXT, after=ANY_TEXT)
def test_a_token_is_redacted_in_any_context(before: str, after: str) -> None:
    text = f"{before}{TOKEN}{after}"
    stream = written()
    denied = Deny(Reason.MALFORMED_TOKEN, cause=text, claims=claims(text, text))
    sent = attributes(method=text, host=text, path=f"/{text}", headers={"x-request-id": text, "cookie": text})
    DecisionLog("all").write(sent, denied, "id", correlation_of(sent.headers), 0.001)
    assert secrets_in(stream) == []
    assert len(lines(stream)) == 1


def test_a_broken_stream_loses_the_line_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (BrokenStream(), closed):
        configure("info", "json", stream)
        DecisionLog("all").write(attributes(), Deny(Reason.NO_RULE), "id", NO_CORRELATION, 0.001)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_of_a_decision_is_info(level: str) -> None:
    stream = written(level=level)
    DecisionLog("all").write(attributes(), DENIED, "id", NO_CORRELATION, 0.001)
    assert len(lines(stream)) == (level in {"debug", "info"})


def test_a_log_that_is_configured_again_is_used_from_then_on() -> None:
    log = DecisionLog("all")
    for worker, format_ in ((1, "json"), (2, "text"), (3, "json")):
        stream = written(format_, worker=worker)
        log.write(attributes(), DENIED, "id", NO_CORRELATION, 0.001)
        assert stream.getvalue().count("\n") == 1
        assert (f"worker={worker}" if format_ == "text" else f'"worker": {worker}') in stream.getvalue()


# The lines are those that a logging record with the same members would have.


def plain_members(attributes: Attributes, decision: Decision, decision_id: str, correlation: Correlation) -> Any:
    label = decision_label(decision)
    members: dict[str, object] = {"decision_id": decision_id, "decision": label, "reason": decision.reason}
    members |= {"rule": decision.rule, "mode": decision.mode}
    if label == "deny":
        members |= {"status": int(DENIALS[decision.reason].status), "cause": decision.cause}
    host, path = attributes.host.rpartition("@")[2], attributes.path.split("?")[0].split("#")[0]
    bounded: dict[str, Any] = {"method": attributes.method, "host": host, "path": path}
    ids = {"request_id": correlation.request_id, "trace_id": correlation.trace_id, "span_id": correlation.span_id}
    bounded |= {name: each for name, each in ids.items() if each}
    known, unverified = decision.claims or decision.identity, {}
    if isinstance(known, UnverifiedIdentity):
        unverified = {"unverified_issuer": known.issuer, "unverified_kid": known.kid}
    elif known is not None:
        bounded |= {"issuer": known.issuer, "subject": known.subject, "client_id": known.client_id}
    for name, string in bounded.items():
        members[name] = string if len(string) <= 256 else string[:256] + "..."
    for name, value in unverified.items():
        if isinstance(value, str):
            members[name] = value if len(value) <= 128 else value[:128] + "..."
    return members


TEXTS = ANY_TEXT | st.sampled_from(
    [TOKEN, f"a {TOKEN}", "Bearer abc", "DPoP", "ey", "J", "\ud800", "\U0001f600", "\u00eeyJ", "a b", '"', "\\", ""]
)
LONG = TEXTS | st.integers(100, 1100).map("x".__mul__)
IDENTITIES = (
    st.none() | st.builds(Identity, *[LONG] * 3) | st.builds(UnverifiedIdentity, LONG | st.none(), LONG | st.none())
)


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize("worker", [None, 7])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    decision=st.builds(Deny, st.sampled_from(list(DENIALS)), TEXTS, LONG, claims=st.none(), identity=IDENTITIES)
    | st.builds(Deny, st.sampled_from(list(DENIALS)), TEXTS, LONG, claims=st.builds(claims, LONG, LONG))
    | st.builds(Allow, st.sampled_from([Reason.OK, Reason.PUBLIC]), TEXTS, st.none() | st.builds(claims, LONG, LONG))
    | st.builds(Allow, st.just(Reason.EXPIRED), TEXTS, cause=LONG, mode=st.just("shadow"), identity=IDENTITIES)
    | st.builds(Answer, st.just(Reason.RESOURCE_METADATA), LONG, st.just(())),
    sent=st.builds(Attributes, LONG, LONG, LONG.filter(lambda path: "@" not in path), st.just({})),
    correlation=st.sampled_from([NO_CORRELATION, Correlation("r1"), Correlation("", "0a", "b1"), Correlation(TOKEN)]),
)
def test_a_line_is_that_of_a_logging_record_with_the_same_members(
    format_: str, worker: int | None, decision: Decision, sent: Attributes, correlation: Correlation
) -> None:
    stream = written(format_, worker=worker)
    DecisionLog("all").write(sent, decision, "0123456789abcdef", correlation, 0.000_123_4)
    members = plain_members(sent, decision, "0123456789abcdef", correlation)
    logging.getLogger("authz.decision").info("decision", extra=fields(**members, duration_us=123))
    line, record = [each.partition("level")[2] for each in stream.getvalue().splitlines()]
    assert line == record
