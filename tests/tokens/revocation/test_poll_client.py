"""Polls over HTTP: what is sent, and which responses count. A hostile transmitter costs only its own poll."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from authz_service.config.model import Issuer
from authz_service.core.errors import FetchFailed
from authz_service.providers.client import USER_AGENT
from authz_service.tokens.revocation.event_token import RefusedSetError
from authz_service.tokens.revocation.poll_client import MAX_RESPONSE, MAX_SETS, PollClient, PollResponse, parse
from support.introspection_clients import free_port
from support.transmitter import CLIENT_SECRET, FAULTS, POLL, TOKEN, Refusal, Transmitter, hang, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

NO_ERRORS: Mapping[str, RefusedSetError] = {}
OPENID = "/.well-known/openid-configuration"
SECRET_NOTE = "what-the-transmitter-wrote"


class Clients:
    """Makes clients of one transmitter, and closes them at the end."""

    def __init__(self, transmitter: Transmitter, folder: Path) -> None:
        self.transmitter = transmitter
        self._folder = folder
        self._made: list[PollClient] = []

    def client(
        self,
        *,
        key: bool = False,
        keys: dict[str, Any] | None = None,
        timer: Callable[[], float] = time.monotonic,
        **security_events: Any,
    ) -> PollClient:
        settings = self.transmitter.security_events(self._folder, key=key, **security_events)
        issuer = Issuer.read(
            {
                "issuer": self.transmitter.issuer,
                "audiences": ["api"],
                "keys": keys or {},
                "security_events": settings,
            }
        )
        assert issuer.security_events is not None
        self._made.append(PollClient(issuer, issuer.security_events, clock=time.time, timer=timer))
        return self._made[-1]

    async def poll(self, **settings: Any) -> PollResponse:
        return await self.client(**settings).poll([], NO_ERRORS, wait=False)

    async def failure(self, *, wait: bool = False, **settings: Any) -> FetchFailed:
        """The failure of a poll. Asserts that its message has no secret, token, or words of the transmitter."""
        with pytest.raises(FetchFailed) as failed:
            await self.client(**settings).poll([], NO_ERRORS, wait=wait)
        for secret in (CLIENT_SECRET, SECRET_NOTE, *self.transmitter.grants):
            assert secret not in str(failed.value)
        return failed.value

    async def close(self) -> None:
        for client in self._made:
            await client.close()


@pytest.fixture
async def clients(transmitter: Transmitter, tmp_path: Path) -> AsyncIterator[Clients]:
    clients = Clients(transmitter, tmp_path)
    yield clients
    await clients.close()


# Delivery.


async def test_what_a_poll_delivers_is_delivered_until_it_is_acknowledged_or_refused(
    transmitter: Transmitter, clients: Clients
) -> None:
    client = clients.client()
    jtis = [await transmitter.disable(f"u{number}") for number in range(3)]
    for _ in range(2):
        assert await client.poll([], NO_ERRORS, wait=False) == (transmitter.sets, False)
    refused = {jtis[1]: RefusedSetError("invalid_key", "unknown_key")}
    assert list((await client.poll(jtis[:1], refused, wait=False)).sets) == jtis[2:]
    assert transmitter.acknowledged == jtis[:1]
    assert transmitter.refused == {jtis[1]: Refusal("invalid_key", "unknown_key")}
    assert await client.poll(jtis[2:], NO_ERRORS, wait=False) == ({}, False)


async def test_a_request_is_one_post_of_json(transmitter: Transmitter, clients: Clients) -> None:
    transmitter.waits = False
    client = clients.client()
    await client.poll([], NO_ERRORS, wait=False)
    await client.poll(["é"], {"b": RefusedSetError("invalid_issuer", "why")}, wait=True)
    assert transmitter.polls == [
        {"maxEvents": MAX_SETS, "returnImmediately": True},
        {
            "maxEvents": MAX_SETS,
            "returnImmediately": False,
            "ack": ["é"],
            "setErrs": {"b": {"err": "invalid_issuer", "description": "why"}},
        },
    ]
    first, second = (request for request in transmitter.requests if request.path == POLL)
    assert first.method == "POST"
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Accept"] == "application/json"
    assert first.headers["User-Agent"] == USER_AGENT
    assert "Content-Language" not in first.headers
    assert second.headers["Content-Language"] == "en"


async def test_at_most_fifty_sets_come_at_a_time(transmitter: Transmitter, clients: Clients) -> None:
    client = clients.client()
    for number in range(MAX_SETS + 20):
        await transmitter.deliver(f"set-{number}", f"jti-{number}")
    first = await client.poll([], NO_ERRORS, wait=False)
    assert (len(first.sets), first.more_available) == (MAX_SETS, True)
    second = await client.poll(list(first.sets), NO_ERRORS, wait=False)
    assert (len(second.sets), second.more_available) == (20, False)
    assert not first.sets.keys() & second.sets.keys()


async def test_of_a_flood_fifty_sets_count_and_the_others_remain_available(
    transmitter: Transmitter, clients: Clients
) -> None:
    transmitter.floods = True
    client = clients.client()
    for _ in range(3):
        response = await client.poll([], NO_ERRORS, wait=False)
        assert (len(response.sets), response.more_available) == (MAX_SETS, True)


async def test_a_poll_that_waits_returns_when_an_event_comes(transmitter: Transmitter, clients: Clients) -> None:
    waiting = asyncio.create_task(clients.client().poll([], NO_ERRORS, wait=True))
    await transmitter.until(lambda: bool(transmitter.polls))
    jti = await transmitter.revoke_session("u1", "s1")
    assert list((await waiting).sets) == [jti]


async def test_a_poll_that_waits_may_take_longer_than_another_fetch(transmitter: Transmitter, clients: Clients) -> None:
    transmitter.max_wait = 1.2
    assert await clients.client(keys={"timeout": "1s"}).poll([], NO_ERRORS, wait=True) == ({}, False)


async def test_a_canceled_poll_leaves_a_usable_client(transmitter: Transmitter, clients: Clients) -> None:
    client = clients.client()
    canceled = asyncio.create_task(client.poll([], NO_ERRORS, wait=True))
    await transmitter.until(lambda: bool(transmitter.polls))
    canceled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await canceled
    jti = await transmitter.disable("u1")
    assert list((await client.poll([], NO_ERRORS, wait=True)).sets) == [jti]


async def test_a_transmitter_that_comes_back_is_polled_again(transmitter: Transmitter, clients: Clients) -> None:
    client = clients.client()
    jti = await transmitter.disable("u1")
    for _ in range(2):
        assert list((await client.poll([], NO_ERRORS, wait=False)).sets) == [jti]
        await transmitter.stop()
        with pytest.raises(FetchFailed, match="refuses connections"):
            await client.poll([], NO_ERRORS, wait=False)
        await transmitter.start()


# Responses.


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_faulty_transmitter_fails_its_poll_within_bounds_and_is_polled_again(
    transmitter: Transmitter, clients: Clients, fault: str, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    monkeypatch.setattr("authz_service.tokens.revocation.poll_client.WAIT_TIMEOUT", 1.0)
    transmitter.serve("/elsewhere", b'{"sets":{}}', content_type="application/json")
    transmitter.fault = FAULTS[fault]
    client = clients.client(keys={"timeout": "1s"})
    with pytest.raises(FetchFailed) as failed:
        await client.poll([], NO_ERRORS, wait=wait)
    assert f"{transmitter.origin}{POLL}" in str(failed.value)
    assert transmitter.count("/elsewhere") == 0
    transmitter.fault = None
    jti = await transmitter.disable("u1")
    assert list((await client.poll([], NO_ERRORS, wait=wait)).sets) == [jti]


async def test_no_failure_repeats_what_the_transmitter_wrote(transmitter: Transmitter, clients: Clients) -> None:
    note = SECRET_NOTE.encode()
    for fault in (
        respond(note),
        respond(b'{"sets":["' + note + b'"]}'),
        respond(b'{"err":"' + note + b'"}', status=400),
        respond(note, content_type=f"text/{SECRET_NOTE}"),
        respond(status=302, Location=f"/{SECRET_NOTE}"),
        respond(status=429, Retry_After=SECRET_NOTE),
        respond(status=401, WWW_Authenticate=SECRET_NOTE),
    ):
        transmitter.fault = fault
        await clients.failure()  # asserts that its message does not contain it


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_retry_after_is_part_of_the_failure(transmitter: Transmitter, clients: Clients, status: int) -> None:
    transmitter.fault = respond(status=status, Retry_After="7")
    assert (await clients.failure()).retry_after == 7
    transmitter.fault = respond(status=status)
    assert (await clients.failure()).retry_after == 0


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "check security_events.client_secret_file and scopes, and the permissions of the client"),
        (403, "check security_events.client_secret_file and scopes, and the permissions of the client"),
        (404, "check security_events.poll_endpoint, and that the stream of this client exists"),
        (302, "which is not followed: check security_events.poll_endpoint"),
        (503, "responded with status 503"),
    ],
)
async def test_a_failure_says_what_to_check(
    transmitter: Transmitter, clients: Clients, status: int, remedy: str
) -> None:
    transmitter.fault = respond(status=status)
    assert str(await clients.failure()).endswith(remedy)


def response_with(sets: object, **members: object) -> PollResponse:
    return parse(json.dumps({"sets": sets} | members).encode(), "the response")


@pytest.mark.parametrize("more", [False, None, 1, "true", []])
def test_more_is_available_only_if_it_is_true(more: object) -> None:
    assert response_with({}, moreAvailable=more) == ({}, False)
    assert response_with({}, moreAvailable=True) == ({}, True)
    assert response_with({}) == ({}, False)
    assert response_with({}, other=[{}]) == ({}, False)


@pytest.mark.parametrize("value", [None, 7, True, ["text"], {"a": "text"}])
def test_a_value_that_is_not_a_string_is_no_set_and_affects_no_other(value: object) -> None:
    assert response_with({"a": "text", "b": value, "c": ""}) == ({"a": "text", "b": "", "c": ""}, False)


@pytest.mark.parametrize("values", [b"1,", b"[],", b"{},", b'"",', b'{"":1},', b"[" * 30 + b"]" * 30 + b","])
def test_a_response_that_would_take_long_to_parse_is_not_parsed(values: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"sets":{},"a":[' + values * (MAX_RESPONSE // len(values) - 20) + b"1]}"
    monkeypatch.setattr("authz_service.providers.json_object.parse", None)
    with pytest.raises(FetchFailed, match="commas and brackets"):
        parse(body, "the response")


def test_a_response_of_the_largest_size_that_a_transmitter_could_send_by_ignoring_the_maximum_is_parsed() -> None:
    sets = {f"jti-{number}": "s" * 250 for number in range(4000)}
    assert len(json.dumps({"sets": sets})) > MAX_RESPONSE
    assert response_with(sets) == (dict(list(sets.items())[:MAX_SETS]), True)


async def test_fewer_sets_are_requested_after_a_failure_so_that_large_ones_do_not_stop_the_stream(
    transmitter: Transmitter, clients: Clients
) -> None:
    client = clients.client()
    for number in range(8):
        await transmitter.deliver("s" * 300_000, f"jti-{number}")
    received: list[str] = []
    while transmitter.sets:
        try:
            response = await client.poll(received, NO_ERRORS, wait=False)
        except FetchFailed as failure:
            assert "larger than" in str(failure)
        else:
            received = list(response.sets)
    assert len(transmitter.acknowledged) == 8
    assert [each["maxEvents"] for each in transmitter.polls][:6] == [50, 25, 12, 6, 3, 6]


async def test_a_single_set_that_is_larger_than_a_response_may_be_requested_forever_but_one_at_a_time(
    transmitter: Transmitter, clients: Clients
) -> None:
    client = clients.client()
    await transmitter.deliver("s" * (MAX_RESPONSE + 1), "jti")
    for _ in range(10):
        with pytest.raises(FetchFailed):
            await client.poll([], NO_ERRORS, wait=False)
    assert transmitter.polls[-1]["maxEvents"] == 1


# Authorization.


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("discovered", [False, True])
async def test_the_client_gets_a_token_for_its_scopes_once(
    transmitter: Transmitter, clients: Clients, *, key: bool, discovered: bool
) -> None:
    endpoint = None if discovered else transmitter.origin + TOKEN
    client = clients.client(key=key, token_endpoint=endpoint)
    for _ in range(3):
        await client.poll([], NO_ERRORS, wait=False)
    assert transmitter.count(TOKEN) == 1
    assert transmitter.count(OPENID) == (1 if discovered else 0)
    assert [grant.scope for grant in transmitter.grants.values()] == ["ssf.read ssf.manage"]


async def test_a_token_from_a_file_is_sent_and_no_other_is_requested(
    transmitter: Transmitter, clients: Clients, tmp_path: Path
) -> None:
    now = 0.0
    (tmp_path / "token").write_text(transmitter.grant())
    file = str(tmp_path / "token")
    client = clients.client(timer=lambda: now, client_secret_file=None, client_id=None, bearer_token_file=file)
    await client.poll([], NO_ERRORS, wait=False)
    transmitter.grants.clear()
    with pytest.raises(FetchFailed) as failed:
        await client.poll([], NO_ERRORS, wait=False)
    assert str(failed.value).endswith("check security_events.bearer_token_file, and the permissions of the client")
    (tmp_path / "token").write_text(transmitter.grant())
    now = 2.0
    await client.poll([], NO_ERRORS, wait=False)
    assert {request.path for request in transmitter.requests} == {POLL}
    assert transmitter.count(POLL) == 3


async def test_a_token_that_became_invalid_is_replaced_within_the_poll(
    transmitter: Transmitter, clients: Clients
) -> None:
    client = clients.client()
    await client.poll([], NO_ERRORS, wait=False)
    transmitter.grants.clear()
    jti = await transmitter.disable("u1")
    assert list((await client.poll([], NO_ERRORS, wait=False)).sets) == [jti]
    assert transmitter.count(TOKEN) == 2


async def test_a_token_that_is_never_accepted_is_requested_once_a_poll(
    transmitter: Transmitter, clients: Clients
) -> None:
    transmitter.fault = respond(status=401)
    client = clients.client()
    for count in (2, 3, 4):
        with pytest.raises(FetchFailed):
            await client.poll([], NO_ERRORS, wait=False)
        assert transmitter.count(TOKEN) == count


async def test_without_a_token_no_poll_is_sent(transmitter: Transmitter, clients: Clients) -> None:
    transmitter.token_fault = respond(b'{"error":"invalid_client"}', 401)
    assert "invalid_client" in str(await clients.failure())
    assert transmitter.count(POLL) == 0


async def test_a_token_endpoint_that_hangs_does_not_hold_up_a_poll_that_waits(
    transmitter: Transmitter, clients: Clients
) -> None:
    transmitter.token_fault = hang
    failure = await clients.failure(wait=True, keys={"timeout": "100ms"})
    assert str(failure) == f"no complete access token from {transmitter.origin}{TOKEN} within 0.1 s"


async def test_the_token_is_sent_to_the_poll_endpoint_only(transmitter: Transmitter, clients: Clients) -> None:
    await clients.poll()
    (token,) = transmitter.grants
    for request in transmitter.requests:
        assert (request.headers.get("Authorization") == f"Bearer {token}") == (request.path == POLL)


async def test_the_bearer_token_for_the_keys_is_sent_for_metadata_only(
    transmitter: Transmitter, clients: Clients, tmp_path: Path
) -> None:
    (tmp_path / "keys-token").write_text("pr0jected")
    await clients.poll(keys={"bearer_token_file": str(tmp_path / "keys-token")})
    for request in transmitter.requests:
        assert (request.headers.get("Authorization") == "Bearer pr0jected") == (request.path == OPENID)


# Connections.


async def test_plain_http_off_this_machine_must_be_allowed(transmitter: Transmitter, clients: Clients) -> None:
    # An address that reaches this machine, although it is not a loopback address.
    elsewhere = f"{transmitter.origin.replace('127.0.0.1', '0.0.0.0')}{POLL}"  # noqa: S104 - none listens
    assert "plain http to another host is not allowed" in str(await clients.failure(poll_endpoint=elsewhere))
    assert transmitter.count(POLL) == 0
    await clients.poll(poll_endpoint=elsewhere, keys={"allow_http": True})


async def test_a_transmitter_is_trusted_by_the_ca_file_of_its_issuer(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Transmitter(context) as transmitter:
        clients = Clients(transmitter, tmp_path)
        jti = await transmitter.disable("u1")
        assert list((await clients.poll(keys={"ca_file": str(tmp_path / "ca.pem")})).sets) == [jti]
        assert "not trusted" in str(await clients.failure())
        await clients.close()


async def test_a_query_string_is_sent_and_not_logged(transmitter: Transmitter, clients: Clients) -> None:
    transmitter.fault = respond(status=500)
    failure = await clients.failure(poll_endpoint=f"{transmitter.origin}{POLL}?key=s3cret")
    assert str(failure) == f"{transmitter.origin}{POLL} responded with status 500"
    assert [request.query_string for request in transmitter.requests if request.path == POLL] == ["key=s3cret"]


async def test_a_transmitter_that_is_down_is_a_failure_with_its_cause(clients: Clients) -> None:
    failure = await clients.failure(poll_endpoint=f"http://127.0.0.1:{free_port()}/poll")
    assert str(failure).endswith("/poll refuses connections")


async def test_it_can_be_closed_at_any_time_and_twice(transmitter: Transmitter, clients: Clients) -> None:
    client = clients.client()
    await client.close()
    await client.poll([], NO_ERRORS, wait=False)
    await client.close()
    await client.close()
