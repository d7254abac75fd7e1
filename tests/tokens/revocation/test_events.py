"""A security event revokes the tokens that its subject had until then, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tokens.revocation.claims import claims_of

USER = {"format": "iss_sub", "iss": ISSUER, "sub": "u1"}
SESSION = {"format": "opaque", "id": "s1"}
STREAM = {"format": "opaque", "id": "c534ae00-13c7-4f18-addb-554a0df36be5"}
ALL_SESSIONS = {"format": "opaque", "id": "ALL"}


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
            [TokenParts(session="s1")],
        ),
        (
            {"format": "complex", "user": {"format": "email", "email": "u@a.example"}, "session": SESSION},
            [TokenParts(session="s1")],
        ),
        (
            {
                "format": "aliases",
                "identifiers": [USER, {"format": "opaque", "id": "u2"}, {"format": "email", "email": "u@a.example"}],
            },
            [TokenParts(subject="u1"), TokenParts(subject="u2")],
        ),
        (
            {"format": "aliases", "identifiers": [USER | {"iss": "https://another.example", "sub": "u3"}, USER]},
            [TokenParts(subject="u1")],
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
        {"format": "complex", "user": USER, "session": {"format": "opaque"}},
        {"format": "complex", "user": USER | {"iss": "https://evil.example"}, "session": SESSION},
        {"format": "complex", "user": {"format": "email", "email": "u@a.example"}, "session": ALL_SESSIONS},
        {"format": "complex", "session": ALL_SESSIONS},
        USER | {"iss": "https://evil.example"},
        USER | {"sub": ""},
        USER | {"sub": 7},
        USER | {"sub": "u" * 513},
        {"format": "iss_sub", "iss": ISSUER},
        {"format": "email", "email": "u@a.example"},
        {"format": ["iss_sub"]},
        {"format": "aliases", "identifiers": []},
        {"format": "aliases", "identifiers": [{"format": ["iss_sub"]}]},
        {"format": "aliases", "identifiers": [{"format": "iss_sub", "sub": "u1"}, USER]},
        {"format": "aliases", "identifiers": [USER | {"iss": "https://another.example"}]},
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
    for issued_at, revoked in ((last - 1, True), (last, True), (last + 0.9, True), (last + 1, False)):
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
    assert event.revocations[0].parts == TokenParts(session="s1")


def of_keycloak(kind: str, subject: Any, **payload: Any) -> dict[str, Any]:
    """The claims of a SET as Keycloak 26.7 sends it."""
    return {
        "jti": "812bf920-4ca5-c133-8085-758e40a8d0db",
        "iss": ISSUER,
        "iat": NOW,
        "aud": "https://receiver.example",
        "events": {kind: payload},
        "sub_id": subject,
        "txn": "cca0c5a3-c6cc-4188-9430-188a10b3e7ba",
    }


@pytest.mark.parametrize(
    ("claims", "parts"),
    [
        (
            of_keycloak(
                SESSION_REVOKED,
                {"format": "complex", "user": USER, "session": ALL_SESSIONS},
                event_timestamp=NOW,
                initiating_entity="user",
                reason_admin={"en": "User logout"},
            ),
            TokenParts(subject="u1"),
        ),
        (
            of_keycloak(
                SESSION_REVOKED,
                {"format": "complex", "user": USER, "session": {"format": "opaque", "id": "_XAqpSX2rtgiUFxJU1KfF_7v"}},
                event_timestamp=NOW,
                initiating_entity="user",
                reason_admin={"en": "User logout"},
            ),
            TokenParts(session="_XAqpSX2rtgiUFxJU1KfF_7v"),
        ),
        (of_keycloak(SESSION_REVOKED, USER, reason_admin={"en": "stolen laptop"}), TokenParts(subject="u1")),
    ],
    ids=["the administrator logs a user out", "the user logs out", "the administrator emits the event"],
)
def test_what_keycloak_sends_revokes_the_session_or_all_tokens_of_the_user(
    claims: dict[str, Any], parts: TokenParts
) -> None:
    (event,) = events_of(claims, ISSUER)
    assert [each.parts for each in event.revocations] == [parts]
    assert event.revocations[0].issued_before == pytest.approx(NOW)


@pytest.mark.parametrize(
    ("claims", "event"),
    [
        (of_keycloak(VERIFICATION, STREAM, state="x"), SecurityEvent("verification")),
        (of_keycloak(VERIFICATION, STREAM), SecurityEvent("verification")),
        (
            of_keycloak(
                STREAM_UPDATED,
                STREAM,
                status={"stream_id": STREAM["id"], "status": "paused", "reason": "x"},
                reason="x",
            ),
            SecurityEvent("stream-updated", status="paused"),
        ),
        (
            of_keycloak(
                "https://schemas.openid.net/secevent/caep/event-type/credential-change",
                USER,
                event_timestamp=NOW,
                initiating_entity="admin",
                credential_type="password",
                change_type="update",
                kc_credential_type="password",
            ),
            SecurityEvent("other"),
        ),
    ],
    ids=["verification with a state", "verification", "a paused stream", "password reset"],
)
def test_other_events_of_keycloak_revoke_nothing(claims: dict[str, Any], event: SecurityEvent) -> None:
    assert events_of(claims, ISSUER) == (event,)


def test_a_session_is_revoked_in_tokens_that_do_not_name_their_user() -> None:
    (event,) = events({"format": "complex", "user": USER, "session": SESSION})
    lightweight = claims_of("", NOW)._replace(raw={"iss": ISSUER, "iat": NOW, "sid": "s1"})
    assert Revocations(event.revocations).find(lightweight) is not None


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
