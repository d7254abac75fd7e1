"""Whatever comes in and whatever fails: the response is an explicit decision, in time, and no accidental allowance."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz_service._pb.external_auth_pb2 import CheckRequest
from authz_service.authorizer import Pending
from authz_service.config.model import Settings
from authz_service.core.bounded import Bounds
from authz_service.core.decision import INTERNAL_ERROR, Allow, Deny
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.keys.cache import KeyCache
from authz_service.runtime.assembly import ProofState, authorizer_of
from authz_service.telemetry import logs
from authz_service.telemetry.decision_log import DecisionLog
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.revocation.revocations import RevocationList
from authz_service.tokens.validator import TrustedIssuer
from authz_service.transport.ext_authz import codec
from authz_service.transport.ext_authz import servicer as servicer_module
from authz_service.transport.ext_authz.servicer import Servicer
from support.active import active_config
from support.key_source import FakeSource, jwks, private_key
from support.samples import sample_value
from support.virtual_time import in_virtual_time
from transport.wire import AUDIENCE, EPOCH, ISSUER, Answer, check_request, fits_a_header, padding, read, signed

if TYPE_CHECKING:
    from authz_service.core.attributes import Attributes
    from authz_service.core.decision import Decision

SECRET = "eyJhbGciOiJub25lIn0.s3cret"
MAX_REQUEST = 1 << 20


class Sidecar:
    """A servicer with everything below it real, over a key source that the test controls, in virtual time."""

    def __init__(self, source: FakeSource, **configuration: Any) -> None:
        parts = {
            "issuers": [{"issuer": ISSUER, "name": "main", "audiences": [AUDIENCE]}],
            "rules": [{"name": "everything"}],
        }
        self.settings = Settings.read(parts | configuration)
        self.metrics = Metrics(transport="grpcio")
        issuer = self.settings.issuers[0]
        self.keys = KeyCache(
            source,
            issuer.keys,
            issuer="main",
            metrics=self.metrics.issuer("main"),
            logger=logging.getLogger("authz.keys"),
            clock=self.now,
        )
        token_cache = JwtCache(Bounds(100, 1 << 20), 300.0)
        self.authorizer = authorizer_of(
            self.settings,
            [TrustedIssuer(issuer, self.keys)],
            token_cache,
            self.metrics,
            ProofState.of(self.settings, self.metrics, None, self.now()),
            RevocationList(),
        )
        self.servicer = servicer_over(self.authorizer, metrics=self.metrics, clock=self.now)

    @staticmethod
    def now() -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def check(self, data: bytes, time_remaining: float | None = None) -> Answer:
        return read(await self.servicer.check(data, time_remaining))


def servicer_over(authorizer: Any, **parts: Any) -> Servicer:
    """A servicer with some parts replaced."""
    standard: dict[str, Any] = {
        "metrics": Metrics(transport="grpcio"),
        "clock": lambda: EPOCH,
        "timer": lambda: asyncio.get_running_loop().time(),
    }
    active = active_config(authorizer, parts.pop("decision_log", DecisionLog("all")), max_request_bytes=MAX_REQUEST)
    return Servicer(active, **(standard | parts))


class FakeAuthorizer:
    """An authorizer with given outcomes."""

    def __init__(self, outcome: Decision | Pending | Exception, finishing: Decision | Exception | None = None) -> None:
        self._outcome = outcome
        self._finishing = finishing

    def begin(self, _attributes: Attributes, _now: float) -> Any:
        return self._give(self._outcome)

    def finish(self, _pending: Any, _now: float) -> Any:
        return self._give(self._finishing)

    def too_late(self, _pending: Any) -> Any:
        return self._give(self._finishing)

    @staticmethod
    def _give(outcome: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class FakePending(Pending):
    """A pending decision that is ready at once, fails, or is never ready."""

    def __init__(self, error: Exception | None = None, *, never: bool = False) -> None:
        self.error = error
        self.never = never

    async def ready(self) -> None:
        if self.never:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # unlike its base, this class is not frozen


@pytest.fixture
def log() -> io.StringIO:
    """The log, as the program writes it."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    return stream


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


ALLOW = Allow(Reason.OK, "everything")


# Good tokens, and no others.


@in_virtual_time
async def test_a_good_token_is_let_through_with_the_headers_of_its_claims() -> None:
    answer = await Sidecar(FakeSource(jwks("a"))).check(check_request(token=signed("a", scope="b a")))
    assert answer.reason == "ok"
    assert answer.headers == {
        "x-auth-subject": "alice",
        "x-auth-issuer": ISSUER,
        "x-auth-client": "app",
        "x-auth-scopes": "a b",
    }


@in_virtual_time
async def test_a_known_key_decides_without_a_task_switch() -> None:
    sidecar = Sidecar(FakeSource(jwks("a")))
    await sidecar.check(check_request(token=signed("a")))
    for token in (signed("a"), signed("a", sub="bob"), signed("a", aud="another"), "bad"):
        deciding = sidecar.servicer.check(check_request(token=token), None)
        with pytest.raises(StopIteration):
            deciding.send(None)


def _encoded(part: object) -> str:
    octets = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _forged(header: dict[str, Any], key: bytes | None = None) -> str:
    """A token with good claims, which the issuer's key did not sign."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "client_id": "app", "exp": EPOCH + 300}
    signing_input = f"{_encoded(header)}.{_encoded(claims)}"
    signature = hmac.new(key, signing_input.encode(), hashlib.sha256).digest() if key else b""
    return f"{signing_input}.{_encoded(signature)}"


_PUBLIC_PEM = private_key("a").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
_GOOD = signed("a")
HOSTILE_TOKENS = [
    _forged({"alg": "none"}),
    _forged({"alg": "none", "kid": "a"}),
    _forged({"alg": "HS256", "kid": "a"}, _PUBLIC_PEM),
    _forged({"alg": "HS256", "kid": "a"}, jwks("a")),
    _forged({"alg": "ES256", "kid": "a"}, _PUBLIC_PEM),
    _forged({"alg": "ES256"}),
    _forged({"alg": "ES256", "kid": "../../dev/null"}),
    _forged({"alg": "ES256", "jwk": {"kty": "oct", "k": "AA"}}),
    _forged({"alg": ["ES256"], "kid": "a"}),
    _forged({"alg": "ES256", "kid": "a", "crit": ["exp"]}),
    jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": EPOCH + 300}, private_key("mallory"), "ES256", {"kid": "a"}),
    _GOOD[:-1],
    _GOOD[:-4] + "AAAA",
    _GOOD + "=",
    _GOOD + "." + _GOOD,
    _GOOD + "," + _GOOD,
    _GOOD.replace(".", "..", 1),
    f"{_GOOD}\n",
    f"\u00a0{_GOOD}",
    "",
    ".",
    "..",
    "....",
    "x" * 20_000,
    "\u00ff" * 1000,
]


@pytest.mark.parametrize("token", HOSTILE_TOKENS, ids=lambda token: ascii(token[:40]))
@in_virtual_time
async def test_a_forged_or_mangled_token_is_denied(token: str) -> None:
    answer = await Sidecar(FakeSource(jwks("a"))).check(check_request(token=token))
    assert not answer.allowed
    assert answer.http_status in {400, 401}


# Any input at all.


@in_virtual_time
async def _denied(data: bytes, source: FakeSource, time_remaining: float | None = None) -> None:
    sidecar = Sidecar(source)
    answer = await sidecar.check(data, time_remaining)
    assert not answer.allowed
    assert answer.http_status != 500
    assert all(fits_a_header(value) for value in answer.headers.values())
    assert sidecar.metrics.in_flight == 0


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * (MAX_REQUEST + 1))
def test_any_bytes_are_denied(data: bytes) -> None:
    _denied(data, FakeSource(jwks("a")))


_NAMES = st.one_of(
    st.sampled_from(
        ["authorization", "Authorization", "AUTHORIZATION", "x-auth-subject", "X_Auth_Subject", ":path", "cookie", ""]
    ),
    st.text(max_size=10),
)
_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["/", "/v1/a?b", "//", "/..", "/%2e%2e/", "/%", "*", "GET", "OPTIONS", "a\r\nb: c", "\x00", "x" * 70_000]
    ),
)
_CREDENTIALS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["Bearer ", "bearer ", "BEARER  ", "Bearer", "Bearer,", "Basic ", "", "\t", "Bearer a, Bearer "]),
    st.one_of(st.sampled_from(HOSTILE_TOKENS), st.text(max_size=20)),
    st.sampled_from(["", " ", "\x00", ", Basic x", ",Bearer "]),
)
_VALUES = st.one_of(_TEXTS, _CREDENTIALS)
_EXTENSIONS = st.dictionaries(_TEXTS, _TEXTS, max_size=2)


@st.composite
def check_requests(draw: st.DrawFn) -> bytes:
    """A CheckRequest with any part absent, empty, huge or hostile, but without a good token."""
    request = CheckRequest()
    attributes = request.attributes
    http = attributes.request.http
    for name in draw(st.sets(st.sampled_from(["method", "host", "path", "scheme", "query", "fragment", "protocol"]))):
        setattr(http, name, draw(_TEXTS))
    for name, value in draw(st.dictionaries(_NAMES, _VALUES, max_size=4)).items():
        http.headers[name] = value
    for name, value, octets in draw(st.lists(st.tuples(_NAMES, _VALUES, st.binary(max_size=20)), max_size=4)):
        http.header_map.headers.add(key=name, value=draw(st.sampled_from(["", value])), raw_value=octets)
    http.size = draw(st.integers(-(1 << 63), (1 << 63) - 1))
    http.raw_body = draw(st.binary(max_size=20))
    attributes.context_extensions.update(draw(_EXTENSIONS))
    attributes.source.principal = draw(_TEXTS)
    attributes.source.address.socket_address.port_value = draw(st.integers(0, (1 << 32) - 1))
    return request.SerializeToString()


@settings(max_examples=300, deadline=None)
@given(check_requests(), st.sampled_from([jwks("a"), None]), st.sampled_from([None, 0.0, 0.2, -1.0, 1e9]))
def test_any_request_without_a_good_token_is_denied(
    data: bytes, published: bytes | None, time_remaining: float | None
) -> None:
    _denied(data, FakeSource(published), time_remaining)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["iss", "aud", "sub", "exp", "nbf", "iat", "scope", "scp", "client_id", "azp", "typ", "events"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_any_claims_signed_by_the_issuer_are_answered_without_an_internal_error(claims: dict[str, Any]) -> None:
    _answered_without_internal_error(check_request(token=signed("a", **claims)))


@in_virtual_time
async def _answered_without_internal_error(data: bytes) -> None:
    answer = await Sidecar(FakeSource(jwks("a"))).check(data)
    assert answer.http_status != 500
    assert all(fits_a_header(value) or answer.allowed for value in answer.headers.values())
    assert not any(set(value) & set("\r\n\x00") for value in answer.headers.values())


@in_virtual_time
async def test_a_request_is_decoded_up_to_the_allowed_size_and_denied_beyond_it() -> None:
    sidecar = Sidecar(FakeSource(jwks("a")))
    data = check_request(token=signed("a"))
    largest = data + padding(MAX_REQUEST - len(data))
    assert (await sidecar.check(largest)).reason == "ok"
    answer = await sidecar.check(data + padding(MAX_REQUEST - len(data) + 1))
    assert (answer.http_status, answer.reason) == (400, "malformed_request")


# Internal errors.

ERRORS: list[Exception] = [
    ValueError(SECRET),
    KeyError(SECRET),
    MemoryError(SECRET),
    RecursionError(SECRET),
    AssertionError(SECRET),
    StopIteration(SECRET),
    StopAsyncIteration(SECRET),
    OSError(SECRET),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    Rejected(Reason.MALFORMED_TOKEN, SECRET),
    ExceptionGroup(SECRET, [ValueError(SECRET)]),
]


def assert_last_resort(answer: Answer) -> None:
    assert not answer.allowed
    assert (answer.http_status, answer.reason) == (500, "internal_error")
    assert SECRET not in json.dumps(answer.problem)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["begin", "ready", "finish", "too_late"])
@in_virtual_time
async def test_any_exception_is_an_internal_error_and_logged_without_its_message(
    error: Exception, where: str, log: io.StringIO
) -> None:
    authorizer = {
        "begin": FakeAuthorizer(error),
        "ready": FakeAuthorizer(FakePending(error), ALLOW),
        "finish": FakeAuthorizer(FakePending(), error),
        "too_late": FakeAuthorizer(FakePending(never=True), error),
    }[where]
    metrics = Metrics(transport="grpcio")
    answer = read(await servicer_over(authorizer, metrics=metrics).check(check_request(path="/x"), None))
    assert_last_resort(answer)
    failure, decision = lines(log)
    assert failure["event"] == "decision failed"
    assert any(f"{type(error).__name__} at" in link and "test_servicer" in link for link in failure["exception"])
    assert decision["reason"] == "internal_error"
    assert decision["path"] == "/x"
    assert SECRET not in log.getvalue()
    assert "s3cret" not in log.getvalue()
    assert metrics.in_flight == 0
    labels = {"decision": "deny", "reason": "internal_error", "rule": "-", "mode": "enforce"}
    assert sample_value(metrics, "authz_checks_total", labels) == 1


@pytest.mark.parametrize(
    "outcome", [None, "allow", True, object(), 7], ids=["none", "string", "true", "object", "number"]
)
@in_virtual_time
async def test_an_authorizer_that_returns_anything_but_a_decision_is_an_internal_error(outcome: Any) -> None:
    assert_last_resort(read(await servicer_over(FakeAuthorizer(outcome)).check(b"", None)))


class Broken:
    """Every call to it fails."""

    in_flight = 0

    def __getattr__(self, name: str) -> Any:
        def fail(*_arguments: Any, **_named: Any) -> NoReturn:
            raise ZeroDivisionError(SECRET)

        return fail


@pytest.mark.parametrize("part", ["metrics", "decision_log"])
@pytest.mark.parametrize("outcome", [ALLOW, Deny(Reason.NO_RULE), ValueError(SECRET)], ids=["allow", "deny", "error"])
@in_virtual_time
async def test_when_logging_or_metrics_fail_the_response_is_still_an_explicit_denial(
    part: str, outcome: Any, log: io.StringIO
) -> None:
    answer = read(await servicer_over(FakeAuthorizer(outcome), **{part: Broken()}).check(b"", None))
    assert_last_resort(answer)
    assert "s3cret" not in log.getvalue()


@in_virtual_time
async def test_when_logging_and_metrics_all_fail_the_response_is_a_denial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servicer = servicer_over(FakeAuthorizer(ValueError(SECRET)), metrics=Broken(), decision_log=Broken())
    monkeypatch.setattr(servicer, "_logger", Broken())
    assert_last_resort(read(await servicer.check(b"", None)))


@in_virtual_time
async def test_a_decision_that_cannot_be_encoded_is_an_internal_error() -> None:
    for unfit in (
        Allow(Reason.OK, "r", headers=(("x-a", "\ud800"),)),
        Allow(Reason.OK, "r", remove=("\ud800",)),
        Allow(Reason.OK, "\ud800"),
        Deny(Reason.OK, "r"),
        Deny(Reason.NO_RULE, challenges=("\ud800",)),
    ):
        assert_last_resort(read(await servicer_over(FakeAuthorizer(unfit)).check(b"", None)))


@in_virtual_time
async def test_the_last_resort_of_a_grpc_call_is_a_grpc_status() -> None:
    request = check_request(headers={"content-type": "application/grpc"})
    answer = read(await servicer_over(FakeAuthorizer(ValueError(SECRET))).check(request, None))
    assert (answer.http_status, answer.headers["grpc-status"]) == (500, "13")
    assert answer.grpc_message == "The request could not be authorized"


@in_virtual_time
async def test_a_clock_that_fails_is_an_internal_error() -> None:
    def stopped() -> float:
        raise OSError

    assert_last_resort(read(await servicer_over(FakeAuthorizer(ALLOW), clock=stopped).check(b"", None)))


# Deadlines.


@pytest.mark.parametrize(
    ("time_remaining", "budget"),
    [(None, 1.0), (0.2, 0.15), (0.05, 0.0), (1.0, 0.9), (2.0, 1.0), (1e9, 1.0), (0.0, 0.0), (-5.0, 0.0), (1e-9, 0.0)],
)
@in_virtual_time
async def test_while_keys_are_being_fetched_the_denial_comes_within_the_budget(
    time_remaining: float | None, budget: float
) -> None:
    source = FakeSource(jwks("a"))
    source.pause()
    sidecar = Sidecar(source)
    answer = await sidecar.check(check_request(token=signed("a")), time_remaining)
    assert (answer.http_status, answer.reason) == (503, "deadline_exceeded")
    assert answer.metadata["rule"] == "everything"
    assert answer.headers["retry-after"] == "1"
    assert asyncio.get_running_loop().time() == pytest.approx(budget)
    source.resume()
    await sidecar.keys.refresh()


@in_virtual_time
async def test_a_fetch_that_is_too_late_for_one_request_serves_the_next() -> None:
    source = FakeSource(jwks("a"))
    source.pause()
    sidecar = Sidecar(source)
    first, second = (asyncio.create_task(sidecar.check(check_request(token=signed("a")), each)) for each in (0.1, 1.0))
    assert (await first).reason == "deadline_exceeded"
    source.resume()
    assert (await second).reason == "ok"
    assert source.fetches == 1


@in_virtual_time
async def test_while_the_provider_is_down_tokens_are_503_and_not_401() -> None:
    sidecar = Sidecar(FakeSource(None))
    for _ in range(3):
        answer = await sidecar.check(check_request(token=signed("a")))
        assert (answer.http_status, answer.reason) == (503, "keys_unavailable")
        assert int(answer.headers["retry-after"]) >= 1


@in_virtual_time
async def test_a_hanging_provider_delays_only_requests_that_need_it() -> None:
    source = FakeSource(jwks("a"))
    sidecar = Sidecar(source)
    await sidecar.keys.refresh()
    source.pause()
    waiting = asyncio.create_task(sidecar.check(check_request(token=signed("unknown"))))
    await source.fetch_started.wait()
    assert (await sidecar.check(check_request(token=signed("a", sub="bob")))).reason == "ok"
    assert sidecar.metrics.in_flight == 1
    assert asyncio.get_running_loop().time() == 0
    assert (await waiting).reason == "deadline_exceeded"
    source.resume()
    await sidecar.keys.refresh()


@in_virtual_time
async def test_only_a_cancelled_call_ends_without_a_response() -> None:
    metrics = Metrics(transport="grpcio")
    servicer = servicer_over(FakeAuthorizer(FakePending(never=True)), metrics=metrics)
    call = asyncio.create_task(servicer.check(b"", None))
    await asyncio.sleep(0.5)
    assert metrics.in_flight == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert metrics.in_flight == 0


@in_virtual_time
async def test_a_waiting_call_keeps_its_headers_and_not_its_message() -> None:
    pending = FakePending()
    waiting = servicer_over(FakeAuthorizer(pending, ALLOW)).answer(check_request(headers={"x-a": "b"}), None)
    assert type(pending.attributes.headers) is dict
    assert pending.attributes.headers["x-a"] == "b"
    assert not isinstance(waiting, bytes)
    assert read(await waiting).reason == "ok"


# Logs and metrics.


@in_virtual_time
async def test_every_decision_is_counted_and_logged_under_the_id_that_envoy_gets(log: io.StringIO) -> None:
    sidecar = Sidecar(FakeSource(jwks("a")))
    answers = [
        await sidecar.check(check_request(token=signed("a"))),
        await sidecar.check(check_request()),
        await sidecar.check(check_request(path="//")),
        await sidecar.check(b"\xff"),
    ]
    logged = [line for line in lines(log) if line["event"] == "decision"]
    assert [line["decision_id"] for line in logged] == [answer.metadata["decision_id"] for answer in answers]
    assert [line["reason"] for line in logged] == ["ok", "missing_token", "ambiguous_path", "malformed_request"]
    assert len({line["decision_id"] for line in logged}) == len(answers)
    for answer in answers:
        labels = {"decision": answer.metadata["decision"], "reason": answer.reason, "mode": "enforce"}
        labels["rule"] = answer.metadata["rule"]
        assert sample_value(sidecar.metrics, "authz_checks_total", labels) == 1


@in_virtual_time
async def test_no_token_and_no_query_is_ever_logged(log: io.StringIO) -> None:
    sidecar = Sidecar(FakeSource(jwks("a")))
    for token in (signed("a"), signed("unknown"), signed("a", aud="another"), "s3cret"):
        await sidecar.check(check_request(path="/x?access_token=s3cret", token=token))
        assert not any(part in log.getvalue() for part in token.split(".") if len(part) > 20)
    assert "s3cret" not in log.getvalue()
    assert "access_token" not in log.getvalue()


@pytest.mark.parametrize(
    ("denial", "status", "reason"),
    [
        (codec.deny_malformed("a cause"), 400, "malformed_request"),
        (codec.deny_overloaded("a cause"), 503, "deadline_exceeded"),
        (INTERNAL_ERROR._replace(cause="a cause"), 500, "internal_error"),
    ],
)
async def test_a_denial_by_the_transport_is_logged_and_counted_like_any_other(
    denial: Deny, status: int, reason: str, log: io.StringIO
) -> None:
    servicer = servicer_over(FakeAuthorizer(ALLOW), metrics=(metrics := Metrics(transport="any")))
    answer = read(servicer.refuse(denial))
    assert (answer.http_status, answer.reason) == (status, reason)
    (logged,) = lines(log)
    assert (logged["decision_id"], logged["reason"], logged["cause"]) == (
        answer.metadata["decision_id"],
        reason,
        "a cause",
    )
    labels = {"decision": "deny", "reason": reason, "rule": "-", "mode": "enforce"}
    assert sample_value(metrics, "authz_checks_total", labels) == 1


async def test_a_denial_by_the_transport_is_sent_even_if_it_cannot_be_logged() -> None:
    class Broken:
        def write(self, *_arguments: object) -> NoReturn:
            raise RuntimeError

    servicer = servicer_over(FakeAuthorizer(ALLOW), decision_log=Broken())
    assert_last_resort(read(servicer.refuse(codec.deny_malformed("a cause"))))


def test_the_response_of_last_resort_is_encoded_before_anything_can_fail() -> None:
    assert_last_resort(read(servicer_module._LAST_RESORT))
