"""What the client of a poll finds at a transmitter: at a real Keycloak, and at the tests' own transmitter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import jwt
import pytest
import pytest_asyncio

from authz_service.config.model import Issuer
from authz_service.core.errors import FetchFailed
from authz_service.tokens.revocation.event_token import RefusedSetError
from authz_service.tokens.revocation.events import SESSION_REVOKED, events_of
from authz_service.tokens.revocation.poll_client import PollClient
from authz_service.tokens.revocation.revocations import TokenParts
from support.keycloak import RECEIVER as RECEIVER_ID
from support.keycloak import RECEIVER_SECRET, Realm
from support.keycloak_mesh import TIMEOUT
from support.keycloak_server import Server, keycloak
from support.transmitter import RECEIVER, Transmitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

_PROMISE = "that Keycloak's security events are polled, acknowledged and refused as RFC 8936 defines"


class Stream(Protocol):
    """A transmitter's stream, to which the test adds events."""

    @property
    def issuer(self) -> str: ...

    @property
    def security_events(self) -> dict[str, Any]:
        """The receiver's settings."""

    async def revoke_session(self, sid: str) -> None:
        """Transmit the event that this session ended."""


class OwnStream:
    def __init__(self, transmitter: Transmitter, folder: Path) -> None:
        self._transmitter = transmitter
        self.issuer = transmitter.issuer
        self.security_events = transmitter.security_events(folder, scopes=["ssf.read"])

    async def revoke_session(self, sid: str) -> None:
        await self._transmitter.revoke_session("u1", sid)


class KeycloakStream:
    def __init__(self, realm: Realm, user: str, poll_endpoint: str, folder: Path) -> None:
        self._realm = realm
        self._user = user
        self.issuer = realm.issuer
        (folder / "secret").write_text(RECEIVER_SECRET)
        self.security_events = {
            "poll_endpoint": poll_endpoint,
            "audience": RECEIVER,
            "client_id": RECEIVER_ID,
            "client_secret_file": str(folder / "secret"),
            "scopes": ["ssf.read"],
        }

    async def revoke_session(self, sid: str) -> None:
        user = {"format": "iss_sub", "iss": self.issuer, "sub": self._user}
        session = {"format": "opaque", "id": sid}
        await self._realm.emit_session_revoked({"format": "complex", "user": user, "session": session})


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak(_PROMISE) as server:
        yield server


@pytest_asyncio.fixture(params=["own", "keycloak"])
async def stream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stream]:
    if request.param == "own":
        async with Transmitter() as transmitter:
            transmitter.waits = False
            yield OwnStream(transmitter, tmp_path)
    else:
        async with Realm(request.getfixturevalue("server")) as realm:
            endpoint = await realm.transmit_events(RECEIVER)
            ann = jwt.decode(await realm.access_token("web", "ann"), options={"verify_signature": False})["sub"]
            yield KeycloakStream(realm, ann, endpoint, tmp_path)


class Polls:
    """Polls a stream with a client that is closed at the end."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._made: list[PollClient] = []

    def client(self, **changes: Any) -> PollClient:
        """A client with changes of its settings, of which None removes one."""
        changed = (self._stream.security_events | changes).items()
        settings = {
            "issuer": self._stream.issuer,
            "audiences": ["api"],
            "keys": {"timeout": TIMEOUT},
            "security_events": {name: value for name, value in changed if value is not None},
        }
        issuer = Issuer.read(settings)
        assert issuer.security_events is not None
        self._made.append(PollClient(issuer, issuer.security_events, clock=time.time, timer=time.monotonic))
        return self._made[-1]

    async def failure(self, **changes: Any) -> str:
        with pytest.raises(FetchFailed) as failed:
            await self.client(**changes).poll([], {}, wait=False)
        return str(failed.value).rpartition(" responded with ")[2]

    async def close(self) -> None:
        for client in self._made:
            await client.close()


@pytest_asyncio.fixture
async def polls(stream: Stream) -> AsyncIterator[Polls]:
    polls = Polls(stream)
    yield polls
    await polls.close()


def sessions(sets: Mapping[str, str]) -> list[str]:
    """The sessions that these SETs revoke."""
    found = []
    for jti, text in sets.items():
        claims = jwt.decode(text, options={"verify_signature": False})
        assert claims["jti"] == jti
        ((revocation,),) = (event.revocations for event in events_of(claims, claims["iss"]))
        found.append(revocation.parts.session)
    return found


async def test_a_set_names_its_type_issuer_audience_time_and_subject(stream: Stream, polls: Polls) -> None:
    await stream.revoke_session("s1")
    ((jti, text),) = (await polls.client().poll([], {}, wait=True)).sets.items()
    assert jwt.get_unverified_header(text)["typ"] == "secevent+jwt"
    claims = jwt.decode(text, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["jti"]) == (stream.issuer, RECEIVER, jti)
    assert abs(claims["iat"] - time.time()) < 600
    assert claims["events"].keys() == {SESSION_REVOKED}
    ((revocation,),) = (event.revocations for event in events_of(claims, stream.issuer))
    assert revocation.parts == TokenParts(session="s1")


async def test_sets_are_delivered_again_the_oldest_first_until_they_are_acknowledged(
    stream: Stream, polls: Polls
) -> None:
    client = polls.client()
    assert await client.poll([], {}, wait=False) == ({}, False)
    for sid in ("s1", "s2"):
        await stream.revoke_session(sid)
    sets, more = await client.poll([], {}, wait=False)
    assert (sessions(sets), more) == (["s1", "s2"], False)
    assert await client.poll(["unknown"], {}, wait=False) == (sets, False)
    first, second = sets
    assert sessions((await client.poll([first], {}, wait=False)).sets) == ["s2"]
    assert await client.poll([first, second], {}, wait=False) == ({}, False)


async def test_a_refused_set_is_not_delivered_again(stream: Stream, polls: Polls) -> None:
    client = polls.client()
    for sid in ("s1", "s2"):
        await stream.revoke_session(sid)
    first = next(iter((await client.poll([], {}, wait=False)).sets))
    refused = {first: RefusedSetError("invalid_key", "unknown_key")}
    for _ in range(2):
        sets, _more = await client.poll([], refused, wait=False)
        assert sessions(sets) == ["s2"]


async def test_no_more_sets_come_than_were_requested(
    stream: Stream, polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_service.tokens.revocation.poll_client.MAX_SETS", 2)
    client = polls.client()
    for number in range(3):
        await stream.revoke_session(f"s{number}")
    sets, more = await client.poll([], {}, wait=False)
    assert (sessions(sets), more) == (["s0", "s1"], True)
    sets, more = await client.poll(list(sets), {}, wait=False)
    assert (sessions(sets), more) == (["s2"], False)


async def test_a_client_that_may_not_poll_is_refused_and_the_failure_says_what_to_check(
    stream: Stream, polls: Polls, tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    scopes = "status 401: check security_events.client_secret_file and scopes, and the permissions of the client"
    assert await polls.failure(scopes=[]) == scopes
    bearer = {"client_secret_file": None, "client_id": None, "bearer_token_file": str(tmp_path / "wrong")}
    token = "status 401: check security_events.bearer_token_file, and the permissions of the client"
    assert await polls.failure(**bearer) == token
    assert "check security_events.client_id and its secret" in await polls.failure(
        client_secret_file=str(tmp_path / "wrong")
    )
    assert "invalid_scope: check security_events.scopes" in await polls.failure(scopes=["unknown"])
    elsewhere = f"{stream.security_events['poll_endpoint']}/elsewhere"
    assert "check security_events.poll_endpoint" in await polls.failure(poll_endpoint=elsewhere)
