"""MCP headers: which revisions send them, how values are encoded, and what cannot be read in one way."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import Rejected
from authz_service.core.mcp import McpCondition, McpHeaders

NEW = {"mcp-protocol-version": "2026-07-28"}
CALL = NEW | {"mcp-method": "tools/call"}


def why_not(headers: dict[str, str], *methods: str, names: tuple[str, ...] | None = None) -> str | None:
    return McpHeaders(headers).why_not(McpCondition(methods or ("*",), names))


@pytest.mark.parametrize("version", ["2026-07-28", "2026-07-29", "2026-12-01", "2027-01-01", " 2026-07-28\t"])
def test_a_condition_applies_from_its_revision_on(version: str) -> None:
    assert why_not(CALL | {"mcp-protocol-version": version}) is None


@pytest.mark.parametrize(
    "version", ["", "2026-07-27", "2025-11-25", "2026-7-28", "2026-13-01", "2027-01-32", "DRAFT-2027",
     "\uff12026-12-01", "2027-01-01x"]
)  # fmt: skip
def test_an_older_or_malformed_revision_does_not_match_and_its_headers_are_not_read(version: str) -> None:
    assert why_not({"mcp-protocol-version": version, "mcp-method": "a,b"}) is not None
    assert why_not({"mcp-method": "a,b"}) is not None


@given(st.text(min_size=1))
def test_any_name_is_compared_after_decoding(name: str) -> None:
    encoded = f"=?base64?{b64encode(name.encode()).decode()}?="
    assert why_not(CALL | {"mcp-name": encoded}, names=(name.rstrip("*") + "*",)) is None
    assert why_not(CALL | {"mcp-name": encoded}, names=(f"{name}x",)) is not None


@pytest.mark.parametrize(
    "value",
    [
        "", "a,b", "a, a", "é", "a\x00", "a\ufffd", "=?base64??=", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?YQ==",
        "=?base64?Y Q==?=", "=?base64?_w==?=", "=?base64?/w==?=", "=?BASE64?YQ==?=", "=?base64?YQ==?=x",
        "=?base64?7aCA?=",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_in_one_way_is_malformed(value: str) -> None:
    for headers in (NEW | {"mcp-method": value}, CALL | {"mcp-name": value}):
        with pytest.raises(Rejected, match="mcp-") as rejected:
            why_not(headers, names=("*",))
        assert rejected.value.reason == "malformed_request"


@pytest.mark.parametrize(
    "headers",
    [
        NEW,
        CALL,
        CALL | {"mcp_name": "a"},
        CALL | {"mcp-name": "a", "mcp_name": "b"},
        CALL | {"mcp-name": "a", "mcp_method": "tools/call"},
        CALL | {"mcp-name": "a", "mcp_protocol_version": "2025-11-25"},
        CALL | {"mcp-name": "a", "mcp-protocol-version": "2026-07-28,2025-11-25"},
    ],
)
def test_a_missing_header_another_spelling_or_two_versions_are_malformed(headers: dict[str, str]) -> None:
    with pytest.raises(Rejected, match="mcp-"):
        why_not(headers, names=("*",))


def test_the_name_is_read_only_if_the_method_matches() -> None:
    assert why_not(CALL | {"mcp-name": "a,b"}, "prompts/get", names=("a",)) == "the Mcp-Method is another one"


_PATTERNS = st.lists(
    st.text("ab", max_size=2).flatmap(lambda t: st.sampled_from([f"{t}*", t or "a"])), min_size=1, max_size=3
)
_CONDITIONS = st.builds(McpCondition, _PATTERNS.map(tuple), st.none() | _PATTERNS.map(tuple))


@given(_CONDITIONS, _CONDITIONS, st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3))
def test_inclusion_and_overlap_agree_with_matching(
    one: McpCondition, other: McpCondition, method: str, name: str
) -> None:
    headers = McpHeaders(NEW | {"mcp-method": method, "mcp-name": name})
    first, second = headers.why_not(one) is None, headers.why_not(other) is None
    assert first or not (second and one.includes(other))
    assert one.overlaps(other) or not (first and second)
