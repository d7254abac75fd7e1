"""The ids of a request are those of its headers if they are well-formed, and otherwise absent."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.core.correlation import MAX_REQUEST_ID, NO_CORRELATION, Correlation, correlation_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
MALFORMED = (  # among them the cases of the W3C's validation suite
    "",
    f"{GOOD}-what-the-future-will-not-be-like",
    f"{GOOD}\n",
    f" {GOOD}",
    f"{GOOD},{GOOD}",
    GOOD.upper(),
    GOOD[:-1],
    GOOD[:-3],
    f"ff-{TRACE}-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01.what",
    f"cc-{TRACE}-{SPAN}-01\n",
    f"0-{TRACE}-{SPAN}-01",
    f".0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE[:-1]}.-{SPAN}-01",
    f"00-{TRACE}-{SPAN[:-1]}-01",
    f"00-{TRACE}-{SPAN}-.0",
    f"00-{TRACE}-{SPAN}-\uff10\uff11",
)


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_the_ids_and_the_flag_of_a_traceparent_are_read(traceparent: str, sampled: bool) -> None:  # noqa: FBT001
    assert correlation_of({"traceparent": traceparent}) == Correlation("", TRACE, SPAN, sampled)


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_the_span_of_the_caller_precedes_that_of_its_client_unless_it_is_malformed(traceparent: str) -> None:
    callers = f"00-{TRACE[::-1]}-{SPAN[::-1]}-00"
    assert correlation_of({"traceparent": GOOD}, callers) == Correlation("", TRACE[::-1], SPAN[::-1])
    assert correlation_of({}, callers) == Correlation("", TRACE[::-1], SPAN[::-1])
    assert correlation_of({"traceparent": GOOD}, traceparent) == correlation_of({"traceparent": GOOD})
    assert correlation_of({}, traceparent) is NO_CORRELATION


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_traceparent_counts_as_absent(traceparent: str) -> None:
    assert correlation_of({"traceparent": traceparent}) is NO_CORRELATION


@pytest.mark.parametrize("request_id", ["7", "8f4b2a4e-5e8e-9c1e-8f6f-0a1b2c3d4e5f", "Root=1-67891233-abc;", "a+b/c=="])
def test_a_request_id_is_kept_if_it_is_well_formed(request_id: str) -> None:
    assert correlation_of({"x-request-id": request_id}).request_id == ("" if ";" in request_id else request_id)


@pytest.mark.parametrize(
    "request_id", ["", "a b", "a,b", "a\n", 'a"', "\u00e9", "x" * (MAX_REQUEST_ID + 1), "<a>", "%0a"]
)
def test_another_request_id_counts_as_absent(request_id: str) -> None:
    assert correlation_of({"x-request-id": request_id}) is NO_CORRELATION
    assert correlation_of({"x-request-id": request_id, "traceparent": GOOD}).request_id == ""


@example(GOOD, "1")
@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*"), st.text())
def test_whatever_is_sent_the_ids_are_harmless(traceparent: str, request_id: str) -> None:
    found = correlation_of({"traceparent": traceparent, "x-request-id": request_id})
    assert re.fullmatch(r"(?:[0-9a-f]{32})?", found.trace_id)
    assert re.fullmatch(r"(?:[0-9a-f]{16})?", found.span_id)
    assert bool(found.trace_id) == bool(found.span_id) >= found.sampled
    assert found.request_id in {"", request_id}
    assert re.fullmatch(r"[!-~]{0,100}", found.request_id)
