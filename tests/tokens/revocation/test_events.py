"""A security event revokes the tokens that its subject had until then, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claims import Claims
from authz_service.tokens.revocation.events import (
    ACCOUNT_DISABLED,
    ACCOUNT_PURGED,
    SESSION_REVOKED,
    SESSIONS_REVOKED,
    STREAM_UPDATED,
    VERIFICATION,
    SecurityEvent,
    UnusableEventError,
    events_of,
)
from authz_service.tokens.revocation.revocations import Revocations, TokenParts
from support.trust import ISSUER, NOW

USER = {"format": "iss_sub", "iss": ISSUER, "sub": "u1"}
SESSION = {"format": "opaque", "id": "s1"}


def claims_of(subject: str, issued_at: int) -> Claims:
    return Claims(
        issuer="main",
        subject=subject,
        client_id="app",
        audiences=frozenset(),
        scopes=frozenset(),
        scope="",
        raw={"iss": ISSUER, "iat": issued_at},
    )


def events(subject: Any, kind: str = SESSION_REVOKED, **payload: Any) -> tuple[SecurityEvent, ...]:
    return events_of({"iat": NOW, "sub_id": subject, "events": {kind: payload}}, ISSUER)


@pytest.mark.parametrize(
    ("subject", "parts"),
    [
        (USER, [TokenParts(subject="u1")]),
        ({"format": "opaque", "id": "u1"}, [TokenParts(subject="u1")]),
        ({"format": "complex", "user": USER}, [TokenParts(subject="u1")]),
        ({"user": USER}, [TokenParts(subject="u1")]),
        ({"format": "complex", "session": SESSION}, [TokenParts(session="s1")]),
        (
            {"format": "complex", "user": USER, "session": SESSION, "tenant": {"format": "opaque", "id": "t"}},
            [TokenParts(subject="u1", session="s1")],
        ),
        (
            {
                "format": "aliases",
                "identifiers": [USER, {"format": "opaque", "id": "u2"}, {"format": "email", "email": "u@a.example"}],
            },
            [TokenParts(subject="u1"), TokenParts(subject="u2")],
        ),
    ],
)
@pytest.mark.parametrize("kind", [SESSION_REVOKED, ACCOUNT_DISABLED, ACCOUNT_PURGED, SESSIONS_REVOKED])
def test_each_format_of_a_subject_names_a_user_or_a_session(
    kind: str, subject: dict[str, Any], parts: list[TokenParts]
) -> None:
    (event,) = events(subject, kind)
    assert event.type == kind.rpartition("/")[2]
    assert [(each.parts, each.origin) for each in event.revocations] == [(each, event.type) for each in parts]


@pytest.mark.parametrize(
    "subject",
    [
        None,
        [],
        "u1",
        {},
        {"format": "complex"},
        {"format": "complex", "tenant": {"format": "opaque", "id": "t"}},
        {"format": "complex", "user": USER, "device": SESSION},
        {"format": "complex", "user": USER, "session": {"format": "iss_sub", "iss": ISSUER, "sub": "s"}},
        {"format": "complex", "user": {"format": "complex", "user": USER}},
        USER | {"iss": "https://evil.example"},
        USER | {"sub": ""},
        USER | {"sub": 7},
        USER | {"sub": "u" * 513},
        {"format": "iss_sub", "iss": ISSUER},
        {"format": "email", "email": "u@a.example"},
        {"format": ["iss_sub"]},
        {"format": "aliases", "identifiers": []},
        {"format": "aliases", "identifiers": [{"format": ["iss_sub"]}]},
        {"format": "aliases", "identifiers": [USER] * 17},
        {"format": "aliases", "identifiers": [{"format": "email", "email": "u@a.example"}]},
        {"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": [USER]}]},
    ],
)
def test_a_subject_that_names_neither_is_refused_and_not_quoted(subject: Any) -> None:
    with pytest.raises(UnusableEventError) as refused:
        events(subject)
    assert "u1" not in str(refused.value)
    assert "example" not in str(refused.value)


@pytest.mark.parametrize(
    ("payload", "last"),
    [
        ({}, NOW),
        ({"event_timestamp": NOW - 60}, NOW - 60),
        ({"event_timestamp": NOW + 60}, NOW),
        ({"event_timestamp": NOW * 1000}, NOW),  # milliseconds
    ],
)
def test_tokens_issued_up_to_the_events_time_are_revoked_and_those_of_a_later_login_are_not(
    payload: dict[str, Any], last: int
) -> None:
    (event,) = events(USER, **payload)
    revocations = Revocations(event.revocations)
    for issued_at, revoked in ((last - 1, True), (last, True), (last + 1, False)):
        assert (revocations.find(claims_of("u1", issued_at)) is not None) == revoked
    assert revocations.find(claims_of("u2", last)) is None


@pytest.mark.parametrize("time", [None, "1", True, -1, float("nan"), float("inf"), 10**400, []])
def test_a_time_that_is_none_is_refused(time: Any) -> None:
    with pytest.raises(UnusableEventError, match="event_timestamp is not a time"):
        events(USER, event_timestamp=time)
    with pytest.raises(UnusableEventError, match="iat is not a time"):
        events_of({"iat": time, "sub_id": USER, "events": {SESSION_REVOKED: {}}}, ISSUER)


def test_the_subject_of_earlier_drafts_is_within_the_event() -> None:
    claims = {"iat": NOW, "events": {SESSION_REVOKED: {"subject": {"user": USER, "session": SESSION}}}}
    (event,) = events_of(claims, ISSUER)
    assert event.revocations[0].parts == TokenParts(subject="u1", session="s1")


def test_any_other_type_revokes_nothing_whatever_its_content() -> None:
    for payload in ({}, None, {"state": "x"}):
        claims = {"iat": NOW, "events": {VERIFICATION: payload, "urn:x": payload}}
        assert events_of(claims, ISSUER) == (SecurityEvent("verification"), SecurityEvent("other"))


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"status": "enabled"}, "enabled"),
        ({"status": "paused", "reason": "maintenance"}, "paused"),
        ({"status": "disabled"}, "disabled"),
        ({"status": "evil"}, ""),
        ({"status": ["paused"]}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_a_change_of_the_stream_has_its_status_from_a_closed_list(payload: Any, status: str) -> None:
    claims = {"iat": NOW, "events": {STREAM_UPDATED: payload}}
    assert events_of(claims, ISSUER) == (SecurityEvent("stream-updated", (), status),)


def test_where_the_issuer_has_tenants_a_revocation_names_its_tenant() -> None:
    claims = {"iat": NOW, "sub_id": USER, "events": {SESSION_REVOKED: {}}}
    ((_, (revocation,), _),) = events_of(claims, ISSUER, ISSUER)
    assert revocation.parts == TokenParts(issuer=ISSUER, subject="u1")


@pytest.mark.parametrize("content", [None, [], {}, "x", {str(number): {} for number in range(17)}])
def test_a_set_without_events_or_with_too_many_is_refused(content: Any) -> None:
    with pytest.raises(UnusableEventError, match="events is not an object"):
        events_of({"iat": NOW, "events": content}, ISSUER)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["iss_sub", "opaque", "aliases", ISSUER, "u1", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["format", "iss", "sub", "id", "user", "session", "identifiers", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(_JSON, st.dictionaries(st.sampled_from(["event_timestamp", "subject"]), _JSON))
def test_whatever_is_sent_is_refused_or_names_a_user_or_a_session_of_this_issuer(subject: Any, payload: Any) -> None:
    try:
        (event,) = events_of({"iat": NOW, "sub_id": subject, "events": {SESSION_REVOKED: payload}}, ISSUER)
    except UnusableEventError:
        return
    assert event.revocations
    for revocation in event.revocations:
        assert revocation.parts.issuer == ""
        assert revocation.parts.subject or revocation.parts.session
        assert revocation.issued_before <= NOW + 1
