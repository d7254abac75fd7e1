"""Failures, the circuit breaker's changes and the recovery are logged, each kind at most once a minute."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from authz_service.tokens.introspection.breaker import FAILURES_TO_PROBE, CircuitBreaker
from authz_service.tokens.introspection.client import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.introspection.outage_log import OutageLog
from support.fake_introspection import failure

if TYPE_CHECKING:
    from authz_service.core.errors import FetchFailed


class Outage:
    """An outage log whose timer the test sets."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "authz.introspection")
        self._caplog = caplog
        self.now = 0.0
        self.log = OutageLog(logging.getLogger("authz.introspection"), "main", lambda: self.now)

    def events(self) -> list[tuple[str, str]]:
        """Level and event of what was logged since the last call."""
        events = [(record.levelname, record.message) for record in self._caplog.records]
        self._caplog.clear()
        return events


@pytest.fixture
def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    return Outage(caplog)


def test_each_kind_of_failure_is_logged_once_a_minute(outage: Outage) -> None:
    for now, logged in ((0.0, 2), (59.9, 0), (60.0, 2)):
        outage.now = now
        for _ in range(3):
            outage.log.log_failure(failure())
            outage.log.log_failure(RequestRefused("status 400"))
        assert outage.events() == [("WARNING", "introspection failed")] * logged


@pytest.mark.parametrize(
    ("cause", "event"),
    [
        (ClientRefused("status 401"), ("ERROR", "the introspection server rejects this client")),
        (Forbidden("status 403"), ("ERROR", "the introspection server rejects this client")),
        (failure("status 500"), ("WARNING", "introspection failed")),
    ],
)
def test_a_forbidden_probe_means_that_the_client_is_rejected(
    outage: Outage, cause: FetchFailed, event: tuple[str, str]
) -> None:
    outage.log.log_failed_probe(cause)
    assert outage.events() == [event]


def test_recovery_is_logged_after_several_responses_in_a_row(outage: Outage) -> None:
    outage.log.log_failure(failure())
    for _ in range(4):
        outage.log.log_response()
    outage.log.log_failure(failure())
    for _ in range(4):
        outage.log.log_response()
    assert outage.events() == [("WARNING", "introspection failed")]
    for _ in range(10):
        outage.log.log_response()
    assert outage.events() == [("INFO", "introspection recovered")]


def test_the_breaker_is_logged_when_it_opens_and_when_it_closes(outage: Outage) -> None:
    breaker = CircuitBreaker()
    outage.log.log_state(breaker)
    for number in range(FAILURES_TO_PROBE):
        permit = breaker.permit(0.0, proven=False, max_wait=0.0)
        assert permit is not None
        breaker.record_failure(permit, bytes([number]), urgent=False)
    probe = breaker.permit_probe(0.0)
    assert probe is not None
    breaker.record_probe(probe, 0.0, responded=False)
    for _ in range(3):
        outage.log.log_state(breaker)
    assert outage.events() == [("WARNING", "introspection paused: the circuit breaker is open")]
    outage.now = breaker.wait(0.0)
    attempt = breaker.permit(outage.now, proven=False, max_wait=0.0)
    assert attempt is not None
    breaker.record_response(attempt)
    for _ in range(3):
        outage.log.log_state(breaker)
    assert outage.events() == [("INFO", "introspection resumed: the circuit breaker is closed")]


def test_a_fault_is_logged_with_its_traceback(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.log.log_fault(ZeroDivisionError())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
